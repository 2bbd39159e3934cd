"""torch.compile: the same answers, and a network that cannot be compiled is run as it is.

Dynamo's "eager" and "aot_eager" backends trace as the real one does, and need no C++ compiler.
"""

from __future__ import annotations

import copy
import pickle
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from dentbench import Dent, DentSpec
from dentbench.compute import torch_compile
from dentbench.compute.precision import Bfloat16
from dentbench.compute.torch_compile import Compiled, compiled_if_right
from tests.compute.networks import network


@pytest.fixture(autouse=True)
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))


def answers(classify: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    x = x.clone().requires_grad_()
    logits = classify(x)
    return logits, torch.autograd.grad(logits.logsumexp(1).sum(), x)[0]


@pytest.mark.parametrize(
    "spec",
    [
        None,
        DentSpec(steps=2),
        DentSpec(steps=2, statistics="batch"),
        DentSpec(steps=2, mode="batch", blur="dynamic"),
    ],
    ids=str,
)
def test_compiled_networks_answer_the_same(spec: DentSpec | None) -> None:
    plain = network().requires_grad_(False)
    fast = Compiled(plain)
    for size in (4, 4, 3, 1):  # survivors become fewer
        x = torch.rand(size, 3, 6, 6)
        asked = [one if spec is None else Dent(one, spec) for one in (fast, plain)]
        for found, right in zip(*(answers(one, x) for one in asked), strict=True):
            torch.testing.assert_close(found, right, rtol=1e-4, atol=1e-4)
    assert not fast._failed


def test_it_is_compiled_indeed(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def backend(module: torch.fx.GraphModule, inputs: list[Tensor]) -> object:
        seen.append(module)
        return module.forward

    monkeypatch.setattr(torch, "compile", partial(torch.compile.func, backend=backend))  # type: ignore[attr-defined]
    dent = Dent(Compiled(network().requires_grad_(False)), DentSpec(steps=2))
    dent(torch.rand(3, 3, 6, 6))
    called = [str(node.target) for module in seen for node in module.graph.nodes]
    assert sum("conv2d" in name for name in called) >= 2


@pytest.mark.parametrize("last", [None, 1])
def test_the_exact_gradient_is_that_of_the_plain_network(last: int | None) -> None:
    plain = network().requires_grad_(False)
    found = []
    for one in (Compiled(plain), plain):
        dent = Dent(one, DentSpec(steps=2))
        x = torch.linspace(0, 1, 2 * 108).view(2, 3, 6, 6).requires_grad_()
        found.append(torch.autograd.grad(dent.predict(x, dent.unroll(x, last)).sum(), x)[0])
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-4)


def test_in_bfloat16() -> None:
    plain = network().requires_grad_(False)
    x = torch.rand(4, 3, 6, 6)
    found, right = (Bfloat16(one)(x) for one in (Compiled(plain), plain))
    torch.testing.assert_close(found, right, rtol=0.02, atol=0.02)


def test_copies_are_compiled_for_themselves() -> None:
    fast = Compiled(network().requires_grad_(False))
    x = torch.rand(2, 3, 6, 6)
    before = fast(x)
    for other in (copy.deepcopy(fast), pickle.loads(pickle.dumps(Compiled(nn.Linear(2, 2))))):
        assert other._compiled is None
    other = copy.deepcopy(fast)
    with torch.no_grad():
        other.network[5].bias += 1
    torch.testing.assert_close(other(x), before + 1)
    torch.testing.assert_close(fast(x), before)


def refuse(*_: object, **__: object) -> object:
    def run(x: Tensor) -> Tensor:
        raise RuntimeError("no C++ compiler is found\nand more")

    return run


def test_where_nothing_compiles_the_network_is_run_as_it_is(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch, "compile", refuse)
    plain, x = network().requires_grad_(False), torch.rand(2, 3, 6, 6)
    assert compiled_if_right(plain, x) is plain
    fast = Compiled(plain)
    assert torch.equal(fast(x), plain(x))
    assert torch.equal(fast(x), plain(x))
    assert [one.getMessage() for one in caplog.records] == 2 * [
        "the network is not compiled (no C++ compiler is found); it is run as it is"
    ]


def test_what_is_wrong_with_the_network_itself_is_raised() -> None:
    with pytest.raises(RuntimeError, match="expected input"):
        Compiled(network())(torch.rand(2, 5, 6, 6))


@pytest.mark.parametrize("off", [0.01, float("nan")])
def test_a_compiled_network_that_computes_other_values_is_not_used(
    off: float, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch_compile, "_compile", lambda one: lambda x: one(x) * (1 + off))
    plain = network().requires_grad_(False)
    assert compiled_if_right(plain, torch.rand(2, 3, 6, 6)) is plain
    assert "it computes other values then" in caplog.text


def test_one_that_is_right_is_used() -> None:
    plain = network().requires_grad_(False)
    fast = compiled_if_right(plain, torch.rand(2, 3, 6, 6))
    assert isinstance(fast, Compiled)
    assert fast.network is plain
