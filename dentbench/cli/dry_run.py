"""Print a dry run: the stages that would run, and their cost at most, here or on a GPU."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias

from dentbench.cli import json_output
from dentbench.containment import contained
from dentbench.spec.evaluation import DefenseSpec, DentSpec, EvalSpec, field_names

if TYPE_CHECKING:
    from collections.abc import Callable

    from dentbench.evaluation.context import RunOptions
    from dentbench.evaluation.estimates.dry_run import StageEstimate
    from dentbench.evaluation.estimates.duration import Speed
    from dentbench.evaluation.runner import Evaluation
    from dentbench.study.study import Study

Refusal: TypeAlias = "Callable[[Sequence[EvalSpec]], None]"
"""Refuses specs before anything is run."""


def show_estimates(
    studies: Sequence[Study],
    options: RunOptions,
    gpu: str | None = None,
    check: Refusal | None = None,
    *,
    as_json: bool = False,
) -> None:
    """Print the stages that would run and their cost at most; attack nothing, write nothing.

    ``gpu``: the kind of GPU to estimate times for; by default this machine. ``check``: what
    the specs of the first study must pass. ``as_json``: hand them in for the document of
    ``--json`` instead.
    """
    costs: list[StageEstimate] = []
    sources: dict[str, None] = {}
    for study in studies:
        with contained():
            parts, source = _estimated(study, options, gpu, check if study is studies[0] else None)
        costs += parts
        sources[source] = None
    if as_json:
        json_output.add(estimates=list(map(_as_json, costs)))
    else:
        _print(studies, costs, sources)


def _print(
    studies: Sequence[Study], costs: Sequence[StageEstimate], sources: Iterable[str]
) -> None:
    from dentbench.attacks.catalogue import attack_label
    from dentbench.evaluation.progress.events import duration_text
    from dentbench.report.formats.terminal import print_table
    from dentbench.report.table import Column, Table

    passes = (sum(cost.forwards for cost in costs), sum(cost.backwards for cost in costs))
    whole = duration_text(sum(cost.seconds for cost in costs))
    total = ["all", "", "", "total", "", *(f"{count:,}" for count in passes), whole, ""]
    labels = sorted({attack_label(attack) for study in studies for attack in study.attacks})
    columns = (
        *map(Column, ("model", "threat", "defense", "stage")),
        *(Column(name, "right") for name in ("images", "forwards", "backwards", "time", "memory")),
    )
    table = Table.of(
        f"Dry run: {'; '.join(labels)}",
        columns,
        [*map(_row, costs), total],
        caption="At most, for batches not stored yet: every image surviving every attack; time "
        f"{'; '.join(sources)}. "
        "Memory: the least that a batch's tensors take, beside the model, from four images.",
        stub=3,
    )
    print_table(table)


def _estimated(
    study: Study, options: RunOptions, gpu: str | None, check: Refusal | None
) -> tuple[list[StageEstimate], str]:
    """Return a study's stages with their cost, and where their times come from."""
    from dentbench.evaluation.applicable_protocols import possible, random_ones
    from dentbench.evaluation.estimates.dry_run import estimate
    from dentbench.study.loading import prepare

    # A GPU elsewhere may have precisions that this machine lacks.
    local = study if gpu is None else replace(study, precision="fp32")
    evaluation, specs = prepare(local, options, untrained=True)

    def asked(spec: EvalSpec) -> EvalSpec:
        return replace(spec, precision=study.precision)

    if check is not None:
        check([asked(spec) for spec in specs])
    able = {spec: possible(evaluation.context, spec, study.protocols) for spec in specs}
    speed, source = _speed(evaluation, study.precision, gpu)
    stored = evaluation.stages
    parts = estimate(
        evaluation.context,
        specs,
        able,
        lambda spec, stage: stored.images_left(asked(spec), stage),
        speed,
        random_ones(evaluation.context, specs),
    )
    return parts, source


def _speed(evaluation: Evaluation, precision: str, gpu: str | None) -> tuple[Speed | None, str]:
    """Return the speed on a GPU, if one is named, and where times come from."""
    from dentbench.evaluation.estimates.measured_gpus import forecast

    if gpu is None:
        return None, "extrapolated from timed batches"
    worker = evaluation.context.worker
    with worker.counter.uncounted():
        estimate = forecast(gpu, precision, worker.model.network, worker.inputs.images[:1])
    return estimate.speed, f"on {estimate.source}"


def _as_json(part: StageEstimate) -> dict[str, Any]:
    from dentbench.spec.evaluation import format_eps

    spec = part.spec
    return {
        "model": spec.model.name,
        "norm": spec.attack.norm,
        "eps": format_eps(spec.attack.eps),
        "defense": _described(spec),
        "stage": part.stage,
        "images": part.images,
        "forwards": part.forwards,
        "backwards": part.backwards,
        "seconds": part.seconds,
        "memory_bytes": part.memory,
    }


def _row(part: StageEstimate) -> list[object]:
    from dentbench.evaluation.memory.footprint import in_words
    from dentbench.evaluation.progress.events import duration_text
    from dentbench.report.departures import threat_text

    spec = part.spec
    return [
        spec.model.name,
        threat_text(spec.attack.norm, spec.attack.eps),
        _described(spec),
        part.stage,
        f"{part.images:,}",
        f"{part.forwards:,}",
        f"{part.backwards:,}",
        duration_text(part.seconds),
        "" if part.memory is None else in_words(part.memory),
    ]


def _described(spec: EvalSpec) -> str:
    """Return a defense in few words: of dent its mode, its steps and what else is set."""
    if isinstance(spec.defense, DefenseSpec):
        settings = ", ".join(f"{name} {value}" for name, value in spec.defense.settings)
        return f"{spec.label}, {settings}" if settings else spec.label
    if spec.defense is None:
        return spec.label
    dent = spec.defense
    plain = DentSpec(mode=dent.mode, steps=dent.steps, blur=dent.blur)
    odd = (name for name in field_names(DentSpec) if getattr(dent, name) != getattr(plain, name))
    parts = [
        f"{spec.label}, {dent.steps} step{'' if dent.steps == 1 else 's'}",
        *([] if dent.blur == "none" else [f"{dent.blur} blur"]),
        *(f"{name.replace('_', ' ')} {getattr(dent, name)}" for name in odd),
    ]
    return ", ".join(parts)
