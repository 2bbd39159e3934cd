"""The report as one HTML page that needs nothing else: verdicts, charts, images, tables.

No script and no address in it: the page forbids itself both. The template engine escapes all texts
but those of our own renderers.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from dentbench.attacks.checks import failed
from dentbench.records.outcome import Record
from dentbench.report import charts, departures, run_details
from dentbench.report.chart import COLORS, ROLES, Chart
from dentbench.report.formats.escape import printable
from dentbench.report.formats.html import to_html
from dentbench.report.formats.svg import to_svg
from dentbench.report.next_step import next_step
from dentbench.report.pairing import Pair, pair_up
from dentbench.report.table import Column, Table
from dentbench.report.tables.cells import NOT_ROBUSTBENCH, WORST
from dentbench.report.verdict import Kind, Verdict

SECTIONS: Final = 60
"""The most evaluations that have sections of their own: the last evaluations."""


@dataclass(frozen=True)
class FailedCheck:
    """A failed check of a record, or of its static model: its name and its sentence."""

    name: str
    text: str


@dataclass(frozen=True)
class Section:
    """An evaluation on the page: its verdict, failed checks, charts, tables and images."""

    anchor: str
    heading: str
    subheading: str
    pair: Pair
    next: str
    checks: tuple[FailedCheck, ...]
    charts: tuple[Chart, ...]
    tables: tuple[Table, ...]
    specimens: tuple[run_details.Specimen, ...]


def to_page(records: Sequence[Record], tables: Sequence[Table], results: Path) -> str:
    """Return the page of records and tables; images are those kept in the folder ``results``."""
    pairs = pair_up(records)
    shown = charts.shown_pairs(pairs)
    sections = [_section(pair, results) for pair in reversed(shown[-SECTIONS:])]
    template = _environment().get_template("page.html.jinja")
    text: str = template.render(
        records=records,
        sections=sections,
        hidden=len(shown) - len(sections),
        answer=answer([pair.verdict for pair in shown]),
        signs=SIGNS,
        curves=[*charts.over_eps(pairs), *charts.over_steps(pairs)],
        tables=tables,
        provenance=provenance(records),
        notes=(WORST, NOT_ROBUSTBENCH),
        roles=ROLES,
        colors=COLORS,
        titles=TITLES,
        latest=_minute(max((record.time for record in records), default="")),
    )
    return text


SIGNS: Final[Mapping[Kind, str]] = MappingProxyType(
    {"holds": "\u2713", "weaker than static": "\u2717", "no gain": "=", "undecided": "?"}
)
"""A sign for every verdict, for those who do not tell its color."""


TITLES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "accuracy": "Accuracies",
        "protocols": "Under each protocol",
        "broke": "First to break each image",
    }
)
"""The title of each kind of chart of an evaluation, which stands below the evaluation's own."""


def _minute(time: str) -> str:
    """Return a record's time to the minute, as people write it; any other text as it is."""
    try:
        return f"{datetime.fromisoformat(time).astimezone(UTC):%Y-%m-%d %H:%M} UTC"
    except ValueError:
        return time


@lru_cache  # many records were made with few
def _versions(text: str) -> str:
    return ", ".join(f"{name} {value}" for name, value in json.loads(text).items())


_OPTION: Final = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
"""An option in a sentence or command; a browser would break its line after the dashes."""


def answer(verdicts: Sequence[Verdict]) -> str:
    """Return the first line of the page: how many defenses hold, and the verdicts on the others."""
    if not verdicts:
        return ""
    kinds = Counter(verdict.kind for verdict in verdicts)
    held, total = kinds.pop("holds", 0), len(verdicts)
    first = f"{held} of {total} hold{'s' if total == 1 else ''}"
    rest = ", ".join(f"{kinds[kind]} {kind}" for kind in SIGNS if kinds.get(kind))
    return f"{first}: {rest}." if rest else f"{first}."


def _environment() -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup, escape

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: printable(value) if type(value) is str else value,
    )
    environment.filters["whole_options"] = lambda text: Markup(
        _OPTION.sub(r'<span class="option">\g<0></span>', str(escape(printable(text))))
    )
    environment.filters["svg"] = lambda chart: Markup(to_svg(chart))
    environment.filters["table"] = lambda table: Markup(to_html(table))
    return environment


def _section(pair: Pair, results: Path) -> Section:
    defended = pair.defended
    return Section(
        anchor=f"run-{defended.key}",
        heading=charts.heading(defended),
        subheading=charts.subheading(defended),
        pair=pair,
        next=next_step(pair.verdict, defended, results),
        checks=tuple(
            FailedCheck(f"{check.name}{of}", f"{whose} {check.name} failed: {check.sentence}.")
            for whose, of, record in (
                ("Check of the static model", " (static model)", pair.static),
                ("Check", "", defended),
            )
            for check in failed(record.checks)
        ),
        charts=tuple(run_details.charts_of(pair, results)),
        tables=tuple(run_details.tables_of(pair, results)),
        specimens=tuple(run_details.specimens(results, pair)),
    )


def provenance(records: Sequence[Record]) -> Table:
    """Return the origin of every record: time, model, defense, software and cost."""
    columns = (
        Column("run"),
        Column("time"),
        Column("model"),
        Column("defense"),
        Column("seed", "right"),
        Column("passes forward", "right"),
        Column("passes backward", "right"),
        Column("seconds", "right"),
        Column("device"),
        Column("versions"),
        Column("revision"),
        Column("SHA-256 of weights, code and data"),
    )
    rows = [
        [
            record.key,
            _minute(record.time),
            record.model,
            "none" if record.mode == "static" else departures.defense_name(record),
            record.seed,
            f"{record.forwards:,}",
            f"{record.backwards:,}",
            f"{record.seconds:.1f}",
            record.device,
            _versions(record.versions),
            record.git_revision,
            " ".join(
                sha256[:12]
                for sha256 in (record.model_sha256, record.model_code, record.data_sha256)
                if sha256
            ),
        ]
        for record in records
    ]
    return Table.of("Runs", columns, rows, stub=1)
