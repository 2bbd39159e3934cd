"""An image right only in the process that was attacked does not count, whatever remembers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dentbench.attacks import checks
from dentbench.attacks.checks import Check, from_json
from dentbench.evaluation.context import RunOptions
from dentbench.evaluation.fresh_judgement.judge_process import JudgeRequest, judge_one_by_one
from dentbench.evaluation.fresh_judgement.pristine import is_library_code
from dentbench.evaluation.inputs import RunInputs
from dentbench.evaluation.runner import Evaluation
from dentbench.records.checkpoint import RunFolder, sha256_of
from dentbench.records.judged import NOTE
from dentbench.records.outcome import BatchOutcome, Record
from dentbench.spec.evaluation import DefenseSpec, EvalSpec
from tests.attacks.contexts import spec_of
from tests.attacks.toys import labels_of, small_network, tiny_images
from tests.helpers import compared, outcomes

pytestmark = [pytest.mark.new_processes, pytest.mark.checks]

IMAGES = 12
EPS = Fraction(1, 12)
NEAR = 2.5 * float(EPS)
PROTOCOLS = ("published", "transfer", "warm")


class Memory(nn.Module):
    """Answers near-duplicate questions with the label that it gave first, after some calls."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.seen: list[tuple[Tensor, Tensor]] = []
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        logits: Tensor = self.network(x)
        answer = logits
        for images, before in self.seen if self.calls > self.AFTER else ():
            distance = (x[:, None] - images[None]).abs().flatten(2).amax(2)
            known = distance.amin(1) < NEAR
            answer = torch.where(known[:, None], before[distance.argmin(1)], answer)
        if len(self.seen) < 2:
            self.seen.append((x.detach().clone(), answer.detach().clone()))
        return answer

    AFTER: ClassVar[int] = 0


class LateMemory(Memory):
    """Uses its memory only after its 40th call."""

    AFTER = 40


class ClassMemory(Memory):
    """A memory that all instances share, copies too."""

    shared: ClassVar[list[tuple[Tensor, Tensor]]] = []

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network)
        self.seen = self.shared

    def __deepcopy__(self, memo: Any) -> ClassMemory:
        return ClassMemory(self.network)


MODULE: list[tuple[Tensor, Tensor]] = []


class ModuleMemory(ClassMemory):
    """A memory of the whole process."""

    shared: ClassVar[list[tuple[Tensor, Tensor]]] = MODULE


class CountedCalls(nn.Module):
    """Answers as the network for 30 calls, and then, to all, with its first answer."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.calls = 0
        self.first: dict[int, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        logits: Tensor = self.network(x)
        self.first.setdefault(len(x), logits.detach())
        return logits if self.calls < 30 else logits - logits.detach() + self.first[len(x)]


class Honest(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x)
        return logits


def honest_lambda(network: nn.Module) -> Callable[[Tensor], Tensor]:
    return lambda x: network(x)


class Streaming:
    """It cannot be sent to another process, nor copied."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.stream = (number for number in range(3))

    def __call__(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x)
        return logits


def evaluated(
    results: Path,
    make: Callable[[nn.Module], Any],
    protocols: tuple[str, ...] = PROTOCOLS,
    **options: Any,
) -> tuple[Record, Record, EvalSpec]:
    network, images = small_network(5, 1), tiny_images(IMAGES, 1)
    subject = RunInputs(network=network, images=images, labels=labels_of(network, images))
    spec = spec_of(IMAGES, iterations=10, eps=EPS, batch=IMAGES)
    spec = replace(spec, defense=DefenseSpec(name="planted", sha256="0", separable=True))
    assert isinstance(spec.defense, DefenseSpec)
    run = Evaluation(
        subject, RunOptions(results=results, **options), None, {spec.defense: make(network)}
    )
    static, defended = run.run([spec.static, spec], protocols)
    return static, defended, spec


def fresh(record: Record) -> Check:
    return from_json(record.checks)[checks.FRESH_PROCESS]


@pytest.mark.parametrize("kind", [Memory, LateMemory, ClassMemory, ModuleMemory, CountedCalls])
def test_a_memory_gains_nothing(kind: type[Memory], tmp_path: Path) -> None:
    ClassMemory.shared.clear()
    MODULE.clear()
    static, defended, _ = evaluated(tmp_path, kind)
    assert static.robust_correct < IMAGES / 2, "the network is easily broken"
    assert fresh(defended).passed is False, fresh(defended)
    assert defended.robust_correct <= static.robust_correct + 1
    again = evaluated(tmp_path, Honest)[
        1
    ]  # nothing is left to do: the stored judgement says the same
    assert again.robust_correct == defended.robust_correct and again.checks == defended.checks


@pytest.mark.parametrize("make", [Honest, honest_lambda])
def test_an_honest_defense_passes_and_its_points_are_forgotten(
    make: Callable[[nn.Module], Any], tmp_path: Path
) -> None:
    _, defended, spec = evaluated(tmp_path, make)
    assert fresh(defended).passed is True, fresh(defended)
    assert defended.robust_correct == defended.static_correct
    folder = RunFolder(tmp_path, spec)
    assert folder.points("published", 0) is None and folder.points("warm", 0) is not None
    _, kept, _ = evaluated(tmp_path, make, save_adversarial=True)
    points = folder.points("published", 0)
    outcome = folder.load("published", 0)
    assert points is not None and outcome is not None
    assert sha256_of(points) == outcome.points_sha256
    assert kept.robust_correct == defended.robust_correct


def test_a_defense_that_cannot_be_sent_is_told_of(tmp_path: Path) -> None:
    _, defended, _ = evaluated(tmp_path, Streaming, ("published",))
    assert fresh(defended).passed is None and "cannot be sent" in fresh(defended).sentence


def test_points_that_are_not_those_that_were_found_are_refused(tmp_path: Path) -> None:
    _, first, spec = evaluated(tmp_path, Honest, save_adversarial=True)
    folder = RunFolder(tmp_path, spec)
    outcome, points = folder.load("published", 0), folder.points("published", 0)
    assert outcome is not None and points is not None
    folder.drop_note(f"published/{NOTE}")
    folder.save(outcome, np.zeros_like(points))
    with pytest.raises(Exception, match="are not those that were attacked with"):
        evaluated(tmp_path, Honest, save_adversarial=True)
    folder.path.joinpath("published", "00000.npz").unlink()
    assert evaluated(tmp_path, Honest)[1].robust_correct == first.robust_correct


def resumed_beside_whole(
    tmp_path: Path,
    make: Callable[[nn.Module], Any],
    interrupt: tuple[type, str],
    by: Callable[..., None],
) -> Record:
    """Return the record of a run that a method interrupted, required to be that of a whole run."""
    protocols = ("published", "transfer")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(*interrupt, by)
        with pytest.raises(KeyboardInterrupt):
            evaluated(tmp_path / "resumed", make, protocols)
    actual = [evaluated(tmp_path / name, make, protocols)[1] for name in ("resumed", "whole")]
    assert compared(actual[0]) == compared(actual[1])
    assert outcomes(tmp_path / "resumed") == outcomes(tmp_path / "whole")
    return actual[0]


def test_a_run_that_ends_before_the_judgement_goes_on_with_it(tmp_path: Path) -> None:
    def interrupted(_: JudgeRequest) -> None:
        raise KeyboardInterrupt

    actual = resumed_beside_whole(tmp_path, Memory, (JudgeRequest, "ask"), interrupted)
    assert fresh(actual).passed is False


@pytest.mark.parametrize("dropped", [False, True])
def test_a_run_that_ends_where_points_are_dropped_ends_in_the_same_record(
    tmp_path: Path, dropped: bool
) -> None:
    def interrupted(folder: RunFolder, outcome: BatchOutcome) -> None:
        if dropped:
            folder.save(outcome, None)
        raise KeyboardInterrupt

    resumed_beside_whole(tmp_path, Honest, (RunFolder, "drop_points"), interrupted)


class InstanceMemory(Memory):
    """A memory of one instance, whose class is a user's."""


def test_stages_that_share_a_process_have_an_instance_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU: the instance of one stage is never shown the points of another."""
    asked: list[JudgeRequest] = []
    ask = JudgeRequest.ask

    def kept(request: JudgeRequest) -> Any:
        asked.append(request)
        return ask(request)

    monkeypatch.setattr(JudgeRequest, "ask", kept)
    evaluated(tmp_path, InstanceMemory, ("published", "transfer"), save_adversarial=True)
    request, static = asked
    assert len(request.stages) == 3
    assert static.spec.defense is None and static.stages == ("natural", "published")
    together, apart = judge_one_by_one(request), ask(request)
    assert [*together] == [*request.stages]
    for stage in request.stages:
        assert [outcome.right for outcome in together[stage]] == [
            outcome.right for outcome in apart[stage]
        ]


def test_only_code_that_keeps_nothing_shares_a_process() -> None:
    spec = spec_of(IMAGES)
    known = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    assert is_library_code(known, spec)
    assert not is_library_code(nn.Sequential(known, Honest(known)), spec)
    own = replace(spec, defense=DefenseSpec(name="planted", sha256="0", separable=True))
    assert not is_library_code(known, own)
    known[2].register_forward_hook(lambda *_: None)
    assert not is_library_code(known, spec)
