"""``dentbench ablate``: the paper's Table 2, or a grid of dent's settings, in one table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dentbench.cli import options as opt
from dentbench.evaluation.progress import Display


def ablate(
    config: opt.Config = None,
    model: opt.Model = None,
    arch: opt.Arch = None,
    normalize: opt.Normalize = None,
    expect_clean: opt.ExpectClean = None,
    dataset: opt.Dataset = None,
    data_name: opt.DataName = None,
    data_dir: opt.DataDir = None,
    preprocess: opt.Preprocess = None,
    mode: opt.Modes = None,
    steps: opt.StepsAxis = None,
    delta: opt.Deltas = None,
    loss: opt.Losses = None,
    statistics: opt.StatisticsAxis = None,
    blur: opt.Blurs = None,
    sigma: opt.Sigmas = None,
    padding: opt.Paddings = None,
    optimizer: opt.Optimizers = None,
    lr: opt.Lrs = None,
    sigma_lr: opt.SigmaLrs = None,
    settings: opt.Settings = None,
    threat: opt.Threats = None,
    norm: opt.Norm = None,
    eps: opt.Eps = None,
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
    measure_time: Annotated[
        bool,
        typer.Option("--time/--no-time", help="Measure inference time beside the static model's."),
    ] = True,
    dry_run: opt.DryRun = False,
    progress: opt.Progress = Display.AUTO,
    quiet: opt.Quiet = False,
    as_json: opt.AsJson = False,
    force: opt.Force = False,
) -> None:
    """Attack dent part by part: the six rows of the paper's Table 2, batch-wise.

    --blur alone chooses some of them; any other setting of dent makes a grid of all the values
    given. Run again, it resumes at the first missing batch.

    Examples:

    dentbench ablate --model AutoAttackResNet18 --examples 64 --attack quick

    dentbench ablate --blur static --sigma 0.5 0.7 1.0 --steps 0 1 10
    """
    del config
    from dentbench.cli import running
    from dentbench.errors import SpecError
    from dentbench.spec.evaluation import NO_ATTACK, BatchPlan
    from dentbench.study import table2
    from dentbench.study.parsing import (
        DataChoice,
        OwnModel,
        is_corrupted,
        parse_normalize,
        parse_protocol_settings,
        parse_settings,
    )
    from dentbench.study.study import Request, find_card, make_studies

    axes = {
        "mode": mode or (),
        "steps": steps or (),
        "delta": delta or (),
        "loss": loss or (),
        "statistics": statistics or (),
        "blur": blur or (),
        "sigma": sigma or (),
        "padding": padding or (),
        "optimizer": optimizer or (),
        "lr": lr or (),
        "sigma_lr": sigma_lr or (),
        **parse_settings(settings or ()),
    }
    if is_corrupted(dataset) or attack == NO_ATTACK:
        raise SpecError(
            "an ablation is of natural images under attack; for natural accuracy alone, of "
            "corrupted images too: dentbench evaluate --attack none"
        )
    studies = []
    for name in model or [table2.DEFAULT_MODEL]:
        own = () if norm or eps else table2.threats_of(find_card(name))
        request = Request(
            models=[name],
            own=OwnModel(
                arch=arch, normalize=parse_normalize(normalize), expect_clean=expect_clean
            ),
            data=DataChoice(
                dataset=dataset,
                data_name=data_name,
                folder=data_dir,
                preprocess=preprocess,
                first=first,
                examples=examples,
                order=order,
            ),
            attack=attack or "standard",
            budget={"iterations": iterations, "targets": targets, "queries": queries},
            norm=norm,
            eps=eps,
            threats=threat or own,
            batches=BatchPlan(size=batch_size, batching=batching),
            protocols=protocol or (),
            protocol_settings=parse_protocol_settings(protocol_set or (), cascade=not no_cascade),
            seed=seed,
            precision=precision,
        )
        studies += make_studies(request, lambda card: table2.choose_defenses(axes, card))
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
            measure_time=measure_time,
            diagnostics=diagnostics,
            dry_run=dry_run,
            force=force,
            progress=Display.NONE if quiet else progress,
        ),
    )
    from dentbench.cli import showing

    if as_json:
        running.print_json(finished)
        return
    if quiet:
        showing.show_verdicts(finished)
        return
    for study, records in finished:
        showing.show_ablation(study, records, results, table2=table2.is_table2(axes))
