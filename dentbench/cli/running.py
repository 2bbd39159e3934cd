"""Carry out studies for ``evaluate`` and ``ablate``: watch, stop and show them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import typer

from dentbench.cli import json_output, signals
from dentbench.cli.dry_run import Refusal, show_estimates
from dentbench.containment import contained
from dentbench.errors import NOT_GAINED, SpecError, StoreError, os_reason
from dentbench.evaluation.progress.display_names import Display

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dentbench.evaluation.context import RunOptions
    from dentbench.evaluation.progress.events import Progress
    from dentbench.evaluation.workers.placement import Placement
    from dentbench.records.outcome import Record
    from dentbench.study.study import Study


Finished: TypeAlias = "list[tuple[Study, list[Record]]]"
"""Each study and its records, in the order of its specs."""


def carry_out(
    studies: Sequence[Study],
    options: RunOptions,
    display: Display,
    *,
    dry_run: bool,
    gpu: str | None = None,
    check: Refusal | None = None,
    as_json: bool = False,
) -> Finished:
    """Carry out studies in turn; a dry run prints their cost and ends the command.

    ``gpu``: the kind of GPU, such as "h100", that a dry run estimates times for; by default for
    this machine. ``check``: a check of the specs of the first study. ``as_json``: hand in the
    estimates of a dry run for the command's document.
    """
    from dentbench.cli.downloads import bring_lacking

    if dry_run and _CHECKING.get():
        raise typer.Exit
    if dry_run:  # without the weights and the images too: the cards know their shapes
        show_estimates(studies, options, gpu, check, as_json=as_json)
        raise typer.Exit
    bring_lacking(studies, options.fetch)
    _check_writable(options.results)
    if _CHECKING.get():
        _require_runnable(studies, options)
        raise typer.Exit
    with resumable(options.results):
        return list(_in_turn(studies, options, display, check))


_CHECKING: Final = ContextVar("checking", default=False)


@contextmanager
def checking() -> Iterator[None]:
    """Let commands check all that they would run, and run nothing."""
    token = _CHECKING.set(True)
    try:
        yield
    finally:
        _CHECKING.reset(token)


def _require_runnable(studies: Sequence[Study], options: RunOptions) -> None:
    from dentbench.study.loading import require_runnable

    with contained():
        require_runnable(studies, options)


def _in_turn(
    studies: Sequence[Study], options: RunOptions, display: Display, check: Refusal | None
) -> Iterator[tuple[Study, list[Record]]]:
    """Yield each study and its records; several are checked and planned together, first."""
    from dentbench.evaluation.estimates.time_forecast import planned
    from dentbench.evaluation.progress.display import shown_progress
    from dentbench.evaluation.progress.events import Whole
    from dentbench.study.loading import forecast, require_runnable, run_study

    attacked = any(not attack.is_none for study in studies for attack in study.attacks)
    together, whole = len(studies) > 1 and attacked, Whole()
    for number, study in enumerate(studies):
        with shown_progress(display, whole) as progress, contained():
            if together and not number:
                if progress is None:
                    require_runnable(studies, options)
                else:
                    expected = forecast(studies, options)
                    progress(planned(expected))
            shown = _without_plan(progress) if together and progress is not None else progress
            records = run_study(study, options, shown, None if number else check)
        yield study, records


def _without_plan(progress: Progress) -> Progress:
    """Return a callback that leaves out the plan of a single study."""
    from dentbench.evaluation.progress.events import Event, RunPlanned

    def shown(event: Event) -> None:
        if not isinstance(event, RunPlanned):
            progress(event)

    return shown


def _check_writable(results: Path) -> None:
    probe = results / ".writable"
    try:
        results.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise StoreError(
            f"results folder {results} cannot be written ({os_reason(error)}); choose another "
            "with --results"
        ) from error


def placement_of(
    device: str,
    executor: str,
    workers: str,
    threads: int | None,
    address: str | None,
    compiling: str,
) -> Placement:
    """Return where the work is done, once its devices are known to be there."""
    from dentbench.evaluation.workers.placement import Placement, device_named

    placement = Placement(
        executor=executor,
        devices=tuple(device_named(name.strip()) for name in device.split(",")),
        workers=_workers(workers),
        threads=threads,
        address=address,
        compiling=compiling,
    )
    if placement.threads is not None:
        import torch

        torch.set_num_threads(placement.threads)
    return placement


def _workers(text: str) -> int | Literal["auto"]:
    if text == "auto":
        return "auto"
    if not text.isdecimal() or not int(text):
        raise SpecError(f"workers is {text!r}; allowed: auto, or a whole number from 1")
    return int(text)


@contextmanager
def resumable(results: Path) -> Iterator[None]:
    """Turn Ctrl-C and SIGTERM into a message: finished batches are kept, and how to go on."""
    try:
        with signals.raised():
            yield
    except KeyboardInterrupt:
        raise signals.error(f"stopped; every finished batch is in {results / 'runs'}") from None


def by_attack(study: Study, records: Sequence[Record]) -> list[list[Record]]:
    """Return a study's records of each attack, the static record first."""
    size = len(records) // len(study.attacks)
    return [list(records[start : start + size]) for start in range(0, len(records), size)]


def compared(finished: Finished) -> list[tuple[Record, Record]]:
    """Return every defended record, in order, after its static record."""
    return [
        (static, defended)
        for study, records in finished
        for static, *others in by_attack(study, records)
        for defended in others
    ]


def each_steps(settings: Mapping[str, Any], grid: str | None) -> list[Mapping[str, Any]]:
    """Return dent's settings, or those with every number of steps of a grid, as written."""
    from dentbench.study.parsing import parse_steps_grid

    if grid is None:
        return [settings]
    if settings.get("steps") is not None:
        raise SpecError("--steps is given beside --steps-grid; choose one way to say it")
    return [{**settings, "steps": steps} for steps in parse_steps_grid(grid)]


def verdicts(finished: Finished, results: Path) -> list[dict[str, Any]]:
    """Return the verdict on every defended record, each against its own static record."""
    from dentbench.attacks.checks import failed
    from dentbench.report.next_step import next_step
    from dentbench.report.verdict import verdict

    verdicts = []
    for static, defended in compared(finished):
        if not defended.protocol:  # without an attack there is no verdict
            continue
        own = verdict(static, defended)
        of = {"model": static.model, "eps": static.eps, "norm": static.norm, "key": defended.key}
        of |= {"defense": defended.defense, "mode": defended.mode}
        checks = {
            f"failed_{whose}": [check.name for check in failed(record.checks)]
            for whose, record in (("static_checks", static), ("checks", defended))
        }
        step = next_step(own, defended, results)
        verdicts.append({**of, "steps": defended.steps, **asdict(own), **checks, "next": step})
    return verdicts


def require_gain(finished: Finished, points: float, results: Path) -> None:
    """End the command with exit code 3, and say why, unless every defense gains so many points."""
    from dentbench.report.next_step import next_step
    from dentbench.report.verdict import verdict

    pairs = [(defended, verdict(static, defended)) for static, defended in compared(finished)]
    short = [(defended, judged) for defended, judged in pairs if not judged.meets(points)]
    for defended, judged in short:
        typer.echo(
            f"required: a gain of {points:g} points that holds; found: {judged.kind}, "
            f"gain {judged.gain_points:+.1f} "
            f"({judged.gain_low:+.1f} to {judged.gain_high:+.1f}) points, "
            f"worst under {judged.protocol}",
            err=True,
        )
        if step := next_step(judged, defended, results):
            typer.echo(step, err=True)
    if short:
        raise typer.Exit(NOT_GAINED)


def print_json(finished: Finished, **more: list[Any]) -> None:
    """Hand in all records, and further output, for the command's JSON object."""
    records = [record for _, records in finished for record in records]
    json_output.add(records=list(map(json_output.of_record, records)), **more)
