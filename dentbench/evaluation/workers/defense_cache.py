"""Build and cache each spec's classifier: the network itself, or the defense around it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from dentbench.adapt.dent import Dent
from dentbench.attacks.base import Classifier
from dentbench.attacks.counting import CountedNetwork
from dentbench.compute.adaptation_cache import AdaptationCache, CachedAdaptation
from dentbench.compute.answer_graphs import Answer, CapturedAnswer, RecordedNetwork
from dentbench.compute.cuda_graphs import Captured, Work
from dentbench.defenses.build import build
from dentbench.errors import SpecError
from dentbench.spec.evaluation import DefenseSpec, EvalSpec

TRIAL = 2
"""The number of images that a user's defense is tried on before anything else."""


class DefenseCache:
    """The defenses of a run, each made once.

    ``images`` (N, C, H, W) in [0, 1]: the run's natural images, on the network's device or not.
    ``given``: the objects that specs of defenses given from Python stand for. ``captured``:
    whether dent's adaptations, and answers of dent and of the network with their gradients, are
    recorded as CUDA graphs. ``adaptations``: where those made lately are kept. ``tried``: whether a
    user's defense is asked about a few images when it is made. ``static`` is the network
    itself, as it is attacked.
    """

    def __init__(
        self,
        network: CountedNetwork,
        images: Tensor,
        given: Mapping[DefenseSpec, Any] | None,
        *,
        captured: bool,
        adaptations: AdaptationCache,
        tried: bool = True,
    ) -> None:
        self.network = network
        self.images = images
        self.given = given
        self.captured = captured
        self.adaptations = adaptations
        self.tried = tried
        self._made: dict[Any, Any] = {}
        self.static: Classifier = network
        if captured:
            self.static = RecordedNetwork(network, network.counter)

    def of(self, spec: EvalSpec, unit: int | None = None) -> Classifier:
        """Return a spec's classifier, in a unit of work or at the start of the run.

        The two differ for a defense with ``after(x)``, which goes on from batch to batch: in a
        unit it is as the natural images of the units before have left it. So every unit has one
        answer, whatever was run or resumed before; that attacks on earlier units would have left
        it otherwise is not evaluated. Its passes on the way there are not counted.
        """
        if spec.defense is None:
            return self.static
        key = (spec.defense, spec.batches)
        if key not in self._made:
            self._made[key] = self.make(spec)
        made: Classifier = self._made[key]
        if unit is None or not hasattr(made, "after"):
            return made
        return self._carried(spec, made, unit)

    def stream(self, spec: EvalSpec, unit: int, most: int) -> tuple[Any, tuple[Tensor, ...]] | None:
        """Return a defense as it was before at most ``most`` batches that precede a unit, and them.

        None for a defense that does not go on from batch to batch.
        """
        first = max(unit - most, 0)
        state: Any = self.of(spec, first)
        if not hasattr(state, "after"):
            return None
        device = next((p.device for p in self.network.parameters()), self.images.device)
        units = spec.batches.ranges(spec.data.count)[first:unit]
        return state, tuple(self.images[rows.start : rows.stop].to(device) for rows in units)

    def make(self, spec: EvalSpec) -> Any:
        """Return a spec's defense, new, as it is before it is asked anything."""
        assert spec.defense is not None
        if not isinstance(spec.defense, DefenseSpec):
            size = spec.batches.size if spec.separable else None
            return Dent(
                self.network,
                spec.defense,
                batch_size=size,
                prepare=False,
                recorded=self._recorded,
                answered=self._answered if self.captured else None,
            )
        device = next((p.device for p in self.network.parameters()), self.images.device)
        trial = self.images[:TRIAL].to(device)
        made = build(spec.defense, self.network, trial, self.given, tried=self.tried)
        if hasattr(made, "after") and spec.batches.batching != "declared":
            raise SpecError(
                f"{spec.defense.name} goes on from batch to batch, so it needs declared batches, "
                "not AutoAttack's own packing"
            )
        return made

    def _recorded(self, work: Work, dent: nn.Module) -> Work:
        counter = self.network.counter
        if self.captured:
            work = Captured(work, dent, counter)
        return CachedAdaptation(work, counter, self.adaptations)

    def _answered(self, answer: Answer, dent: nn.Module) -> Answer:
        return CapturedAnswer(answer, dent, self.network.counter)

    def _carried(self, spec: EvalSpec, made: Any, unit: int) -> Classifier:
        """Return the defense as it is after the natural images of the units before."""
        key = (spec.defense, spec.batches, "carried")
        states: list[Any] = self._made.setdefault(key, [made])
        device = next((p.device for p in self.network.parameters()), self.images.device)
        with self.network.counter.uncounted():
            for before in spec.batches.ranges(spec.data.count)[len(states) - 1 : unit]:
                batch = self.images[before.start : before.stop].to(device)
                states.append(states[-1].after(batch))
        state: Classifier = states[unit]
        return state
