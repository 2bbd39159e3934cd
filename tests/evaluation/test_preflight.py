"""Networks whose own answers depend on batch mates are told before a run, and no others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

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
from tests.helpers import spec_of


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
