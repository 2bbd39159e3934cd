"""``dentbench evaluate``: the static model and dent under attack, side by side, with a verdict."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dentbench.cli import options as opt
from dentbench.cli.config import keep
from dentbench.evaluation.progress import Display

if TYPE_CHECKING:
    from dentbench.cli import running


def evaluate(
    config: opt.Config = None,
    from_record: opt.FromRecord = None,
    table: Annotated[
        int | None,
        typer.Option(
            "--table",
            metavar="1",
            help="Run exactly the cells of the paper's Table 1: both modes, Carmon2019 and "
            "Ding2020 or the models given. For Table 2: dentbench ablate.",
        ),
    ] = None,
    model: opt.Model = None,
    arch: opt.Arch = None,
    normalize: opt.Normalize = None,
    expect_clean: opt.ExpectClean = None,
    dataset: opt.Dataset = None,
    data_name: opt.DataName = None,
    data_dir: opt.DataDir = None,
    preprocess: opt.Preprocess = None,
    corruption: opt.Corruptions = None,
    severity: opt.Severities = None,
    defense: opt.Defenses = None,
    mode: Annotated[
        str | None,
        typer.Option(
            "--mode",
            metavar="MODE",
            help="instance (default) or batch: dent beside static; or static alone.",
        ),
    ] = None,
    steps: opt.Steps = None,
    steps_grid: opt.StepsGrid = None,
    delta: opt.Delta = None,
    loss: opt.Loss = None,
    statistics: opt.Statistics = None,
    blur: opt.Blur = None,
    sigma: opt.Sigma = None,
    padding: opt.Padding = None,
    optimizer: opt.Optimizer = None,
    lr: opt.Lr = None,
    sigma_lr: opt.SigmaLr = None,
    settings: opt.Settings = None,
    norm: opt.Norm = None,
    eps: opt.Eps = None,
    eps_grid: opt.EpsGrid = None,
    attack: opt.Attack = None,
    iterations: opt.Iterations = None,
    targets: opt.Targets = None,
    queries: opt.Queries = None,
    protocol: opt.Protocols = None,
    protocol_set: opt.ProtocolSettings = None,
    no_cascade: opt.NoCascade = False,
    examples: opt.Examples = None,
    first: opt.First = 0,
    order: opt.Order = "given",
    batch_size: opt.BatchSize = 128,
    batching: opt.Batching = "declared",
    precision: opt.Precision = "fp32",
    seed: opt.Seed = 0,
    device: opt.Device = "auto",
    executor: opt.Executor = "local",
    workers: opt.Workers = "auto",
    threads: opt.Threads = None,
    address: opt.Address = None,
    compiling: opt.Compiling = "auto",
    results: opt.Results = Path("results"),
    cache: opt.Cache = None,
    mirror: opt.Mirrors = None,
    offline: opt.Offline = False,
    fresh: opt.Fresh = False,
    save_adversarial: opt.SaveAdversarial = False,
    diagnostics: opt.Diagnostics = False,
    dry_run: opt.DryRun = False,
    progress: opt.Progress = Display.AUTO,
    quiet: opt.Quiet = False,
    as_json: opt.AsJson = False,
    force: opt.Force = False,
    require_gain: opt.RequireGain = None,
) -> None:
    """Attack the static model and dent, print both with the difference, and append the records.

    Run again, it resumes at the first missing batch. Without options: the embedded model and data.

    Examples:

    dentbench evaluate

    dentbench evaluate --model Carmon2019 --mode instance --steps 6

    dentbench evaluate --protocol all --attack quick --save-adversarial

    dentbench evaluate --eps-grid 0..16/255 --progress json 2> progress.jsonl

    Exit codes: 0 done, 2 something you can fix, 3 no gain that --require-gain asks for, 130 and
    143 stopped by Ctrl-C or SIGTERM (the same command resumes).
    """
    from dentbench.cli import running
    from dentbench.errors import SpecError
    from dentbench.spec.evaluation import NO_ATTACK, BatchPlan
    from dentbench.study import table1
    from dentbench.study.defenses import CORRUPTED, choose_defenses
    from dentbench.study.parsing import (
        DataChoice,
        OwnModel,
        is_corrupted,
        parse_eps_grid,
        parse_normalize,
        parse_protocol_settings,
        parse_settings,
    )
    from dentbench.study.study import Request, make_studies

    own = {
        "steps": steps,
        "delta": delta,
        "loss": loss,
        "statistics": statistics,
        "blur": blur,
        "sigma": sigma,
        "padding": padding,
        "optimizer": optimizer,
        "lr": lr,
        "sigma_lr": sigma_lr,
        **parse_settings(settings or (), once=True),
    }
    request = Request(
        models=model or (),
        own=OwnModel(arch=arch, normalize=parse_normalize(normalize), expect_clean=expect_clean),
        data=DataChoice(
            dataset=dataset,
            data_name=data_name,
            folder=data_dir,
            preprocess=preprocess,
            first=first,
            examples=examples,
            order=order,
        ),
        corruptions=corruption or (),
        severities=severity or (),
        attack=attack,
        budget={"iterations": iterations, "targets": targets, "queries": queries},
        norm=norm,
        eps=eps,
        eps_grid=parse_eps_grid(eps_grid) if eps_grid is not None else (),
        batches=BatchPlan(size=batch_size, batching=batching),
        protocols=protocol or (),
        protocol_settings=parse_protocol_settings(protocol_set or (), cascade=not no_cascade),
        seed=seed,
        precision=precision,
    )
    if require_gain is not None and request.attack_name == NO_ATTACK:
        raise SpecError("--require-gain is a gain under attack, and there is no attack")
    if table is None:
        grid = running.each_steps(own, steps_grid)
        names = defense or (CORRUPTED if is_corrupted(dataset) and mode is None else ())
        studies = make_studies(
            request,
            lambda card: [
                chosen for one in grid for chosen in choose_defenses(names, mode, one, card)
            ],
        )
    else:
        given = {name: value for name, value in own.items() if value is not None}
        named = [name for name, value in (("defense", defense), ("mode", mode)) if value]
        table1.check(table, [*named, *given])
        studies = [
            study
            for one in table1.requests(request)
            for study in make_studies(one, table1.choose_defenses)
        ]
    finished = running.carry_out(
        studies,
        running.How(
            results=results,
            device=device,
            executor=executor,
            workers=workers,
            threads=threads,
            address=address,
            compiling=compiling,
            cache=cache,
            mirrors=tuple(mirror or ()),
            offline=offline,
            fresh=fresh,
            save_adversarial=save_adversarial,
            diagnostics=diagnostics,
            dry_run=dry_run,
            force=force,
            progress=Display.NONE if quiet else progress,
        ),
    )
    from dentbench.cli import repeat, showing

    if config is not None:
        keep(config, results)
    if from_record is not None:
        repeat.check(from_record, [one for _, records in finished for one in records])
    if as_json:
        running.print_json(finished, verdicts=_verdicts(finished))
    elif request.attack_name == NO_ATTACK:
        showing.show_natural(finished, results)
    elif quiet:
        showing.show_verdicts(finished)
    elif table is None:
        for study, records in finished:
            showing.show_study(study, records, results)
    else:
        showing.show_table1(finished, results)
    if require_gain is not None:
        running.require_gain(finished, require_gain)


def _verdicts(finished: running.Finished) -> list[dict[str, Any]]:
    """Return the verdict on every defended record, each against its own static one."""
    from dataclasses import asdict

    from dentbench.cli import running
    from dentbench.report.verdict import verdict

    return [
        {
            "model": static.model,
            "eps": static.eps,
            "defense": defended.defense,
            "steps": defended.steps,
            **asdict(verdict(static, defended)),
        }
        for static, defended in running.compared(finished)
        if defended.protocol  # without an attack there is no verdict
    ]
