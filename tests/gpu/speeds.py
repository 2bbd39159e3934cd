"""``python -m tests.gpu.speeds``: what dry runs for GPUs scale from, made of the committed figures.

A pass is a forward or a backward pass of one image. Dent of N steps takes N + 1 of each for an
attack's gradient; the backward pass to the images and the affine parameters is the forward's
arithmetic once more, so both count the same.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn

from dentbench.evaluation.estimates import measured_gpus
from dentbench.zoo.models import load_model
from tests.gpu.adaptation import Case
from tests.gpu.networks import WideResNet

FOLDER: Final = Path("results/benchmarks")
SOURCE: Final = FOLDER / "adaptation-gpu.json"

EVALUATION: Final = FOLDER / "evaluations-gpu.json"
BESIDE_EVALUATION: Final = FOLDER / "adaptation-plain-answers-gpu.json"
"""The adaptations that were timed in the same call as the whole evaluation, by the same code."""

FILE: Final = Path("dentbench/evaluation/estimates") / measured_gpus.FILE

NETWORKS: Final[dict[str, Callable[[], nn.Module]]] = {
    "ResNet-20": lambda: load_model("cifar10-resnet20-robust").network,
    "ResNet-18": lambda: load_model("AutoAttackResNet18").network,
    "WRN-28-10": WideResNet,
}
"""The networks timed, with weights or without."""

PRECISIONS: Final = ("fp32", "tf32", "bf16")

H100_BANDWIDTH, H200_BANDWIDTH = 3.35, 4.8
"""TB/s, by NVIDIA's data sheets of the SXM parts; their arithmetic is the same."""


def seconds_of_a_pass(figures: dict[str, Any], case: Case) -> float:
    """Return the seconds of one image's pass in an attack's gradient by CUDA graphs."""
    whole = figures[str(case)]["seconds"]["graphs, attack gradient"]
    return float(whole) / (2 * (case.steps + 1) * case.batch)


def made() -> dict[str, Any]:
    """Return the content of the file."""
    measured = json.loads(SOURCE.read_text())
    machine = measured["machine"]
    cases = {
        (name, precision): Case(name, 6, precision, ("graphs",))
        for name in NETWORKS
        for precision in PRECISIONS
    }
    networks = {
        name: {
            "flops": measured_gpus.operations(NETWORKS[name]().eval(), torch.zeros(1, 3, 32, 32)),
            "seconds": {
                precision: float(f"{seconds_of_a_pass(measured, cases[name, precision]):.4g}")
                for precision in PRECISIONS
            },
        }
        for name in NETWORKS
    }
    evaluated = json.loads(EVALUATION.read_text())["ResNet-20, Linf 8/255, fp32"]
    beside = json.loads(BESIDE_EVALUATION.read_text())
    alone = seconds_of_a_pass(beside, cases["ResNet-20", "fp32"])
    return {
        "device": machine["device"],
        "torch": machine["versions"]["torch"],
        "source": str(SOURCE),
        "batch": 128,
        "overhead": round(1 / evaluated["passes per second"] / alone, 2),
        "networks": networks,
        "gpus": {
            "h200": {"title": "one H200", "factor": 1.0, "why": ""},
            "h100": {
                "title": "one H100",
                "factor": round(H200_BANDWIDTH / H100_BANDWIDTH, 2),
                "why": f"; an H100 was not measured: {H200_BANDWIDTH / H100_BANDWIDTH:.2f} times "
                "the H200's time, as if memory alone bounded it (3.35 and 4.8 TB/s by the data "
                "sheets)",
            },
        },
    }


def text() -> str:
    """Return the file as it is to be."""
    return json.dumps(made(), indent=1) + "\n"


if __name__ == "__main__":
    FILE.write_text(text())
