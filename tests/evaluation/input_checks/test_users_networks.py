"""Whole evaluations of networks as users write them: each works, or is refused at once."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import dentbench
from dentbench.errors import ModelError
from dentbench.spec.evaluation import AttackSpec, DentSpec

pytestmark = pytest.mark.same_network

IMAGES = torch.rand(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))
ATTACK = AttackSpec(name="apgd-ce", eps=Fraction(1, 255), iterations=1)


def base() -> nn.Sequential:
    torch.manual_seed(0)
    parts = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10)
    return nn.Sequential(*parts).eval()


class Around(nn.Module):
    """A network inside a function of it and the images."""

    def __init__(self, function: Callable[[nn.Sequential, Tensor], Any]) -> None:
        super().__init__()
        self.inner = base()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(self.inner, x)


class Extra(Around):
    def get_extra_state(self) -> dict[str, Any]:
        return {"version": 1, "levels": [1, 2]}

    def set_extra_state(self, state: Any) -> None:
        pass


def by_name(n: nn.Sequential, x: Tensor) -> Tensor:
    hidden = n[1](input=n[0](input=x))
    logits: Tensor = n[2:](hidden)
    return logits


def crops(n: nn.Sequential, x: Tensor) -> Tensor:
    parts = torch.stack([x.roll(shift, -1) for shift in range(4)], 1).flatten(0, 1)
    return n(parts).view(len(x), 4, -1).mean(1)  # type: ignore[no-any-return]


def functional(n: nn.Sequential, x: Tensor) -> Tensor:
    bn = n[1]
    stats = bn.running_mean, bn.running_var
    hidden = F.batch_norm(n[0](x), *stats, bn.weight, bn.bias, False, 0.0, bn.eps)  # type: ignore
    return n[2:](hidden)  # type: ignore[no-any-return]


def in_a_thread(n: nn.Sequential, x: Tensor) -> Tensor:
    with ThreadPoolExecutor(1) as pool:
        logits: Tensor = pool.submit(n, x).result()
    return logits


def quantized(n: nn.Sequential, x: Tensor) -> Tensor:
    return n((x * 255).round().to(torch.uint8).float() / 255)  # type: ignore[no-any-return]


def lazy() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.LazyLinear(10))


def kept(reentrant: bool) -> Callable[[nn.Sequential, Tensor], Any]:
    return lambda n, x: n[3:](checkpoint(n[:3], x, use_reentrant=reentrant))


def with_part(make: Callable[[nn.Module], nn.Module], place: int) -> nn.Module:
    network = Around(lambda n, x: n(x)).eval()
    network.inner[place] = make(network.inner[place])
    return network


WORK: dict[str, Callable[[], nn.Module]] = {
    "a scripted layer": lambda: with_part(torch.jit.script, 0),
    "a traced layer": lambda: with_part(lambda layer: torch.jit.trace(layer, IMAGES), 0),
    "a scripted layer behind": lambda: with_part(torch.jit.script, 4),
    "keyword-only calls": lambda: Around(by_name),
    "threads inside": lambda: Around(in_a_thread),
    "an extra state": lambda: Extra(lambda n, x: n(x)),
    "float64 logits": lambda: Around(lambda n, x: n(x).double()),
    "a backbone without gradients": lambda: Around(lambda n, x: n[1:](n[0](x).detach())),
    "no gradient to the input": lambda: Around(lambda n, x: n(x.detach())),
    "quantized images": lambda: Around(quantized),
}
REFUSED: dict[str, Callable[[], nn.Module]] = {
    "a batch dimension that changes": lambda: Around(crops),
    "tensors of a layer": lambda: Around(functional),
    "checkpointing": lambda: Around(kept(False)),
    "reentrant checkpointing": lambda: Around(kept(True)),
    "no_grad inside": lambda: Around(torch.no_grad()(lambda n, x: n(x))),
    "inference_mode inside": lambda: Around(torch.inference_mode()(lambda n, x: n(x))),
    "argmax inside": lambda: Around(lambda n, x: F.one_hot(n(x).argmax(1), 10).float()),
    "integer logits": lambda: Around(lambda n, x: (100 * n(x)).long()),
    "lazy parameters": lazy,
    "meta parameters": lambda: base().to("meta"),
    "ScriptModule": lambda: torch.jit.script(base()),
}


def evaluated(network: nn.Module, results: Path) -> dentbench.Evaluated:
    with torch.no_grad():
        labels = base()(IMAGES).argmax(1)
    return dentbench.evaluate(
        network,
        IMAGES,
        labels,
        attack=ATTACK,
        defense=DentSpec(steps=1),
        protocols="transfer",
        results=results,
        progress="none",
    )


@pytest.mark.parametrize("name", WORK)
def test_it_works(name: str, tmp_path: Path) -> None:
    result = evaluated(WORK[name](), tmp_path)
    assert result.static.natural_correct == result.defended.n == 8


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.filterwarnings("ignore")
def test_it_is_refused_in_a_sentence_before_any_attack(name: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        evaluated(REFUSED[name](), tmp_path)
    assert "\n" not in str(caught.value) and not (tmp_path / "results.csv").exists()
    assert not list(tmp_path.rglob("*.npz"))
