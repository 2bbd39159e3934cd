"""Prepare a model on a device: by an engine, counted, with the defenses around it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from dentbench.attacks.counting import CallCounter, CountedNetwork
from dentbench.attacks.differentiable import gradient_path
from dentbench.attacks.no_answer import NoAnswers
from dentbench.compute.adaptation_cache import AdaptationCache
from dentbench.compute.backend import Engine
from dentbench.compute.precision import Bfloat16
from dentbench.containment import torch_settings_kept
from dentbench.errors import DataError, SpecError
from dentbench.evaluation.input_checks import first_answers
from dentbench.evaluation.inputs import RunInputs
from dentbench.evaluation.memory import out_of_memory
from dentbench.evaluation.memory.footprint import needed
from dentbench.evaluation.workers.defense_cache import DefenseCache
from dentbench.spec.evaluation import DefenseSpec, EvalSpec


class PreparedModel:
    """A model and images on a device, and the defenses around the model.

    ``engine``: how the network is computed. ``given``: the objects that specs of defenses given
    from Python stand for. ``tried``: whether a user's defense is tried when it is made.
    ``blueprint``: another process makes the same from it. ``network`` and ``defense_cache`` compute
    in float32; passes are counted by ``counter``.
    Raises :class:`~dentbench.errors.ModelError` or :class:`~dentbench.errors.DataError` when the
    network does not fit the images or the labels.
    """

    def __init__(
        self,
        inputs: RunInputs,
        device: str,
        engine: Engine,
        given: Mapping[DefenseSpec, Any] | None = None,
        *,
        tried: bool = True,
    ) -> None:
        self.blueprint = inputs, engine, given
        self.inputs = inputs
        self.device = torch.device(device)
        self.counter = CallCounter()
        with out_of_memory.raise_on_oom("the model", device), torch_settings_kept():
            network = engine.prepare(inputs.network, self.device, inputs.images[:2])
            self.classes = _count_classes(network, inputs, self.device)
        natural = inputs.images[:2].to(self.device)
        path = gradient_path(network, natural[:1])
        no_answers = NoAnswers("the model", self.classes, apart=True)
        no_answers.natural = natural
        self.network = CountedNetwork(network, self.counter, path, no_answers=no_answers)
        low = CountedNetwork(
            Bfloat16(network), self.counter, path, own=network, no_answers=no_answers
        )
        self.adaptations = AdaptationCache()
        self.defense_cache, self._low = (
            DefenseCache(
                counted,
                inputs.images,
                given,
                captured=engine.captured,
                adaptations=self.adaptations,
                tried=tried,
            )
            for counted in (self.network, low)
        )

    def attacked(self, spec: EvalSpec) -> DefenseCache:
        """Return the defenses as the attacks of a spec compute them: in its precision."""
        if spec.precision == "tf32" and self.device.type != "cuda":
            raise SpecError("precision is 'tf32', which only CUDA GPUs have; use fp32 or bf16")
        return self._low if spec.precision == "bf16" else self.defense_cache

    def need(self, spec: EvalSpec, stage: str) -> int | None:
        """Return about how many bytes a stage takes for a whole batch.

        See :func:`~dentbench.evaluation.memory.footprint.needed`. None where that cannot be
        measured, as for a defense that takes no few images.
        """
        attacked = self.attacked(spec)
        with self.counter.uncounted(), suppress(Exception):
            return needed(spec, stage, attacked.of(spec), attacked.network, self._few())
        return None

    def why_whole(self, spec: EvalSpec) -> str:
        """Return why a spec's batch cannot be cut without changing answers, or "" if it can."""
        with self.counter.uncounted():
            return out_of_memory.why_whole(spec, self.defense_cache.of(spec), self._few())

    def _few(self) -> Tensor:
        return self.inputs.images[: out_of_memory.FEW].to(self.device)


@torch.no_grad()
def _count_classes(network: nn.Module, inputs: RunInputs, device: torch.device) -> int:
    """Return how many classes the network has, after checking that it fits the data."""
    classes = first_answers.logits_of(network, inputs.images[:1].to(device)).shape[1]
    low, high = int(inputs.labels.min()), int(inputs.labels.max())
    for label in (low, high):
        if not 0 <= label < classes:
            advice = "look at the labels and at the model's number of outputs"
            if (low, high) == (1, classes):
                advice = "the labels begin at 1, so take 1 from each"
            if inputs.class_folders is not None:
                advice = (
                    f"there are {inputs.class_folders} folders, and each is taken for a class: "
                    "take away those that are none"
                )
            raise DataError(
                f"label {label} is in the data, but the model has {classes} classes, 0 to "
                f"{classes - 1}; {advice}"
            )
    return classes
