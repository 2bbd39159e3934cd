"""Show help in panels: related options together, options for experts on request."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Annotated, Any, Final

import typer

from dentbench.cli.names import filled

PANELS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "Model and data": (
            *("--model", "--dataset", "--examples", "--normalize", "--arch", "--expect-clean"),
            *("--data-name", "--data-dir", "--preprocess", "--first", "--order", "--corruption"),
            *("--severity", "--force"),
        ),
        "Defense": (
            *("--defense", "--mode", "--steps", "--loss", "--lr", "--blur", "--steps-grid"),
            *("--statistics", "--delta", "--layers", "--sigma", "--padding", "--optimizer"),
            *("--sigma-lr", "--set"),
        ),
        "Attack and protocols": (
            *("--attack", "--protocol", "--norm", "--eps", "--eps-grid", "--threat"),
            *("--iterations", "--targets", "--queries", "--protocol-set", "--no-cascade"),
            *("--batching", "--precision", "--seed"),
        ),
        "Run": (
            *("--config", "--from-record", "--table", "--batch-size", "--dry-run", "--until"),
            *("--time-limit", "--pass-limit", "--rounds"),
            *("--device", "--workers", "--threads", "--executor", "--address", "--compile"),
            *("--fresh", "--time"),
        ),
        "Output": (
            *("--results", "--quiet", "--json", "--progress", "--require-gain"),
            *("--save-adversarial", "--diagnostics"),
        ),
        "Cache": ("--cache", "--offline", "--mirror"),
    }
)
"""The options of ``evaluate``, ``ablate`` and ``judge`` by subject, common ones first."""

EXPERT: Final = frozenset(
    {
        *("--expect-clean", "--data-name", "--data-dir", "--preprocess", "--first", "--order"),
        *("--statistics", "--delta", "--layers", "--sigma", "--padding", "--optimizer"),
        *("--sigma-lr", "--set", "--iterations", "--targets", "--queries", "--protocol-set"),
        *("--no-cascade", "--batching", "--precision", "--threads", "--executor", "--address"),
        *("--compile", "--force", "--diagnostics", "--mirror", "--corruption"),
        *("--severity", "--steps-grid", "--fresh", "--rounds"),
    }
)
"""The options that ``--help`` leaves to ``--help-all``."""

_ALL: Final = "dentbench.help-all"


def _show_all(context: typer.Context, wanted: bool) -> None:
    if wanted and not context.resilient_parsing:
        context.meta[_ALL] = True
        typer.echo(context.get_help())
        raise typer.Exit


HelpAll = Annotated[
    bool,
    typer.Option(
        "--help-all",
        is_eager=True,
        callback=_show_all,
        help="Show this message with every option and exit.",
    ),
]


class PanelCommand(typer.core.TyperCommand):
    """A command whose options are listed in panels, experts' on request."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write a panel for each subject, and all other options under "Options"."""
        everything = bool(ctx.meta.get(_ALL))
        left = {param.opts[0]: param for param in self.get_params(ctx) if param.opts}
        hidden = 0
        for title, names in PANELS.items():
            known = [name for name in names if name in left]
            shown = [name for name in known if everything or name not in EXPERT]
            hidden += len(known) - len(shown)
            _write(ctx, formatter, title, [left.pop(name) for name in known if name in shown])
            for name in known:
                left.pop(name, None)
        _write(ctx, formatter, "Options", list(left.values()))
        if hidden:
            formatter.write_paragraph()
            formatter.write_text(f"{hidden} more options: {ctx.command_path} --help-all")


def _write(ctx: Any, formatter: Any, title: str, params: list[Any]) -> None:
    rows = [row for row in _rows(ctx, params) if row is not None]
    if rows:
        with formatter.section(title):
            formatter.write_dl(rows)


def _rows(ctx: Any, params: list[Any]) -> Iterator[tuple[str, str] | None]:
    for param in params:
        record = param.get_help_record(ctx)
        yield None if record is None else (record[0], filled(record[1]))
