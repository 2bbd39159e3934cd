"""Check every spec and the network given before hours are spent."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import nn

from dentbench.attacks.base import ThreatModel
from dentbench.attacks.catalogue import CHECKS_VERSION
from dentbench.attacks.checks import SAME
from dentbench.attacks.probes.base import relative_change
from dentbench.attacks.protocol_cards import claim_name
from dentbench.compute.precision import PAYS, bfloat16_time
from dentbench.errors import DataError
from dentbench.evaluation.context import RunContext
from dentbench.evaluation.input_checks.claimed_points import require_fitting
from dentbench.evaluation.memory import out_of_memory
from dentbench.records.claims import load_claim
from dentbench.report import coupling
from dentbench.report.remedies import KEEP_STATISTICS
from dentbench.spec.evaluation import EvalSpec
from dentbench.spec.plausible import remark, require_plausible
from dentbench.stats import least_batches

_log = logging.getLogger(__name__)

FEW: Final = 4
"""The number of images on which the network is asked whether it couples them."""

SAME_NETWORK: Final = f"same-network-{CHECKS_VERSION}"
"""The note beside the outcomes that names the kind of device of the comparison."""


class Preflight:
    """The checks of specs that come before everything else; none of them counts a pass."""

    def __init__(self, context: RunContext) -> None:
        self.context = context
        self._compared: set[Any] = set()

    def check(self, specs: Sequence[EvalSpec], protocols: Sequence[str]) -> None:
        """Raise :class:`~dentbench.errors.DentBenchError` for an unsound spec.

        Stored outcomes of these specs are forgotten where the run is to begin afresh.
        """
        self._advise_class_folders(specs[0].data.name)
        self.advise_precision(specs)
        self._advise_coupled_network(specs[0])
        self._advise_changing_network(specs[0])
        there = self.context.inputs.available
        advice = [_advice(spec, there) for spec in specs]
        remarks = [
            remark(spec.attack.norm, spec.attack.eps) for spec in specs if not spec.attack.is_none
        ]
        for text in dict.fromkeys(filter(None, remarks + advice)):
            _log.warning("%s", text)
        for spec in specs:
            folder = self.context.folder(spec)
            self._require_sound(spec, protocols)
            if self.context.options.fresh:
                folder.clear()
            if not self._is_compared(spec):
                folder.save_note(SAME_NETWORK, self.context.worker.device.type)

    def require_sound(self, specs: Sequence[EvalSpec], protocols: Sequence[str]) -> None:
        """Raise as :meth:`check` does; say, write and forget nothing."""
        for spec in specs:
            self._require_sound(spec, protocols)

    def _advise_class_folders(self, data: str) -> None:
        """Warn where labels were inferred from more or fewer folders than the model has classes."""
        folders, outputs = self.context.inputs.class_folders, self.context.worker.classes
        if folders is not None and folders != outputs:
            _log.warning(
                "%s has %d class folder%s and the model %d outputs: a missing folder moves the "
                "labels of those behind it",
                *(data, folders, "" if folders == 1 else "s", outputs),
            )

    def advise_precision(self, specs: Sequence[EvalSpec]) -> None:
        """Say so where bf16 was asked for and is not faster on this device."""
        low = next((spec for spec in specs if spec.precision == "bf16"), None)
        if low is None:
            return
        images = self.context.inputs.images[: low.batches.size].to(self.context.worker.device)
        with self.context.worker.counter.uncounted():
            ratio = bfloat16_time(
                self.context.worker.network, images, self.context.options.fetch.folder
            )
        if ratio is not None and ratio > PAYS:
            _log.warning(
                "bf16 takes %.2g times as long as fp32 on this device, so it does not pay; "
                "--precision fp32 is exact too",
                ratio,
            )

    def _advise_coupled_network(self, spec: EvalSpec) -> None:
        """Warn before an attack where the network's own answers depend on batch mates; once."""
        worker = self.context.worker
        few = self.context.inputs.images[:FEW].to(worker.device)
        suspected = any(
            isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.running_mean is None
            for layer in self.context.inputs.network.modules()
        )
        if not suspected or len(few) < 2 or self._is_advised(spec):
            return
        with worker.counter.uncounted(), torch.no_grad():
            try:
                together = worker.network(few)
                alone = torch.cat([worker.network(image[None]) for image in few])
            except (RuntimeError, ValueError):  # no room, or it takes no single image
                return
        moved = relative_change(alone, together)
        if moved > SAME:
            _log.warning(
                "the network's own answer to an image depends on its batch mates (by %.2g of the "
                "range), as with layers that keep no running statistics: no verdict can rest on "
                "it; %s",
                *(moved, KEEP_STATISTICS),
            )

    def _advise_changing_network(self, spec: EvalSpec) -> None:
        """Warn before an attack where the network answers the same images in two ways; once."""
        worker = self.context.worker
        if self._is_advised(spec):
            return
        few = self.context.inputs.images[:FEW].to(worker.device)
        devices = [worker.device] if worker.device.type == "cuda" else []
        with worker.counter.uncounted(), torch.random.fork_rng(devices), torch.no_grad():
            try:
                network = copy.deepcopy(worker.network)
                moved = relative_change(network(few), network(few))
            except Exception:  # no room, or an error that is reported where it is to answer
                return
        if moved > SAME:
            _log.warning(
                "the network answers the same images in two ways (they differ by %.2g of the "
                "range), as with random numbers, or statistics and counters that move as it "
                "answers: no verdict can rest on it; fix the numbers, and freeze the rest",
                moved,
            )

    def _is_advised(self, spec: EvalSpec) -> bool:
        """Return whether a run before has advised, or nothing is attacked."""
        told = self._is_compared(spec) and not self.context.options.fresh
        return spec.attack.is_none or told

    def _require_sound(self, spec: EvalSpec, protocols: Sequence[str]) -> None:
        """Raise an error for an unsound spec before hours are spent."""
        options, images = self.context.options, self.context.inputs.images
        if not (spec.attack.is_none or options.force):
            require_plausible(spec.attack.norm, spec.attack.eps, images[0].numel())
        there = len(images)
        if spec.data.count != there:
            raise DataError(f"{spec.data.count} images are asked for, but {there} are there")
        with out_of_memory.raise_on_oom(f"the defense {spec.label}", self.context.worker.device):
            self.context.worker.classifier(spec)
            self._require_same_network(spec)
        for name in filter(None, map(claim_name, protocols if spec.defense else ())):
            points = load_claim(self.context.options.results, name)
            require_fitting(points, self.context.inputs.images, ThreatModel.of(spec.attack))

    def _require_same_network(self, spec: EvalSpec) -> None:
        """Compare a spec's network with the network handed in, unless that was done before."""
        key = (spec.defense, spec.batches)
        if key not in self._compared and (
            self.context.options.fresh or not self._is_compared(spec)
        ):
            self.context.worker.require_usable(spec)
            self.context.worker.require_same_network(spec)
        self._compared.add(key)

    def _is_compared(self, spec: EvalSpec) -> bool:
        """Return whether a run of this spec on such a device has compared it."""
        note: str | None = self.context.folder(spec).load_note(SAME_NETWORK, "")
        return note == self.context.worker.device.type


def _advice(spec: EvalSpec, there: int | None) -> str:
    """Say that a defense's images share batches that are too few for a verdict; "" where not."""
    batches, plan = len(spec.batches.ranges(spec.data.count)), spec.batches
    if spec.separable or spec.attack.is_none or batches >= least_batches():
        return ""
    remedy, _ = coupling.more_batches(spec.data.count, plan.size, plan.batching, there)
    return f"{coupling.too_few_text(batches, least_batches())}; {remedy}"
