"""``dentbench evaluate``: the static model and dent under attack, side by side, with a verdict."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import typer

from dentbench.cli.config import keep
from dentbench.cli.options import attacks, defenses, models, output, runs
from dentbench.cli.shared import SharedOptions, with_shared

if TYPE_CHECKING:
    from dentbench.cli.running import Finished
    from dentbench.study.study import Request, Study


@with_shared
def evaluate(
    shared: SharedOptions,
    from_record: runs.FromRecord = None,
    table: runs.PaperTable = None,
    corruption: models.Corruptions = None,
    severity: models.Severities = None,
    defense: defenses.Defenses = None,
    mode: defenses.Mode = None,
    dent: defenses.DentSettings = defenses.NONE_GIVEN,
    steps_grid: defenses.StepsGrid = None,
    settings: defenses.Settings = None,
    eps_grid: attacks.EpsGrid = None,
    require_gain: output.RequireGain = None,
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
    from dentbench.cli import first_look, repeat, running
    from dentbench.errors import SpecError
    from dentbench.spec.evaluation import NO_ATTACK
    from dentbench.study.parsing import parse_eps_grid

    is_first_look = first_look.is_asked_for(shared, own_options)
    if is_first_look:
        shared = first_look.shortened(shared)
    request = shared.request(
        shared.model or (),
        corruptions=corruption or (),
        severities=severity or (),
        eps_grid=parse_eps_grid(eps_grid) if eps_grid is not None else (),
    )
    if require_gain is not None and not (-100 <= require_gain <= 0 or 1 <= require_gain <= 100):
        raise SpecError(
            f"--require-gain is {require_gain:g}; it is in percentage points, such as 5"
        )
    if require_gain is not None and request.attack_name == NO_ATTACK:
        raise SpecError("--require-gain is a gain under attack, and there is no attack")
    studies = _studies(request, own_options) if table is None else _table1(request, own_options)
    if require_gain is not None and not any(any(study.defenses) for study in studies):
        raise SpecError("--require-gain needs a defense to judge, and mode static has none")
    finished = running.carry_out(
        studies,
        shared.run_options(),
        shared.display,
        dry_run=shared.dry_run,
        gpu=shared.gpu,
        as_json=shared.as_json,
        check=repeat.checked(from_record, shared.results),
    )
    if shared.config is not None:
        keep(shared.config, shared.results)
    _show(finished, shared, request, is_table=table is not None)
    if is_first_look and not (shared.as_json or shared.quiet):
        typer.echo(first_look.text(shared))
    if require_gain is not None:
        running.require_gain(finished, require_gain, shared.results)


def _dent(own: Mapping[str, Any]) -> dict[str, Any]:
    """Return dent's settings among a command's options, those of ``--set`` too."""
    from dentbench.study.parsing import parse_settings

    settings = parse_settings(own["settings"] or (), once=True)
    return {**{name: own[name] for name in defenses.DENT}, **settings}


def _studies(request: Request, own: Mapping[str, Any]) -> list[Study]:
    """Return the studies of the defenses that a command's own options name."""
    from dentbench.cli.running import each_steps
    from dentbench.study.defenses import CORRUPTED, choose_defenses
    from dentbench.study.parsing import is_corrupted
    from dentbench.study.study import make_studies

    mode = own["mode"]
    grid = each_steps(_dent(own), own["steps_grid"])
    corrupted = is_corrupted(request.data.dataset) and mode is None
    names = own["defense"] or (CORRUPTED if corrupted else ())
    return make_studies(
        request,
        lambda card: [
            defense for settings in grid for defense in choose_defenses(names, mode, settings, card)
        ],
    )


def _table1(request: Request, own: Mapping[str, Any]) -> list[Study]:
    """Return the studies of the paper's Table 1; SpecError for an option that changes its cells."""
    from dentbench.study import table1
    from dentbench.study.study import make_studies

    fixed = ("defense", "mode", "steps_grid", "eps_grid", "corruption", "severity")
    given = [name for name, value in _dent(own).items() if value is not None]
    table1.check(own["table"], [*(name for name in fixed if own[name]), *given], request)
    return [
        study
        for part in table1.requests(request)
        for study in make_studies(part, table1.choose_defenses)
    ]


def _show(finished: Finished, shared: SharedOptions, request: Request, *, is_table: bool) -> None:
    """Print the records in the way that was asked for."""
    from dentbench.cli import running, showing
    from dentbench.spec.evaluation import NO_ATTACK

    if shared.as_json:
        running.print_json(finished, verdicts=running.verdicts(finished, shared.results))
    elif request.attack_name == NO_ATTACK:
        showing.show_natural(finished, shared.results)
    elif shared.quiet:
        showing.show_verdicts(finished)
    elif is_table:
        showing.show_table1(finished, shared.results)
    else:
        for study, records in finished:
            showing.show_study(study, records, shared.results)
