"""CUDA graphs of whole adaptations: the same values as without, for every kind of dent."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from dentbench import Dent, DentSpec
from dentbench.attacks.counting import CallCounter, CountedNetwork
from dentbench.compute.answer_graphs import CapturedAnswer, RecordedNetwork
from dentbench.compute.cuda_graphs import OFTEN, Captured
from dentbench.compute.precision import Bfloat16, tensor_float32
from tests.compute.networks import network
from tests.gpu.networks import gradient, resnet20

SPECS = [
    DentSpec(),
    DentSpec(steps=3, loss="entropy"),
    DentSpec(steps=2, mode="batch"),
    DentSpec(steps=2, mode="batch", statistics="batch"),
    DentSpec(steps=2, statistics="batch"),
    DentSpec(steps=2, blur="static", sigma=0.7),
    DentSpec(steps=2, blur="dynamic"),
    DentSpec(steps=2, delta="none", blur="dynamic"),
    DentSpec(steps=3, optimizer="adam"),
    DentSpec(steps=3, optimizer="sgd"),
]


def small() -> nn.Module:
    """Return a network for images (B, 3, 6, 6) on the GPU."""
    return network().cuda().requires_grad_(False)


def dents(model: nn.Module, spec: DentSpec) -> tuple[Dent, Dent, CallCounter, CallCounter]:
    """Return dent without and with recordings, and what counts the passes of each."""
    counters = CallCounter(), CallCounter()
    plain, recorded = (CountedNetwork(model, counter) for counter in counters)
    graphs = Dent(
        recorded,
        spec,
        recorded=partial(Captured, counter=counters[1]),
        answered=partial(CapturedAnswer, counter=counters[1]),
    )
    return Dent(plain, spec), graphs, *counters


def require_same(plain: Dent, graphs: Dent, shape: tuple[int, ...], tolerance: float) -> None:
    """Compare both on fresh images; those past the third call are answered by a recording."""
    for turn in range(OFTEN + 3):
        x = torch.rand(shape, device="cuda")
        for item, other in zip(gradient(graphs, x), gradient(plain, x), strict=True):
            size = other.abs().max()
            assert (item - other).abs().max() <= tolerance * size, turn


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_every_kind_of_dent_is_recorded_and_answers_the_same(
    spec: DentSpec, caplog: pytest.LogCaptureFixture
) -> None:
    plain, graphs, counted, counter = dents(small(), spec)
    require_same(plain, graphs, (8, 3, 6, 6), 1e-5)
    assert len(graphs._descent.recordings) == len(graphs._answer.recordings) == 1, caplog.text
    assert (counter.forwards, counter.backwards) == (counted.forwards, counted.backwards)


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_the_embedded_network_in_every_precision(
    precision: str, layout: torch.memory_format, caplog: pytest.LogCaptureFixture
) -> None:
    base = resnet20().to(memory_format=layout)
    base = Bfloat16(base) if precision == "bf16" else base
    with tensor_float32(precision == "tf32"):
        plain, graphs, *_ = dents(base, DentSpec())
        require_same(plain, graphs, (16, 3, 32, 32), 1e-4 if precision == "fp32" else 2e-2)
    assert graphs._descent.recordings and graphs._answer.recordings, caplog.text


def test_a_recording_gives_the_same_bits_as_the_work_itself() -> None:
    """Else what is remembered of repeated points is given up; see ``adaptation_cache``."""
    plain, graphs, *_ = dents(resnet20(), DentSpec())
    x = torch.rand(16, 3, 32, 32, device="cuda")
    for _ in range(OFTEN):
        graphs(x)
    assert graphs._descent.recordings
    actual, right = graphs.adapt(x), plain.adapt(x)
    assert torch.equal(actual.affine, right.affine)
    assert torch.equal(actual.losses, right.losses)


def test_earlier_answers_are_not_overwritten_by_later_ones() -> None:
    _, graphs, *_ = dents(small(), DentSpec(steps=2))
    images = [torch.rand(4, 3, 6, 6, device="cuda") for _ in range(OFTEN + 3)]
    actual = [graphs.adapt(x).affine for x in images]
    again = [graphs.adapt(x).affine for x in images]
    for item, other in zip(actual, again, strict=True):
        torch.testing.assert_close(item, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_answers_and_gradients_are_the_same_bits(
    precision: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Asked for with and without a gradient, in any order, more than once."""
    base = Bfloat16(resnet20()) if precision == "bf16" else resnet20()
    counter = CallCounter()
    recorded = RecordedNetwork(CountedNetwork(base, counter), counter)
    images = [torch.rand(16, 3, 32, 32, device="cuda").requires_grad_() for _ in range(3)]
    with tensor_float32(precision == "tf32"):
        for _ in range(OFTEN):
            recorded(images[0])
        assert recorded._answers.recordings, caplog.text
        answers = [(recorded(x), base(x), x) for x in images]
        for actual, right, x in (*answers[::-1], *answers):
            assert torch.equal(actual, right)
            for label in (0, 1):
                gradients = (
                    torch.autograd.grad(item[:, label].sum(), x, retain_graph=True)[0]
                    for item in (actual, right)
                )
                assert torch.equal(*gradients)
        with torch.no_grad():
            assert all(torch.equal(recorded(x), base(x)) for x in images)


def waits(x: Tensor) -> tuple[Tensor, ...]:
    """Wait for the GPU in a way that is noticed before anything is recorded."""
    y = x * 2
    return (y * float(y.sum()),)


def fails(x: Tensor) -> tuple[Tensor, ...]:
    """Do what is noticed only when it is recorded."""
    torch.cuda.synchronize()
    return (x * 2 + 1,)


def draws(x: Tensor) -> tuple[Tensor, ...]:
    """Draw random numbers that change nothing."""
    return (x * 2 + 0 * torch.rand_like(x),)


@pytest.mark.parametrize("kind", [waits, fails, draws])
def test_what_cannot_be_recorded_leaves_everything_usable(
    kind: Callable[[Tensor], tuple[Tensor, ...]], caplog: pytest.LogCaptureFixture
) -> None:
    """Random numbers, the stream, memory, earlier recordings, and later ones."""
    before = dents(small(), DentSpec(steps=2))
    require_same(*before[:2], (4, 3, 6, 6), 1e-5)
    stream = torch.cuda.current_stream()
    work = Captured(kind, small(), CallCounter())
    for _ in range(OFTEN + 2):
        x = torch.rand(4, 3, device="cuda")
        assert torch.equal(work(x)[0], kind(x)[0])
    assert "not recorded as a CUDA graph" in caplog.text and not work.recordings
    assert torch.cuda.current_stream() == stream
    torch.rand(4, device="cuda")
    torch.cuda.empty_cache()
    require_same(*before[:2], (4, 3, 6, 6), 1e-5)
    plain, graphs, *_ = dents(small(), DentSpec(steps=2))
    require_same(plain, graphs, (4, 3, 6, 6), 1e-5)
    assert graphs._descent.recordings and graphs._answer.recordings


def test_random_numbers_go_on_as_if_nothing_had_been_recorded() -> None:
    drawn = []
    for recorded in (False, True):
        torch.manual_seed(3)
        pair = dents(small(), DentSpec(steps=2))
        for _ in range(OFTEN + 1):
            pair[recorded](torch.rand(4, 3, 6, 6, device="cuda"))
        drawn.append(torch.rand(4, device="cuda"))
    assert torch.equal(*drawn)


@pytest.mark.skipif("torch.cuda.device_count() < 2", reason="there is one GPU")
def test_on_the_second_of_two_gpus() -> None:
    model = network().to("cuda:1").requires_grad_(False)
    _, graphs, *_ = dents(model, DentSpec(steps=2))
    for _ in range(OFTEN + 2):
        x = torch.rand(4, 3, 6, 6, device="cuda:1")
        torch.testing.assert_close(graphs(x), Dent(model, DentSpec(steps=2))(x))
    assert graphs._descent.recordings
