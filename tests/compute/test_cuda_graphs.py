"""Recorded adaptations, with a stand-in for CUDA graphs: it repeats the work without counting."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from torch import Tensor

from dentbench import Dent, DentSpec
from dentbench.attacks.counting import CallCounter, CountedNetwork
from dentbench.compute import cuda_graphs
from dentbench.compute.cuda_graphs import IN_A_ROW, MOST, OFTEN, Captured, Work, stop_recording
from dentbench.compute.precision import tensor_float32
from tests.compute.networks import network


class StandIn:
    """A stand-in for :class:`~dentbench.compute.cuda_graphs.CudaGraph`: fixed memory and shape."""

    made = 0
    off = 0.0

    def __init__(self, counter: CallCounter, work: Work, x: Tensor) -> None:
        type(self).made += 1
        self.counter = counter
        self.work = work
        self.x = x.clone()
        self.found = [tensor.clone() for tensor in work(self.x)]

    def __call__(self, x: Tensor) -> tuple[Tensor, ...]:
        assert x.shape == self.x.shape
        self.x.copy_(x)
        with self.counter.uncounted():
            for kept, new in zip(self.found, self.work(self.x), strict=True):
                kept.copy_(new + self.off)
        return tuple(tensor.clone() for tensor in self.found)


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> type[StandIn]:
    monkeypatch.setattr(StandIn, "made", 0)
    return StandIn


def dents(spec: DentSpec, stand_in: type[StandIn]) -> tuple[Dent, Dent, CallCounter, CallCounter]:
    """Return dent without and with recordings, and what counts the passes of each."""
    model = network().requires_grad_(False)
    counters = CallCounter(), CallCounter()
    recorded = partial(
        Captured, counter=counters[1], record=lambda work, x: stand_in(counters[1], work, x)
    )
    plain = Dent(CountedNetwork(model, counters[0]), spec)
    return plain, Dent(CountedNetwork(model, counters[1]), spec, recorded=recorded), *counters


@pytest.mark.parametrize(
    "spec",
    [
        DentSpec(steps=3),
        DentSpec(steps=2, mode="batch", blur="dynamic"),
        DentSpec(steps=2, delta="none", blur="dynamic"),
        DentSpec(steps=0),
    ],
    ids=str,
)
def test_recordings_find_the_same_and_count_the_same(
    spec: DentSpec, stand_in: type[StandIn]
) -> None:
    plain, recorded, counted, counter = dents(spec, stand_in)
    for turn in range(OFTEN + 3):
        torch.manual_seed(turn)
        x = torch.rand(4, 3, 6, 6, requires_grad=True)
        logits, right = recorded(x), plain(x)
        assert torch.equal(logits, right)
        assert torch.equal(*(torch.autograd.grad(tensor.sum(), x)[0] for tensor in (logits, right)))
        assert (counter.forwards, counter.backwards) == (counted.forwards, counted.backwards)
    assert stand_in.made == (1 if spec.steps else 0)


def test_only_the_shapes_that_come_most_are_recorded(stand_in: type[StandIn]) -> None:
    plain, recorded, *_ = dents(DentSpec(steps=1), stand_in)
    for size in (1, 2, 3, 4, 5):
        x = torch.rand(size, 3, 6, 6)
        for turn in range(OFTEN - 1 if size == 1 else OFTEN + 1):
            assert torch.equal(recorded(x), plain(x)), (size, turn)
    assert stand_in.made == MOST


def test_a_shape_that_keeps_coming_takes_the_place_of_one_that_does_not(
    stand_in: type[StandIn],
) -> None:
    plain, recorded, *_ = dents(DentSpec(steps=1), stand_in)
    for size in (1, 2, 1, 3, 1, 2):
        x = torch.rand(size, 3, 6, 6)
        for _ in range(IN_A_ROW + 1):
            assert torch.equal(recorded(x), plain(x))
    assert stand_in.made == 4  # 1, 2, 3 in the place of 2, and 2 in that of 3


def test_what_was_recorded_in_less_precision_is_not_taken_for_more(
    stand_in: type[StandIn],
) -> None:
    plain, recorded, *_ = dents(DentSpec(steps=1), stand_in)
    x = torch.rand(2, 3, 6, 6)
    for allowed, made in ((True, 1), (False, 2), (True, 2), (False, 2)):
        with tensor_float32(allowed):
            for _ in range(OFTEN):
                assert torch.equal(recorded(x), plain(x))
        assert stand_in.made == made


def test_no_recording_outlives_changed_weights(stand_in: type[StandIn]) -> None:
    plain, recorded, *_ = dents(DentSpec(steps=1), stand_in)
    x = torch.rand(2, 3, 6, 6)
    layers = [dent.network.network[5] for dent in (plain, recorded)]
    changes = (
        lambda layer: layer.weight.mul_(2),
        lambda layer: setattr(layer, "weight", torch.nn.Parameter(layer.weight * 3)),
        lambda layer: setattr(layer.bias, "data", layer.bias.data + 1),
    )
    for change in changes:
        for _ in range(OFTEN + 1):
            recorded(x)
        assert len(recorded._descent.recordings) == 1
        with torch.no_grad():
            for layer in layers:
                change(layer)
        layers[1].weight.requires_grad_(False)
        assert torch.equal(recorded(x), plain(x))
        assert len(recorded._descent.recordings) == 0


def test_a_recording_that_finds_something_else_is_dropped(
    stand_in: type[StandIn], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(StandIn, "off", 0.1)
    plain, recorded, counted, counter = dents(DentSpec(steps=2), stand_in)
    for _ in range(OFTEN + 3):
        x = torch.rand(4, 3, 6, 6)
        assert torch.equal(recorded(x), plain(x))
    assert stand_in.made == 1
    assert (counter.forwards, counter.backwards) == (counted.forwards, counted.backwards)
    assert [record.getMessage() for record in caplog.records] == [
        "adaptation is not recorded as a CUDA graph: it finds other values"
    ]


def test_without_a_gpu_the_real_recording_fails_and_the_work_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    counter = CallCounter()
    model = CountedNetwork(network().requires_grad_(False), counter)
    recorded = Dent(model, DentSpec(steps=1), recorded=partial(Captured, counter=counter))
    x = torch.rand(2, 3, 6, 6)
    answers = [recorded(x) for _ in range(OFTEN + 1)]
    assert all(torch.equal(answer, answers[0]) for answer in answers)
    assert "not recorded as a CUDA graph" in caplog.text
    assert counter.forwards == 2 * (1 + 1) * (OFTEN + 1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")
def test_cuda_graphs_find_the_same() -> None:
    counter = CallCounter()
    model = CountedNetwork(network().requires_grad_(False).cuda(), counter)
    plain = Dent(model, DentSpec(steps=3))
    recorded = Dent(model, DentSpec(steps=3), recorded=partial(Captured, counter=counter))
    for _ in range(OFTEN + 2):
        x = torch.rand(4, 3, 6, 6, device="cuda")
        torch.testing.assert_close(recorded(x), plain(x), rtol=1e-4, atol=1e-4)


def test_a_copy_leaves_recordings_behind(stand_in: type[StandIn]) -> None:
    _, recorded, *_ = dents(DentSpec(steps=1), stand_in)
    x = torch.rand(2, 3, 6, 6)
    for _ in range(OFTEN):
        recorded(x)
    other = copy.deepcopy(recorded)
    with torch.no_grad():
        recorded.network.network[5].weight.mul_(2)
        changed = recorded.network.network[5].weight
    assert not torch.equal(other.network.network[5].weight, changed)
    fresh = Dent(network().requires_grad_(False), DentSpec(steps=1))
    # It joins other layers, whose last bits differ where the CPU lacks AVX-512.
    assert torch.allclose(other(x), fresh(x), atol=1e-5)


def test_nothing_is_recorded_where_memory_is_short(
    stand_in: type[StandIn], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda_graphs, "_stopped", False)
    plain, recorded, *_ = dents(DentSpec(steps=1), stand_in)
    x = torch.rand(2, 3, 6, 6)
    for _ in range(2):
        for _ in range(OFTEN + 1):
            assert torch.equal(recorded(x), plain(x))
        assert stand_in.made == 1
        stop_recording()
        assert len(recorded._descent.recordings) == 0
