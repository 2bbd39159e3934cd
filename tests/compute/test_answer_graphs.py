"""Recorded answers and gradients, with a stand-in for CUDA graphs: fixed memory, no counting."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from dentbench import Dent, DentSpec
from dentbench.attacks.counting import CallCounter, CountedNetwork
from dentbench.compute import cuda_graphs
from dentbench.compute.answer_graphs import Answer, CapturedAnswer, Inputs, RecordedNetwork
from dentbench.compute.cuda_graphs import OFTEN, stop_recording
from tests.compute.networks import network

SPECS = [
    DentSpec(steps=2),
    DentSpec(steps=2, mode="batch", blur="dynamic"),
    DentSpec(steps=2, delta="none", blur="dynamic"),
    DentSpec(steps=0),
]


class StandIn:
    """A stand-in for :class:`~dentbench.compute.answer_graphs.AnswerGraphs`."""

    made = 0
    forwards = 0
    off = 0.0

    def __init__(self, counter: CallCounter, answer: Answer, inputs: Inputs) -> None:
        type(self).made += 1
        self.turn = 0
        self.counter, self.answer = counter, answer
        self.inputs = [None if tensor is None else tensor.detach().clone() for tensor in inputs]

    def forward(self, inputs: Inputs) -> Tensor:
        type(self).forwards += 1
        self.turn += 1
        with torch.no_grad(), self.counter.uncounted():
            for kept, tensor in zip(self.inputs, inputs, strict=True):
                if kept is not None and tensor is not None:
                    assert kept.shape == tensor.shape
                    kept.copy_(tensor)
            with torch.enable_grad():
                self.x = self.inputs[0].detach().requires_grad_()  # type: ignore[union-attr]
                self.logits = self.answer(self.x, *self.inputs[1:])
        return self.logits.detach() + self.off

    def backward(self, grad: Tensor) -> Tensor:
        with self.counter.uncounted():
            (result,) = torch.autograd.grad(self.logits, self.x, grad, retain_graph=True)
        return result


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> type[StandIn]:
    monkeypatch.setattr(StandIn, "made", 0)
    monkeypatch.setattr(StandIn, "forwards", 0)
    return StandIn


def pair(
    spec: DentSpec | None, stand_in: type[StandIn]
) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor], CallCounter, CallCounter]:
    """Return dent, or the network, without and with recordings; what counts the passes of each."""
    model = network().requires_grad_(False)
    counters = CallCounter(), CallCounter()
    record = partial(stand_in, counters[1])
    plain, other = (CountedNetwork(model, counter) for counter in counters)
    if spec is None:
        return plain, RecordedNetwork(other, counters[1], record), *counters
    answered = partial(CapturedAnswer, counter=counters[1], record=record)
    return Dent(plain, spec), Dent(other, spec, answered=answered), *counters


@pytest.mark.parametrize("spec", [None, *SPECS], ids=str)
def test_answers_gradients_and_passes_are_the_same(
    spec: DentSpec | None, stand_in: type[StandIn]
) -> None:
    plain, recorded, counted, counter = pair(spec, stand_in)
    for turn in range(OFTEN + 3):
        x = torch.rand(4, 3, 6, 6)
        assert torch.equal(recorded(x), plain(x))
        x.requires_grad_()
        logits, right = recorded(x), plain(x)
        assert torch.equal(logits, right)
        gradients = (torch.autograd.grad(item.logsumexp(1).sum(), x)[0] for item in (logits, right))
        assert torch.equal(*gradients), turn
        assert (counter.forwards, counter.backwards) == (counted.forwards, counted.backwards)
    assert stand_in.made == 1


def ready(spec: DentSpec | None, stand_in: type[StandIn]) -> tuple[Callable, Callable]:
    """Return dent, or the network, without and with recordings that are there."""
    plain, recorded, *_ = pair(spec, stand_in)
    for _ in range(OFTEN):
        recorded(torch.rand(2, 3, 6, 6))
    assert stand_in.made == 1
    return plain, recorded


@pytest.mark.parametrize("spec", [None, DentSpec(steps=1)], ids=str)
def test_gradients_may_be_asked_for_later_and_more_than_once(
    spec: DentSpec | None, stand_in: type[StandIn]
) -> None:
    plain, recorded = ready(spec, stand_in)
    images = [torch.rand(2, 3, 6, 6, requires_grad=True) for _ in range(3)]
    answers = [(recorded(x), plain(x), x) for x in images]
    done = stand_in.forwards
    for actual, right, x in (*answers[::-1], *answers):
        assert torch.equal(actual, right)  # no later answer was written over it
        for label in (0, 1):
            gradients = (
                torch.autograd.grad(item[:, label].sum(), x, retain_graph=True)[0]
                for item in (actual, right)
            )
            assert torch.equal(*gradients)
    assert stand_in.forwards == done + 4  # the last and the first asked for again are still there


def test_gradients_of_gradients_are_those_of_the_answer_itself(stand_in: type[StandIn]) -> None:
    plain, recorded = ready(None, stand_in)
    x = torch.rand(2, 3, 6, 6, requires_grad=True)
    actual = []
    for entry in (recorded, plain):
        (gradient,) = torch.autograd.grad(entry(x).logsumexp(1).sum(), x, create_graph=True)
        actual.append((gradient, *torch.autograd.grad(gradient.square().sum(), x)))
    for item, other in zip(*actual, strict=True):
        torch.testing.assert_close(item, other)


def test_a_gradient_of_the_adaptation_is_not_lost(stand_in: type[StandIn]) -> None:
    plain, recorded = ready(DentSpec(steps=1), stand_in)
    x = torch.rand(2, 3, 6, 6, requires_grad=True)
    actual = (
        torch.autograd.grad(item.predict(x, item.unroll(x)).logsumexp(1).sum(), x)[0]
        for item in (recorded, plain)
    )
    torch.testing.assert_close(*actual)


def test_inference_mode_and_its_tensors_are_understood(stand_in: type[StandIn]) -> None:
    plain, recorded = ready(None, stand_in)
    with torch.inference_mode():
        x = torch.rand(2, 3, 6, 6)
        assert torch.equal(recorded(x), plain(x))
    assert torch.equal(recorded(x), plain(x))


def test_no_recording_outlives_changed_weights(stand_in: type[StandIn]) -> None:
    plain, recorded = ready(None, stand_in)
    x = torch.rand(2, 3, 6, 6)
    with torch.no_grad():
        plain.network[5].weight.mul_(2)  # the network is the same for both
    assert torch.equal(recorded(x), plain(x))
    assert len(recorded._answers.recordings) == 0


def test_copies_and_lack_of_memory_leave_recordings_behind(
    stand_in: type[StandIn], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda_graphs, "_stopped", False)
    plain, recorded = ready(DentSpec(steps=1), stand_in)
    x = torch.rand(2, 3, 6, 6, requires_grad=True)
    kept = recorded(x)
    other = copy.deepcopy(recorded)
    assert len(other._answer.recordings) == 0 and torch.equal(other(x), plain(x))
    assert other._answer.recordings._module is other
    stop_recording()
    assert len(recorded._answer.recordings) == 0
    gradients = (torch.autograd.grad(tensor.sum(), x)[0] for tensor in (kept, plain(x)))
    assert torch.equal(*gradients)


def test_a_recording_that_answers_something_else_is_dropped(
    stand_in: type[StandIn], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(StandIn, "off", 0.1)
    plain, recorded = ready(None, stand_in)
    x = torch.rand(2, 3, 6, 6)
    for _ in range(OFTEN):
        assert torch.equal(recorded(x), plain(x))
    assert stand_in.made == 1
    assert [record.getMessage() for record in caplog.records] == [
        "an answer is not recorded as a CUDA graph: it finds other values"
    ]
