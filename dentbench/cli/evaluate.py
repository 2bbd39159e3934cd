"""``dentbench evaluate``: the static model and dent under attack, side by side, with a verdict."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dentbench.cli import options as opt

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dentbench.outcome import Record
    from dentbench.study import Study


def evaluate(
    config: opt.Config = None,
    model: opt.Model = None,
    dataset: opt.Dataset = None,
    data_name: opt.DataName = None,
    mode: Annotated[
        str, typer.Option("--mode", help="instance or batch: dent beside static; or static alone.")
    ] = "instance",
    steps: Annotated[
        int | None, typer.Option("--steps", metavar="N", help="Updates. Default: 6, batch 30.")
    ] = None,
    lr: Annotated[
        float | None, typer.Option("--lr", metavar="X", help="Learning rate. Default: 0.006.")
    ] = None,
    loss: opt.Loss = None,
    statistics: opt.Statistics = None,
    optimizer: opt.Optimizer = None,
    norm: opt.Norm = None,
    eps: opt.Eps = None,
    attack: opt.Attack = "standard",
    protocol: opt.Protocols = None,
    examples: opt.Examples = None,
    first: opt.First = 0,
    batch_size: opt.BatchSize = 128,
    batching: opt.Batching = "declared",
    seed: opt.Seed = 0,
    device: opt.Device = "auto",
    results: opt.Results = Path("results"),
    cache: opt.Cache = None,
    offline: opt.Offline = False,
    fresh: opt.Fresh = False,
    save_adversarial: opt.SaveAdversarial = False,
    dry_run: opt.DryRun = False,
    as_json: opt.AsJson = False,
) -> None:
    """Attack the static model and dent, print both with the difference, and append the records.

    Run again, it resumes at the first missing batch. For example:

    dentbench evaluate --model Carmon2019 --mode instance --steps 6
    """
    del config
    from dentbench.cli import running
    from dentbench.spec import BatchPlan
    from dentbench.study import (
        DEFAULT_MODEL,
        DataChoice,
        Source,
        Study,
        check_names,
        choose_attack,
        choose_defense,
        choose_protocols,
        find_card,
    )

    settings = {
        "steps": steps,
        "lr": lr,
        "loss": loss,
        "statistics": statistics,
        "optimizer": optimizer,
    }
    studies = []
    for name in model or [DEFAULT_MODEL]:
        card = find_card(name)
        defense, notes = choose_defense(mode, settings, card)
        study = Study(
            model=name,
            card=card,
            defenses=(defense,),
            attack=choose_attack(card, name=attack, norm=norm, eps=eps),
            data=DataChoice(dataset=dataset, data_name=data_name, first=first, examples=examples),
            batches=BatchPlan(size=batch_size, batching=batching),
            protocols=choose_protocols(protocol or ()),
            seed=seed,
            notes=notes,
        )
        check_names(study)
        studies.append(study)
    source = Source(cache=cache, offline=offline)
    if dry_run:
        running.show_estimates(studies, source, device)
        return
    how = running.run_options(results, device, fresh=fresh, save_adversarial=save_adversarial)
    finished = [(study, running.run(study, source, how)) for study in studies]
    if as_json:
        pairs = [records for _, records in finished]
        running.print_json(
            [record for records in pairs for record in records],
            verdicts=[_verdict(records) for records in pairs if len(records) == 2],
        )
        return
    for study, records in finished:
        _show(study, records, results)


def _verdict(records: Sequence[Record]) -> dict[str, Any]:
    from dataclasses import asdict

    from dentbench.report.verdict import verdict

    return {"model": records[0].model, **asdict(verdict(*records))}


def _show(study: Study, records: Sequence[Record], results: Path) -> None:
    """Print one study's table, verdict and notes."""
    from rich.console import Console
    from rich.text import Text

    from dentbench.report.tables import all_records, summary
    from dentbench.report.terminal import print_table
    from dentbench.report.verdict import verdict

    console = Console()
    for note in study.notes:
        console.print(Text(note, style="dim"))
    if len(records) == 1:
        print_table(all_records(records), console)
    else:
        print_table(summary(*records), console)
        console.print(Text(verdict(*records).sentence, style="bold"))
    console.print(Text(f"Records: {results / 'results.csv'}", style="dim"))
