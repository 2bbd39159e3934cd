"""``dentbench evaluate``: the static model and dent under attack, side by side, with a verdict."""

from __future__ import annotations

from typing import Annotated

import typer

from dentbench.cli import options as opt
from dentbench.cli.config import keep
from dentbench.cli.shared import SharedOptions, with_shared


@with_shared
def evaluate(
    shared: SharedOptions,
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
    dent: opt.DentSettings = opt.NONE_GIVEN,
    steps_grid: opt.StepsGrid = None,
    settings: opt.Settings = None,
    eps_grid: opt.EpsGrid = None,
    require_gain: opt.RequireGain = None,
) -> None:
    """Attack the static model and dent, print both with the difference, and append the records.

    Run again, it resumes at the first missing batch. Without options: a first look at the embedded
    model in about a minute, and how long the full evaluation takes.

    Examples:

    dentbench evaluate

    dentbench evaluate --model Carmon2019 --mode instance --steps 6

    dentbench evaluate --protocol all --attack quick --save-adversarial

    dentbench evaluate --eps-grid 0..16/255 --progress json 2> progress.jsonl

    Exit codes: 0 done, 2 something you can fix, 3 no gain that --require-gain asks for, 130 and
    143 stopped by Ctrl-C or SIGTERM (the same command resumes).
    """
    given_here = {name: value for name, value in locals().items() if name not in ("shared", "dent")}
    own_options = {**given_here, **dent}
    from dentbench.cli import first_look, running
    from dentbench.errors import SpecError
    from dentbench.spec.evaluation import NO_ATTACK
    from dentbench.study import table1
    from dentbench.study.defenses import CORRUPTED, choose_defenses
    from dentbench.study.parsing import (
        is_corrupted,
        parse_eps_grid,
        parse_settings,
    )
    from dentbench.study.study import make_studies

    own = {**dent, **parse_settings(settings or (), once=True)}
    is_first_look = first_look.is_asked_for(shared, own_options)
    if is_first_look:
        shared = first_look.shortened(shared)
    request = shared.request(
        shared.model or (),
        corruptions=corruption or (),
        severities=severity or (),
        eps_grid=parse_eps_grid(eps_grid) if eps_grid is not None else (),
    )
    if require_gain is not None and request.attack_name == NO_ATTACK:
        raise SpecError("--require-gain is a gain under attack, and there is no attack")
    if table is None:
        grid = running.each_steps(own, steps_grid)
        names = defense or (CORRUPTED if is_corrupted(shared.dataset) and mode is None else ())
        studies = make_studies(
            request,
            lambda card: [
                chosen
                for arguments in grid
                for chosen in choose_defenses(names, mode, arguments, card)
            ],
        )
    else:
        given = {name: value for name, value in own.items() if value is not None}
        others: dict[str, object] = {
            "defense": defense,
            "mode": mode,
            "steps_grid": steps_grid,
            "eps_grid": eps_grid,
        }
        others |= {"corruption": corruption, "severity": severity}
        named = [name for name, value in others.items() if value]
        table1.check(table, [*named, *given], request)
        studies = [
            study
            for part in table1.requests(request)
            for study in make_studies(part, table1.choose_defenses)
        ]
    from dentbench.cli import repeat

    finished = running.carry_out(
        studies,
        shared.run_options(),
        shared.display,
        dry_run=shared.dry_run,
        gpu=shared.gpu,
        check=repeat.checked(from_record, shared.results),
    )
    from dentbench.cli import showing

    if shared.config is not None:
        keep(shared.config, shared.results)
    if shared.as_json:
        running.print_json(finished, verdicts=running.verdicts(finished, shared.results))
    elif request.attack_name == NO_ATTACK:
        showing.show_natural(finished, shared.results)
    elif shared.quiet:
        showing.show_verdicts(finished)
    elif table is None:
        for study, records in finished:
            showing.show_study(study, records, shared.results)
        if is_first_look:
            typer.echo(first_look.text(shared))
    else:
        showing.show_table1(finished, shared.results)
    if require_gain is not None:
        running.require_gain(finished, require_gain, shared.results)
