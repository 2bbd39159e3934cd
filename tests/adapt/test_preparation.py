"""Dent prepares its copy as an evaluation does: faster, and the same but for the last bits."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from dentbench import Dent, DentSpec
from dentbench.attacks.counting import CallCounter, CountedNetwork
from dentbench.compute import backend
from dentbench.compute.bn_relu_fusion import JoinedForward
from tests.reference import tiny_network

IMAGES = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(3))

SPECS = [
    DentSpec(steps=3, lr=0.02),
    DentSpec(mode="batch", steps=3, lr=0.02),
    DentSpec(steps=3, lr=0.02, statistics="batch"),
    DentSpec(steps=2, lr=0.02, blur="dynamic", sigma=1.0, padding="zeros", sigma_lr=0.1),
]


class Residual(nn.Module):
    """A sum before the second ReLU, as in residual networks."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = tiny_network()

    def forward(self, x: Tensor) -> Tensor:
        y = self.layers[2](self.layers[1](self.layers[0](x)))
        y = torch.relu(self.layers[4](self.layers[3](y)) + y.repeat(1, 2, 1, 1)[:, :12, ::2, ::2])
        for layer in self.layers[6:]:
            y = layer(y)
        return y


def answers(dent: Dent, x: Tensor) -> list[Tensor]:
    """Logits, losses, the attack's gradient and that through all updates."""
    x = x.clone().requires_grad_()
    adaptation = dent.adapt(x)
    logits = dent.predict(x, adaptation)
    (gradient,) = torch.autograd.grad(logits.logsumexp(1).sum(), x)
    (unrolled,) = torch.autograd.grad(dent.predict(x, dent.unroll(x)).logsumexp(1).sum(), x)
    return [logits.detach(), adaptation.losses, gradient, unrolled]


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("make", [tiny_network, Residual])
def test_the_answers_are_those_of_a_copy_as_it_is(make: type[nn.Module], spec: DentSpec) -> None:
    network = make().double().eval()
    before = copy.deepcopy(network.state_dict())
    prepared, plain = Dent(network, spec), Dent(network, spec, prepare=False)
    pairs = zip(answers(prepared, IMAGES.double()), answers(plain, IMAGES.double()), strict=True)
    for ours, right in pairs:
        torch.testing.assert_close(ours, right, rtol=1e-9, atol=1e-11)
    assert isinstance(prepared.network.forward, JoinedForward)
    assert not isinstance(plain.network.forward, JoinedForward)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_it_is_prepared_under_any_mode_and_draws_no_numbers() -> None:
    expected = Dent(tiny_network(), SPECS[0])(IMAGES)
    for mode in (torch.no_grad, torch.inference_mode):
        dent, state = Dent(tiny_network(), SPECS[0]), torch.get_rng_state()
        with mode():
            assert torch.equal(dent(IMAGES), expected)
        assert isinstance(dent.network.forward, JoinedForward)
        assert torch.equal(torch.get_rng_state(), state)


def test_the_network_of_an_evaluation_is_prepared_already_and_its_passes_are_the_attacks() -> None:
    counter = CallCounter()
    dent = Dent(CountedNetwork(tiny_network(), counter), SPECS[0])
    dent(IMAGES)
    steps = SPECS[0].steps
    assert (counter.forwards, counter.backwards) == ((steps + 1) * 5, steps * 5)
    assert not isinstance(dent.network.forward, JoinedForward)


def test_a_network_that_cannot_be_traced_stays_as_it_is() -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = tiny_network()

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.inner(x if float(x.sum()) > 0 else -x)
            return logits

    dent = Dent(Branching(), SPECS[0])
    expected = Dent(tiny_network(), SPECS[0])(IMAGES)
    torch.testing.assert_close(dent(IMAGES), expected, rtol=1e-5, atol=1e-5)
    assert not isinstance(dent.network.forward, JoinedForward)


@pytest.mark.parametrize("prepare", [True, False])
def test_freed_memory_is_kept_as_in_an_evaluation(
    prepare: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[None] = []
    monkeypatch.setattr(backend, "keep_freed_memory", lambda: kept.append(None))
    dent = Dent(tiny_network(), DentSpec(steps=1), prepare=prepare)
    assert not kept
    dent(IMAGES)
    dent(IMAGES)
    assert len(kept) == prepare
