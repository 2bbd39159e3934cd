"""``dentbench ablate``: the paper's Table 2, or a grid of dent's settings, in one table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dentbench.cli.options import attacks, defenses, runs
from dentbench.cli.shared import SharedOptions, with_shared

if TYPE_CHECKING:
    from dentbench.cli.running import Finished


@with_shared
def ablate(
    shared: SharedOptions,
    mode: defenses.Modes = None,
    dent: defenses.DentAxes = defenses.NONE_GIVEN,
    settings: defenses.Settings = None,
    threat: attacks.Threats = None,
    measure_time: runs.MeasureTime = True,
) -> None:
    """Attack dent part by part: the six rows of the paper's Table 2, batch-wise.

    --blur alone chooses some of them; any other setting of dent makes a grid of all the values
    given. Run again, it resumes at the first missing batch.

    Examples:

    dentbench ablate --data cifar10 --examples 64 --attack quick

    dentbench ablate --blur static --sigma 0.5 0.7 1.0 --steps 0 1 10
    """
    from dentbench.cli import running
    from dentbench.errors import SpecError
    from dentbench.spec.evaluation import NO_ATTACK
    from dentbench.study import table2
    from dentbench.study.parsing import is_corrupted, parse_settings
    from dentbench.study.study import find_card, make_studies

    axes = {"mode": mode or (), **{name: values or () for name, values in dent.items()}}
    axes |= parse_settings(settings or ())
    if is_corrupted(shared.dataset) or shared.attack == NO_ATTACK:
        raise SpecError(
            "an ablation is of natural images under attack; for natural accuracy alone, of "
            "corrupted images too: dentbench evaluate --attack none"
        )
    studies = []
    for name in shared.model or [table2.default_model(shared.dataset)]:
        own = () if shared.norm or shared.eps else table2.threats_of(find_card(name))
        attack = shared.attack or "standard"
        request = shared.request([name], attack=attack, threats=threat or own)
        studies += make_studies(request, lambda card: table2.choose_defenses(axes, card))
    finished = running.carry_out(
        studies,
        shared.run_options(measure_time=measure_time),
        shared.display,
        dry_run=shared.dry_run,
        gpu=shared.gpu,
        as_json=shared.as_json,
    )
    _show(finished, shared, is_table=table2.is_table2(axes))


def _show(finished: Finished, shared: SharedOptions, *, is_table: bool) -> None:
    """Print the records in the way that was asked for."""
    from dentbench.cli import running, showing

    if shared.as_json:
        running.print_json(finished, verdicts=running.verdicts(finished, shared.results))
    elif shared.quiet:
        showing.show_verdicts(finished)
    else:
        for study, records in finished:
            showing.show_ablation(study, records, shared.results, table2=is_table)
