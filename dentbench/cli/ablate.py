"""``dentbench ablate``: a grid of dent's settings on one model, in one table."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Annotated

import typer

from dentbench.cli import options as opt


def ablate(
    config: opt.Config = None,
    model: opt.Model = None,
    dataset: opt.Dataset = None,
    data_name: opt.DataName = None,
    mode: Annotated[
        list[str] | None, typer.Option("--mode", help="batch and/or instance. Default: batch.")
    ] = None,
    steps: Annotated[
        list[int] | None, typer.Option("--steps", metavar="N", help="Updates: --steps 0 1 3 6.")
    ] = None,
    lr: Annotated[
        list[float] | None, typer.Option("--lr", metavar="X", help="Learning rates.")
    ] = None,
    loss: Annotated[list[str] | None, typer.Option("--loss", help="shot and/or entropy.")] = None,
    statistics: Annotated[
        list[str] | None, typer.Option("--statistics", help="running and/or batch.")
    ] = None,
    optimizer: Annotated[
        list[str] | None, typer.Option("--optimizer", help="adamod, adam and/or sgd.")
    ] = None,
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
    """Attack dent with every combination of the settings given, beside the static model.

    For example: dentbench ablate --model digits-nominal --steps 0 1 3 6 --loss shot entropy
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

    grid = {
        "steps": steps,
        "lr": lr,
        "loss": loss,
        "statistics": statistics,
        "optimizer": optimizer,
    }
    points = [
        dict(zip(grid, values, strict=True))
        for values in itertools.product(*(options or [None] for options in grid.values()))
    ]
    studies = []
    for name in model or [DEFAULT_MODEL]:
        card = find_card(name)
        chosen = [choose_defense(m, p, card) for m in mode or ["batch"] for p in points]
        study = Study(
            model=name,
            card=card,
            defenses=tuple(dict.fromkeys(defense for defense, _ in chosen)),
            attack=choose_attack(card, name=attack, norm=norm, eps=eps),
            data=DataChoice(dataset=dataset, data_name=data_name, first=first, examples=examples),
            batches=BatchPlan(size=batch_size, batching=batching),
            protocols=choose_protocols(protocol or ()),
            seed=seed,
            notes=tuple(dict.fromkeys(note for _, notes in chosen for note in notes)),
        )
        check_names(study)
        studies.append(study)
    source = Source(cache=cache, offline=offline)
    if dry_run:
        running.show_estimates(studies, source, device)
        return
    how = running.run_options(results, device, fresh=fresh, save_adversarial=save_adversarial)
    records = [record for study in studies for record in running.run(study, source, how)]
    if as_json:
        running.print_json(records)
        return
    from rich.console import Console

    from dentbench.report.tables import all_records
    from dentbench.report.terminal import print_table

    print_table(all_records(records), Console())
