"""Networks whose own answers depend on batch mates, or change, are told before a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dentbench.attacks.checks import SEPARABLE
from dentbench.defenses.naming import built_in
from dentbench.evaluation.checks import sanity_checks
from dentbench.evaluation.context import RunOptions
from dentbench.evaluation.inputs import RunInputs
from dentbench.evaluation.preflight import Preflight
from dentbench.evaluation.runner import Evaluation
from dentbench.report.remedies import KEEP_STATISTICS, of_check
from dentbench.spec.evaluation import BatchPlan
from tests.attacks.toys import small_network
from tests.helpers import spec_of, subject


class ChannelsLast(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        normalized: Tensor = self.norm(x.movedim(1, 3)).movedim(3, 1)
        return normalized


NORMS: dict[str, tuple[Callable[[int], nn.Module], bool]] = {
    "batch": (nn.BatchNorm2d, False),
    "batch-untracked": (lambda count: nn.BatchNorm2d(count, track_running_stats=False), True),
    "instance": (lambda count: nn.InstanceNorm2d(count, affine=True), False),
    "group": (lambda count: nn.GroupNorm(2, count), False),
    "layer": (ChannelsLast, False),
}


@pytest.mark.checks
@pytest.mark.parametrize("kind", NORMS)
def test_a_network_that_couples_images_is_told_before_the_run_and_fails_its_check(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    norm, couples = NORMS[kind]
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 6, 3), norm(6), nn.ReLU(), nn.Flatten(), nn.Linear(54, 5))
    network = nn.Sequential(*layers).eval()
    images = torch.rand(8, 3, 5, 5, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        labels = torch.cat([network(part) for part in images.split(4)]).argmax(1)
    inputs = RunInputs(network=network, images=images, labels=labels)
    context = Evaluation(inputs, RunOptions(results=tmp_path, untimed=True)).context
    spec = spec_of(None, 8, batches=BatchPlan(size=4))
    Preflight(context).check([spec], ())
    assert ("depends on its batch mates" in caplog.text) is couples
    for defense in (None, built_in("bit-depth", {})):
        made = sanity_checks.probed(context, replace(spec, defense=defense))
        check = next(item for item in made if item.name == SEPARABLE)
        assert check.passed is not couples
        if couples:
            assert of_check(check, static=True).remedy == KEEP_STATISTICS in caplog.text


class Moving(nn.Module):
    """Subtracts a mean that moves with every image it is shown, in eval mode too."""

    def __init__(self, *, moves: bool) -> None:
        super().__init__()
        self.inner = small_network()
        self.moves = moves
        self.mean = torch.zeros(())

    def forward(self, x: Tensor) -> Tensor:
        if self.moves:
            self.mean = 0.9 * self.mean + 0.1 * x.detach().mean()
        logits: Tensor = self.inner(x - self.mean)
        return logits


@pytest.mark.parametrize("moves", [True, False])
def test_a_network_that_answers_in_two_ways_is_told_before_the_run(
    moves: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    evaluation = Evaluation(
        subject(network=Moving(moves=moves)), RunOptions(results=tmp_path, untimed=True)
    )
    network: Any = evaluation.context.worker.network.network
    before = float(network.mean)
    Preflight(evaluation.context).check([spec_of(None)], ())
    assert ("answers the same images in two ways" in caplog.text) is moves
    assert float(network.mean) == before, "a copy is asked"
