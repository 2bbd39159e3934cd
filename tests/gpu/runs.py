"""Runs on a GPU, of the embedded network."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import torch

from dentbench.evaluation.context import RunOptions
from dentbench.evaluation.runner import Evaluation
from dentbench.evaluation.workers.placement import Placement
from dentbench.records.outcome import Record
from dentbench.spec.evaluation import AttackSpec, BatchPlan, DentSpec, EvalSpec
from tests.compute.networks import attacked_network
from tests.gpu.networks import resnet20

ON_GPU = Placement(devices=("cuda",), workers=1)


def on_resnet20(
    results: Path, count: int, size: int, defense: DentSpec, placement: Placement = ON_GPU
) -> tuple[Record, EvalSpec]:
    """Evaluate dent around the embedded network, on noise; return its record and its spec."""
    subject, static = attacked_network(16, iterations=2)
    network, images = resnet20(), torch.rand(count, 3, 32, 32)
    with torch.no_grad():
        labels = torch.cat([network(part.cuda()).argmax(1).cpu() for part in images.split(128)])
    subject = replace(subject, network=network.cpu(), images=images, labels=labels)
    static = replace(
        static,
        data=replace(static.data, count=count),
        batches=BatchPlan(size=size),
        attack=AttackSpec(name="apgd-ce", eps=Fraction(1, 255), iterations=2),
    )
    dent = replace(static, defense=defense)
    options = RunOptions(results=results, placement=placement, save_adversarial=True)
    return Evaluation(subject, options).run([static, dent], ["published"])[1], dent
