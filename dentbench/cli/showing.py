"""Show results of ``evaluate`` and ``ablate`` on a terminal."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from dentbench.attacks.checks import failed
from dentbench.cli.running import Finished, by_attack, compared
from dentbench.records.outcome import Record
from dentbench.report import departures
from dentbench.report.charts import heading
from dentbench.report.commands import short_key
from dentbench.report.formats.escape import printable
from dentbench.report.formats.terminal import print_line, print_prose, print_table
from dentbench.report.next_step import next_step
from dentbench.report.numbers import percent
from dentbench.report.tables import ablation, defenses, diagnostics, layout, natural
from dentbench.report.tables import records as tables
from dentbench.report.verdict import verdict
from dentbench.study.study import Study


def show_study(study: Study, records: Sequence[Record], results: Path) -> None:
    """Print an evaluation: notes, table, verdict and diagnoses of the adaptations."""
    console = Console()
    _notes(study, console)
    groups = by_attack(study, records)
    if len(groups) > 1 or len(records) == 1:
        print_table(tables.all_records(records), console)
    else:
        static, *others = records
        if len(others) == 1:
            print_table(tables.summary(static, others[0]), console)
        else:
            print_table(defenses.beside(static, others), console)
    for static, *others in groups:
        _checks(static, console)
        for defended in others:
            of = f"{_about(defended)}. " if len(records) > 2 else ""
            sentence = verdict(static, defended).sentence
            print_prose(f"\n{of}{sentence}", console, "bold")
            _checks(defended, console)
            _next(static, defended, results, console)
            if defended.batch_mates:
                console.print()
                print_table(tables.batch_mates([defended]), console)
            if defended.diagnostics:
                console.print()
                print_table(diagnostics.diagnostics(defended), console)
    _where(results, console, records)


def show_verdicts(finished: Finished) -> None:
    """Print the verdict on every defense, a line each, and the accuracy of a model alone."""
    for static, *others in (group for run in finished for group in by_attack(*run)):
        for defended in others:
            print(f"{_about(defended)}. {verdict(static, defended).sentence}")
        if not others:
            right = percent(static.robust_correct, static.n)
            print(f"{_about(static)}. {right} right under attack; no defense, so no verdict")


def show_table1(finished: Finished, results: Path) -> None:
    """Print the paper's Table 1 of the models that were run."""
    console = Console()
    records = [record for _, records_of in finished for record in records_of]
    for table in layout.table1s(records):
        print_table(table, console)
    _verdicts(finished, results, console)
    _where(results, console, records)


def show_natural(finished: Finished, results: Path) -> None:
    """Print the natural accuracy of runs without an attack, defenses beside each other."""
    console = Console()
    for note in dict.fromkeys(note for study, _ in finished for note in study.notes):
        print_prose(note, console, "dim")
    records = [record for _, records_of in finished for record in records_of]
    print_table(natural.natural(records), console)
    _where(results, console, records)


def show_ablation(study: Study, records: Sequence[Record], results: Path, *, table2: bool) -> None:
    """Print a model's ablation: rows of the paper's Table 2, or a grid."""
    console = Console()
    _notes(study, console)
    threats = [(attack.norm, attack.eps) for attack in study.attacks]
    if table2:
        table = tables.table2(records, threats=threats, run_only=True)
    else:
        table = ablation.grid(records, threats)
    print_table(table, console)
    _verdicts([(study, list(records))], results, console)
    _where(results, console, records)


def _verdicts(finished: Finished, results: Path, console: Console) -> None:
    """Print the verdict on every defended record of a table, each with its failed checks."""
    static_shown: set[str] = set()
    for static, defended in compared(finished):
        if static.key not in static_shown:
            _checks(static, console)
            static_shown.add(static.key)
        sentence = verdict(static, defended).sentence
        print_prose(f"\n{_about(defended)}. {sentence}", console, "bold")
        _checks(defended, console)
        _next(static, defended, results, console)


def _about(defended: Record) -> str:
    """Return a defended record's heading with its settings: two may differ in these alone."""
    settings = departures.settings_text(defended)
    return f"{heading(defended)}{f', {settings}' if settings else ''}"


def _next(static: Record, defended: Record, results: Path, console: Console) -> None:
    step = next_step(verdict(static, defended), defended, results)
    if step:
        print_line(step, console, "cyan")


def _checks(record: Record, console: Console) -> None:
    whose = "Check of the static model" if record.mode == "static" else "Check"
    for check in failed(record.checks):
        print_prose(f"{whose} {check.name} failed: {check.sentence}.", console, "yellow")


def _notes(study: Study, console: Console) -> None:
    for note in study.notes:
        print_prose(note, console, "dim")


def _where(results: Path, console: Console, records: Sequence[Record]) -> None:
    """Print where the records are, their keys, and the command that shows a record."""
    keys = " ".join(dict.fromkeys(map(short_key, records)))
    print_line(f"\nRecords: {printable(str(results / 'results.csv'))}, keys {keys}", console, "dim")
    folder = [] if str(results) == "results" else ["--results", str(results)]
    show = printable(shlex.join(["dentbench", "show", short_key(records[-1]), *folder]))
    print_line(f"All about one: {show}", console, "dim")
