"""``dentbench show`` and ``dentbench list``: all of a record, and a line of each record."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dentbench.cli import json_output, keys
from dentbench.cli.options import output

if TYPE_CHECKING:
    from rich.console import Console

    from dentbench.records.outcome import Record

_RESULTS = typer.Option("--results", metavar="DIR", help="Results folder.")


def show(
    key: Annotated[
        str,
        typer.Argument(
            metavar="KEY|latest",
            help="A record by its key, the beginning of it, FOLDER/KEY, or latest.",
            autocompletion=keys.complete,
            hidden=True,  # it is described above the options, without Python's type
        ),
    ],
    results: Annotated[Path, _RESULTS] = Path("results"),
    as_json: output.AsJson = False,
) -> None:
    """Show everything about one record: verdict, what to do next, checks, protocols, command.

    KEY is a record's key or the beginning of it, as summaries and dentbench list show it;
    FOLDER/KEY is one of another results folder; latest is the one written last.

    Examples:

    dentbench show latest

    dentbench show 1a2b3c4d --json
    """
    record, folder = keys.named(key, results)
    if as_json:
        json_output.print_document(_as_json(record, _static_of(record, folder), folder))
        return
    from rich.console import Console

    _print(record, _static_of(record, folder), folder, Console())


def list_records(
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="[WORD]...", help="Only records that have it.", hidden=True),
    ] = None,
    results: Annotated[Path, _RESULTS] = Path("results"),
    as_json: output.AsJson = False,
) -> None:
    """List the records of a results folder, the newest last: key, settings, results.

    A WORD keeps the records that have it in their key, model, data set, attack or defense, or as
    their verdict.

    Examples:

    dentbench list

    dentbench list digits holds
    """
    from dentbench.errors import StoreError
    from dentbench.records.results_csv import read
    from dentbench.records.union import united

    rows = united(read(results))
    if not rows:
        raise StoreError(f"there are no records in {results} yet; {keys.HOW_TO_START}")
    records = [record for record in rows if _has(record, words or ())]
    if not records:
        wanted = " and ".join(words or ())
        raise StoreError(f"no record in {results} has {wanted}; dentbench list lists all of them")
    if as_json:
        json_output.print_document([_as_json(record, None, results) for record in records])
        return
    from rich.console import Console

    from dentbench.report.formats.terminal import print_table
    from dentbench.report.tables.listing import listing

    print_table(listing(records), Console())


def _has(record: Record, words: Sequence[str]) -> bool:
    from dentbench.report import departures
    from dentbench.report.verdict import kind_of

    texts = (
        record.key,
        record.model,
        record.dataset,
        record.attack_label,
        departures.defense_title(record),
    )
    text = " ".join((*texts, record.mode, kind_of(record) or "")).lower()
    return all(word.lower() in text for word in words)


def _static_of(record: Record, folder: Path) -> Record | None:
    """Return the static record that a defended record was compared with, if it is there."""
    from dentbench.records.results_csv import read
    from dentbench.records.union import united
    from dentbench.report.pairing import pair_up

    if record.mode == "static" or not record.protocol:
        return None
    pairs = pair_up([*united(read(folder)), record])
    return next((pair.static for pair in reversed(pairs) if pair.defended.key == record.key), None)


def _as_json(record: Record, static: Record | None, folder: Path) -> dict[str, Any]:
    """Return a record with its columns as plain values, its verdict and its command."""
    from dataclasses import asdict

    from dentbench.report.commands import command
    from dentbench.report.next_step import next_step
    from dentbench.report.verdict import kind_of, verdict

    output: dict[str, Any] = {
        "record": json_output.of_record(record),
        "command": command(record, folder),
    }
    if record.mode != "static" and record.protocol:
        output["verdict"] = {"kind": kind_of(record)}
    if static is not None:
        said = verdict(static, record)
        output["static_key"] = static.key
        output |= {"verdict": asdict(said), "next": next_step(said, record, folder)}
    return output


def _print(record: Record, static: Record | None, folder: Path, console: Console) -> None:
    from rich.text import Text

    from dentbench.report.commands import command
    from dentbench.report.formats.escape import printable
    from dentbench.report.formats.terminal import print_line, print_table
    from dentbench.report.tables import listing
    from dentbench.report.tables import records as tables

    console.print(Text(f"Record {record.key}, {record.time}", style="bold"))
    if static is not None:
        print_table(tables.summary(static, record), console)
        _verdict(static, record, folder, console)
    elif record.protocol:
        print_table(tables.all_records([record]), console)
    else:
        print_table(tables.natural([record]), console)
    if record.checks:
        console.print()
        print_table(listing.checks(record), console)
    if static is not None:
        console.print()
        print_table(tables.protocols([static, record]), console)
    console.print()
    for name, text in listing.facts(record):
        print_line(f"{name:<22} {printable(text)}", console)
    console.print(Text("\nThe command that repeats it:", style="bold"))
    print_line(printable(command(record, folder)), console)


def _verdict(static: Record, record: Record, folder: Path, console: Console) -> None:
    from dentbench.attacks.checks import failed
    from dentbench.report.formats.terminal import print_line, print_prose
    from dentbench.report.next_step import next_step
    from dentbench.report.verdict import verdict

    said = verdict(static, record)
    print_prose(f"\n{said.sentence}", console, "bold")
    for doubt in said.doubts:
        print_prose(f"Doubt: {doubt}.", console, "yellow")
    for check in failed(static.checks):
        text = f"Check of the static model {check.name} failed: {check.sentence}."
        print_prose(text, console, "yellow")
    if step := next_step(said, record, folder):
        print_line(step, console, "cyan")
