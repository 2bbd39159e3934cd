"""Memory, a network's layout in it, and its precision: faster, and the same answers."""

from __future__ import annotations

import copy
import json
import platform
import resource
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dentbench import Dent, DentSpec
from dentbench.attacks.base import ThreatModel
from dentbench.attacks.views import BatchView
from dentbench.checkpoint import RunFolder
from dentbench.engine.allocator import hand_back_memory, keep_freed_memory
from dentbench.engine.plan import prepared
from dentbench.engine.precision import Bfloat16, tensor_float32
from dentbench.errors import SpecError
from dentbench.outcome import Record
from dentbench.runner import Evaluation, RunOptions
from dentbench.spec import AttackSpec, BatchPlan, DataSpec, EvalSpec, ModelSpec
from dentbench.worker import Subject

CPU = torch.device("cpu")


def network(flatten: Callable[[Tensor], Tensor]) -> nn.Module:
    class Flatten(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return flatten(x)

    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 8, 3, padding=1),
        Flatten(),
        nn.Linear(8 * 36, 10),
    ).eval()


def is_channels_last(model: nn.Module) -> bool:
    weights = [m.weight for m in model.modules() if isinstance(m, nn.Conv2d)]
    return all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)


FRESH_PAGES = """
import resource, sys
import torch
from dentbench.engine.allocator import hand_back_memory, keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory()
if sys.argv[1] == "both":
    assert keep_freed_memory() and hand_back_memory()
for _ in range(10):
    torch.ones(2**24)  # 64 MiB
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    torch.ones(2**24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting is glibc's")
def test_memory_that_was_freed_is_used_again_without_fresh_pages() -> None:
    command = [sys.executable, "-c", FRESH_PAGES]
    kept, given_back, both = (
        int(subprocess.run([*command, how], check=True, capture_output=True).stdout)
        for how in ("kept", "given back", "both")
    )
    few = 5 * 2**26 / resource.getpagesize() / 100
    assert kept < few < given_back
    assert both > few  # undone again, as where memory ran out


def test_without_glibc_memory_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert not keep_freed_memory()
    assert not hand_back_memory()


@pytest.mark.parametrize("spec", [None, DentSpec(), DentSpec(mode="batch", blur="dynamic")])
def test_channels_last_gives_the_same_logits_and_gradients(spec: DentSpec | None) -> None:
    plain = network(lambda x: x.flatten(1)).requires_grad_(False)
    x = torch.rand(5, 3, 6, 6)
    fast = prepared(copy.deepcopy(plain), CPU, x)
    assert is_channels_last(fast)
    answers = []
    for model in (plain, fast):
        ask = model if spec is None else Dent(model, spec)
        given = x.clone().requires_grad_()
        logits = ask(given)
        answers.append((logits, *torch.autograd.grad(logits.square().sum(), given)))
    for got, expected in zip(*answers, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


def test_a_network_that_flattens_with_view_keeps_its_layout() -> None:
    model = prepared(network(lambda x: x.view(len(x), -1)), CPU, torch.rand(2, 3, 6, 6))
    assert not is_channels_last(model)
    assert model(torch.rand(3, 3, 6, 6)).shape == (3, 10)


def test_a_network_without_convolutions_is_only_moved() -> None:
    linear = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    model = prepared(linear, CPU, torch.rand(1, 3, 2, 2))
    assert model is linear
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_an_attack_gets_a_contiguous_gradient_of_any_layout() -> None:
    model = network(lambda x: x.flatten(1)).requires_grad_(False)[:2]
    fast = nn.Sequential(*model, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    fast = fast.to(memory_format=torch.channels_last)
    x = torch.rand(4, 3, 6, 6).contiguous(memory_format=torch.channels_last)
    threat = ThreatModel(norm="Linf", eps=0.1)
    view = BatchView(fast, x, torch.zeros(4, dtype=torch.long), threat, whole=True)
    given = x.contiguous().requires_grad_()
    (gradient,) = torch.autograd.grad(view(given).sum(), given)
    assert gradient.is_contiguous()


def attacked(results: Path, **how: Any) -> tuple[Evaluation, EvalSpec, Record]:
    """Run dent against a short attack on images that the network is right about."""
    model, images = network(lambda x: x.flatten(1)), torch.rand(16, 3, 6, 6)
    labels = model(images).argmax(1)
    static = EvalSpec(
        model=ModelSpec(name="net", sha256="0" * 64),
        data=DataSpec(name="noise", sha256="0" * 64, first=0, count=16),
        batches=BatchPlan(size=8),
        attack=AttackSpec(name="quick", eps=Fraction(1, 100), iterations=4),
        **how,
    )
    spec = replace(static, defense=DentSpec(steps=2))
    evaluation = Evaluation(
        Subject(network=model, images=images, labels=labels),
        RunOptions(results=results, save_adversarial=True),
    )
    return evaluation, spec, evaluation.run([static, spec], ["published", "transfer"])[1]


def test_bfloat16_is_judged_again_in_float32(tmp_path: Path) -> None:
    evaluation, spec, record = attacked(tmp_path, precision="bf16")
    exact, low = evaluation.classifier(spec), evaluation.worker.attacked(spec).of(spec)
    changed = right = 0
    for unit in range(2):
        points = torch.from_numpy(RunFolder(tmp_path, spec).load_points("published", unit))
        labels = evaluation.subject.labels[8 * unit : 8 * unit + 8]
        fine = exact(points).argmax(1) == labels
        coarse = low(points).argmax(1) == labels
        assert low(points).dtype == torch.float32
        assert not torch.equal(low(points), exact(points))
        changed += int((fine != coarse).sum())
        right += int(fine.sum())
    assert record.protocol_counts["published"] == right
    assert json.loads(record.rechecked or "")["published"] == changed
    assert record.precision == "bf16"


def test_bfloat16_predicts_nearly_what_float32_does() -> None:
    plain = network(lambda x: x.flatten(1)).requires_grad_(False)
    x = torch.rand(256, 3, 6, 6)
    for wrap in (lambda model: model, lambda model: Dent(model, DentSpec(steps=3))):
        exact, low = wrap(plain)(x), wrap(Bfloat16(plain))(x)
        assert (exact.argmax(1) == low.argmax(1)).float().mean() > 0.95
        torch.testing.assert_close(exact, low, rtol=0.05, atol=0.05)


def test_float32_is_not_judged_again(tmp_path: Path) -> None:
    assert attacked(tmp_path)[2].rechecked is None


def test_tensor_float32_is_for_gpus(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="precision is 'tf32'"):
        attacked(tmp_path, precision="tf32")
    before = torch.backends.cudnn.allow_tf32
    with tensor_float32(not before):
        assert torch.backends.cudnn.allow_tf32 is not before
    assert torch.backends.cudnn.allow_tf32 is before


def test_an_unknown_precision_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="precision is 'fp8'; allowed: fp32, tf32, bf16"):
        attacked(tmp_path, precision="fp8")
