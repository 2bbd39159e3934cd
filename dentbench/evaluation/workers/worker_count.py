"""Choose how many workers share a CPU's cores in a run, where the user did not.

The number depends on the plan, on this machine and on remembered timings, and
not on how far a run is: workers have fewer threads, which changes the last bits, and a run that is
resumed is to compute as before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import torch

from dentbench.attacks.catalogue import with_prerequisites
from dentbench.attacks.cost import stage_passes
from dentbench.compute.thread_scaling import fastest, seconds_by_workers
from dentbench.evaluation.memory.footprint import machine
from dentbench.evaluation.memory.out_of_memory import SCRATCH, suspected
from dentbench.evaluation.workers.placement import AUTO, Placement
from dentbench.evaluation.workers.worker import Worker
from dentbench.records.outcome import NATURAL
from dentbench.spec.evaluation import EvalSpec

WORTH: Final = 15.0
"""The most seconds of a run, by its passes alone, for which a single worker is enough.

Others take some seconds to start."""

EACH: Final = 2**29
"""Bytes that a worker takes beside its tensors."""


def with_worker_count(
    placement: Placement,
    worker: Worker,
    specs: Sequence[EvalSpec],
    protocols: Sequence[str],
    cache: Path | None,
) -> Placement:
    """Return a placement with its workers counted, for a run of some specs and protocols.

    ``worker``: this process's own. ``cache``: where timings are remembered; without it there
    is a worker per device, as where a number of threads was asked for.
    """
    if placement.workers != AUTO:
        return placement
    alone = replace(placement, workers=None)
    if not specs:
        return alone
    of_processor = placement.executor == "local" and placement.devices == ("cpu",)
    cores = torch.get_num_threads()
    batches = max(len(spec.batches.ranges(spec.data.count)) for spec in specs)
    if not of_processor or placement.threads is not None or min(cores, batches) < 2:
        return alone
    images = worker.inputs.images[: specs[0].batches.size]
    with worker.counter.uncounted():
        seconds = seconds_by_workers(worker.network, images, cache)
    passes = sum(_passes(spec, protocols, worker.classes) for spec in specs)
    if not seconds or passes * seconds[1] / (2 * len(images)) < WORTH:
        return alone
    if fastest(seconds, batches) > 1:
        most = _room(worker, specs, protocols)
        seconds = {count: taken for count, taken in seconds.items() if count <= most}
    count = fastest(seconds, batches)
    if count == 1:
        return alone
    return replace(placement, workers=min(count, batches), threads=cores // count)


def _stages(spec: EvalSpec, protocols: Sequence[str]) -> tuple[str, ...]:
    if spec.attack.is_none:
        return (NATURAL,)
    return (NATURAL, *(with_prerequisites(protocols, spec) if spec.defense else ("published",)))


def _passes(spec: EvalSpec, protocols: Sequence[str], classes: int) -> int:
    """Return the most single-image passes that a spec can cost."""
    each = (stage_passes(spec, stage, classes) for stage in _stages(spec, protocols))
    return sum(passes.forwards + passes.backwards for passes in each) * spec.data.count


def _room(worker: Worker, specs: Sequence[EvalSpec], protocols: Sequence[str]) -> int:
    """Return how many workers half of the machine's memory is enough for; at least 1.

    Memory is measured only where it may matter: the first measurement takes a second.
    """
    half = machine() // 2
    largest = max(min(spec.batches.size, spec.data.count) for spec in specs)
    enough = half // (EACH + suspected(worker.inputs.images[0], largest))
    if enough >= torch.get_num_threads():
        return enough
    needs = [worker.model.need(spec, stage) for spec in specs for stage in _stages(spec, protocols)]
    measured = [need for need in needs if need is not None]
    if len(measured) < len(needs):
        return 1
    return max(1, half // (EACH + SCRATCH * max(measured)))
