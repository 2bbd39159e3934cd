"""Convolutions by Winograd's algorithm, against PyTorch's in float64."""

from __future__ import annotations

import copy
import gc
import json
import pickle
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dentbench import Dent, DentSpec
from dentbench.engine import native, winograd
from dentbench.engine.answers import answers
from dentbench.engine.plan import Engine
from dentbench.engine.winograd import FILE, SOURCE, Convolution, is_faster
from dentbench.zoo.models import load_model


@pytest.fixture(autouse=True)
def used(native_code: None) -> Iterator[None]:
    """Let this process convolve by the code in C."""
    winograd.use(True)
    yield
    winograd.use(False)


def laid_out(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def layer_of(inputs: int = 32, outputs: int = 48, **how: Any) -> nn.Conv2d:
    torch.manual_seed(0)
    how = {"padding": 1, "bias": False, **how}
    layer = nn.Conv2d(inputs, outputs, 3, **how).requires_grad_(False)
    return layer.to(memory_format=torch.channels_last)


def images_of(channels: int = 32, count: int = 4, height: int = 9, width: int = 6) -> Tensor:
    torch.manual_seed(1)
    return laid_out(torch.randn(count, channels, height, width))


def with_gradient(convolve: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the outputs, and the images' gradient of a sum that has a weight for each output."""
    x = x.detach().requires_grad_()
    y = convolve(x)
    weights = torch.linspace(-1, 1, y.numel()).reshape(y.shape)
    return y, *torch.autograd.grad(y, x, weights.to(y.dtype))


def is_winograd(y: Tensor) -> bool:
    return type(y.grad_fn).__name__ == "_ConvolvedBackward"


SHAPES = [
    (16, 16, 1, 32, 32),
    (16, 32, 3, 7, 5),
    (32, 16, 16, 2, 2),
    (48, 80, 9, 3, 4),
    (64, 64, 5, 8, 8),
    (16, 16, 20, 1, 1),
    (16, 16, 4, 1, 9),
    (16, 48, 4, 9, 1),
    (160, 96, 2, 6, 10),
]


@pytest.mark.parametrize(("inputs", "outputs", "count", "height", "width"), SHAPES, ids=str)
def test_output_and_gradient_are_those_of_pytorch(
    inputs: int, outputs: int, count: int, height: int, width: int
) -> None:
    layer, x = layer_of(inputs, outputs), images_of(inputs, count, height, width)
    found = with_gradient(Convolution(layer), x)
    assert is_winograd(found[0])
    assert found[0].is_contiguous(memory_format=torch.channels_last)
    right = with_gradient(copy.deepcopy(layer).double(), x.double())
    for one, other in zip(found, right, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("channels", [16, 64, 256])
def test_errors_are_no_larger_than_those_of_pytorch(channels: int) -> None:
    """Twice as large may be chance: they were less than half as large."""
    layer, x = layer_of(channels, channels), images_of(channels, 8, 8, 8)
    right = F.conv2d(x.double(), layer.weight.double(), padding=1)
    ours, pytorch = (float((one(x) - right).norm()) for one in (Convolution(layer), layer))
    assert 0 < ours < 2 * pytorch


def test_gradients_of_gradients_are_those_of_pytorch() -> None:
    def twice(convolve: Callable[[Tensor], Tensor]) -> tuple[Tensor, ...]:
        x = images_of().requires_grad_()
        first = torch.autograd.grad(convolve(x).pow(3).sum(), x, create_graph=True)
        return first[0].detach(), *torch.autograd.grad(first[0].square().sum(), x)

    layer = layer_of()
    for one, right in zip(twice(Convolution(layer)), twice(layer), strict=True):
        torch.testing.assert_close(one, right, rtol=1e-3, atol=1e-3 * float(right.abs().max()))


def test_the_answer_does_not_depend_on_the_threads() -> None:
    layer, x = layer_of(16, 32), images_of(16, 7, 11, 10)
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 2, 5, 200):  # more than there are blocks, too
            torch.set_num_threads(count)
            found.append(with_gradient(Convolution(layer), x))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(*pair) for some in pairwise(found) for pair in zip(*some, strict=True))


def test_an_image_is_answered_as_it_is_alone() -> None:
    convolve, x = Convolution(layer_of()), images_of(count=5, height=8, width=8)
    alone = [convolve(laid_out(x[place : place + 1])) for place in range(5)]
    assert torch.equal(convolve(x), torch.cat(alone))


def test_a_gradient_that_lies_otherwise() -> None:
    layer, x = layer_of(), images_of().requires_grad_()
    grad = torch.randn(48, 9, 6).expand(4, -1, -1, -1)
    found, right = (torch.autograd.grad(one(x), x, grad)[0] for one in (Convolution(layer), layer))
    torch.testing.assert_close(found, right, rtol=1e-4, atol=1e-4)


def test_what_is_no_number_goes_on_to_all_that_see_it_and_no_further() -> None:
    x = images_of(height=12, width=12)
    x[1, 2, 5, 5] = torch.nan
    y = Convolution(layer_of())(x)
    lost = y.isnan().any(1)
    assert lost[1, 4:7, 4:7].all()
    assert not lost[[0, 2, 3]].any()
    assert not lost[1, :2].any() and not lost[1, 8:].any()


def test_no_images_and_no_graph_are_fine() -> None:
    layer = layer_of()
    assert Convolution(layer)(images_of(count=0)).shape == (0, 48, 9, 6)
    with torch.inference_mode():
        y = Convolution(layer)(images_of())
    torch.testing.assert_close(y, layer(images_of()), rtol=1e-4, atol=1e-4)


def test_weights_that_were_changed_are_noticed() -> None:
    layer, x = layer_of(), images_of()
    convolve = Convolution(layer)
    before = convolve(x)
    layer.weight = nn.Parameter(3 * layer.weight, requires_grad=False)
    torch.testing.assert_close(convolve(x), 3 * before)
    layer.weight.mul_(2)
    torch.testing.assert_close(convolve(x), 6 * before)


def test_copies_of_a_network_share_what_was_made_of_its_weights() -> None:
    gc.collect()  # what other tests left behind
    first, second = (Convolution(copy.deepcopy(layer_of())) for _ in range(2))
    other = Convolution(layer_of(48, 32))
    for convolve in (first, second):
        convolve(images_of())
    other(images_of(48))
    kernels = [one._known[-1] for one in (first, second, other) if one._known]
    assert kernels[0] is kernels[1] is not kernels[2]
    count = len(winograd._kernels)
    del first, second, convolve, kernels
    assert len(winograd._kernels) == count - 1  # kept by nobody else


def test_what_was_made_of_the_weights_is_not_sent_along() -> None:
    convolve = Convolution(layer_of())
    small, y = len(pickle.dumps(convolve)), convolve(images_of())
    sent = pickle.dumps(convolve)
    assert len(sent) == small
    assert torch.equal(pickle.loads(sent)(images_of()), y)


UNFIT: dict[str, Callable[[], tuple[nn.Conv2d, Tensor]]] = {
    "bias": lambda: (layer_of(bias=True), images_of()),
    "stride": lambda: (layer_of(stride=2), images_of()),
    "padding": lambda: (layer_of(padding=0), images_of()),
    "named padding": lambda: (layer_of(padding="same"), images_of()),
    "padding of no zeros": lambda: (layer_of(padding_mode="reflect"), images_of()),
    "dilation": lambda: (layer_of(dilation=2, padding=2), images_of()),
    "groups": lambda: (layer_of(groups=2), images_of()),
    "outputs": lambda: (layer_of(outputs=24), images_of()),
    "inputs": lambda: (layer_of(inputs=24), images_of(24)),
    "layout": lambda: (layer_of(), images_of().contiguous()),
    "precision": lambda: (layer_of().double(), images_of().double()),
    "one image": lambda: (layer_of(), images_of()[0]),
    "few tiles": lambda: (layer_of(), images_of(count=1, height=8, width=6)),
    "trained weights": lambda: (layer_of().requires_grad_(), images_of()),
}


@pytest.mark.parametrize("name", UNFIT)
def test_what_the_code_is_not_made_for_is_pytorchs(name: str) -> None:
    assert Convolution(layer_of()).can(images_of())
    layer, x = UNFIT[name]()
    assert not Convolution(layer).can(x)
    assert torch.equal(Convolution(layer)(x), layer(x))


def test_a_larger_kernel_is_pytorchs() -> None:
    layer = nn.Conv2d(32, 48, 5, padding=1, bias=False).requires_grad_(False)
    assert not Convolution(layer).can(images_of())


def test_what_computes_in_less_precision_is_pytorchs() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        y = Convolution(layer_of())(images_of())
    assert y.dtype == torch.bfloat16


def test_images_that_do_not_fit_are_told_so_by_pytorch() -> None:
    with pytest.raises(RuntimeError, match="expected input"):
        Convolution(layer_of())(images_of(16))


def test_it_is_done_only_where_it_is_wanted() -> None:
    x = images_of().requires_grad_()
    convolve = Convolution(layer_of())
    assert is_winograd(convolve(x))
    winograd.use(False)
    assert not is_winograd(convolve(x))


def test_without_code_in_c_it_is_pytorchs() -> None:
    native.build_in(None)
    assert not is_winograd(Convolution(layer_of())(images_of().requires_grad_()))


@pytest.mark.parametrize(
    ("is_right", "is_wrong"),
    [
        ("*a -= *c;", "*a += *c;"),
        ("half[i][1] - half[i][2]", "half[i][1] + half[i][2]"),
        ("at.row += 2", "at.row += 1"),
        ("sums[t * LANES + lane] *", "sums[t * LANES] *"),
    ],
)
def test_code_that_computes_otherwise_is_not_used(
    is_right: str,
    is_wrong: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    wrong = tmp_path / "wrong.c"
    assert is_right in SOURCE.read_text()
    wrong.write_text(SOURCE.read_text().replace(is_right, is_wrong))
    monkeypatch.setattr(winograd, "SOURCE", wrong)
    assert native.library(wrong) is not None
    assert not Convolution(layer_of()).can(images_of())
    assert "wrong.c computes other values here" in caplog.text


@pytest.mark.parametrize(("ours", "faster"), [(0.8, True), (1.0, False), (1.2, False)])
def test_what_is_faster_is_remembered(
    ours: float, faster: bool, native_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (native_folder / FILE).unlink(missing_ok=True)
    monkeypatch.setattr(winograd, "least_seconds", lambda *_: [ours, 1.0])
    assert is_faster(layer_of(), native_folder) is faster
    monkeypatch.setattr(winograd, "least_seconds", lambda *_: [1.0, ours])  # it would be another
    assert is_faster(layer_of(), native_folder) is faster
    assert list(json.loads((native_folder / FILE).read_text()).values()) == [faster]


def test_timing_is_real_and_changes_nothing(native_folder: Path) -> None:
    (native_folder / FILE).unlink(missing_ok=True)
    native.build_in(None)
    winograd.use(False)
    before = torch.random.get_rng_state()
    faster = is_faster(layer_of(), native_folder)
    assert json.loads((native_folder / FILE).read_text()).popitem()[1] is faster
    assert torch.equal(before, torch.random.get_rng_state())
    assert native.library(SOURCE) is None and not winograd._wanted


def test_without_a_compiler_nothing_is_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    assert not is_faster(layer_of(), tmp_path / "native")
    assert not (tmp_path / "native" / FILE).exists()


def test_for_other_convolutions_nothing_is_compiled(tmp_path: Path) -> None:
    assert not is_faster(nn.Sequential(nn.ReLU(), layer_of(stride=2)), tmp_path / "native")
    assert not (tmp_path / "native").exists()


def test_where_nothing_can_be_remembered_it_is_pytorchs(
    native_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise PermissionError("read-only")

    monkeypatch.setattr(winograd, "remembered", refused)
    assert not is_faster(layer_of(), native_folder)


def test_the_engine_says_whether_it_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, device = load_model("digits-robust").network, torch.device("cpu")
    images = torch.rand(20, 1, 8, 8)
    monkeypatch.setattr("dentbench.engine.plan.is_channels_last_faster", lambda *_: True)
    for faster in (True, False):
        monkeypatch.setattr(winograd, "is_faster", lambda *_, faster=faster: faster)
        engine = Engine.chosen(network, device, images, cache=tmp_path)
        assert engine.winograd is faster
        engine.prepare(network, device, images[:1])
        assert winograd._wanted is faster
    assert not Engine.chosen(network, device, images).winograd


@pytest.mark.parametrize(
    ("name", "channels", "size"), [("digits-robust", 1, 8), ("cifar10-resnet20-robust", 3, 32)]
)
@pytest.mark.parametrize(
    "spec",
    [
        DentSpec(),
        DentSpec(loss="entropy", steps=1),
        DentSpec(mode="batch", statistics="running", steps=1),
    ],
    ids=lambda spec: f"{spec.mode}, {spec.loss}, {spec.steps}",
)
def test_dent_answers_the_same(name: str, channels: int, size: int, spec: DentSpec) -> None:
    """After more steps float32 may be off float64 by 1e-3, by PyTorch's convolutions too."""
    network = load_model(name).network.to(memory_format=torch.channels_last)
    defense = Dent(network, spec)
    torch.manual_seed(0)
    images = F.interpolate(torch.rand(20, channels, 4, 4), size, mode="bilinear")
    found = answers(defense, images)
    winograd.use(False)
    for one, right in zip(found, answers(defense, images), strict=True):
        assert not torch.equal(one, right)  # the sums are in another order
        torch.testing.assert_close(one, right, rtol=1e-4, atol=1e-4)


def test_dents_exact_gradient_is_the_same() -> None:
    network = load_model("digits-robust").network.to(memory_format=torch.channels_last)
    defense = Dent(network, DentSpec(steps=3))
    images = torch.rand(20, 1, 8, 8)

    def gradient() -> Tensor:
        x = images.clone().requires_grad_()
        logits = defense.predict(x, defense.unroll(x))
        return torch.autograd.grad(logits.logsumexp(1).sum(), x)[0]

    found = gradient()
    winograd.use(False)
    right = gradient()
    torch.testing.assert_close(found, right, rtol=1e-3, atol=1e-3 * float(right.abs().max()))
