"""Whole evaluations, as ``dentbench evaluate`` makes them: passes per second, and peak memory."""

from __future__ import annotations

import json
import signal
import sys
import tarfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dentbench.cli import app
from dentbench.records.outcome_arrays import from_arrays
from dentbench.zoo.models import load_model
from tests.gpu.figures import machine
from tests.gpu.parts import Setting

IMAGES = 512
"""How many images are evaluated; in the dry form two."""

RESNET20 = ("--model", "cifar10-resnet20-robust", "--eps", "8/255")
RESNET18 = ("--model", "AutoAttackResNet18")
ALL = ("--attack", "quick", "--protocol", "all")

RUNS: dict[str, tuple[str, ...]] = {
    "ResNet-20, Linf 8/255, fp32": (*RESNET20, *ALL),
    "ResNet-18, Linf 1.5/255, tf32": (*RESNET18, *ALL, "--eps", "1.5/255", "--precision", "tf32"),
    "ResNet-18, L2 0.2, bf16": (
        *(*RESNET18, *ALL, "--norm", "L2", "--eps", "0.2", "--precision", "bf16"),
    ),
    "ResNet-20, Linf 8/255, fp32, standard": (*RESNET20, "--attack", "standard"),
}
DRY = ("--model", "digits-robust", "--eps", "8/255", "--attack", "quick")
DRY += ("--iterations", "1", "--targets", "1", "--steps", "1", "--protocol", "published")


def keep_records(setting: Setting) -> None:
    """Pack the runs' files into a single file of the folder that is kept."""
    results = setting.scratch / "results"
    if results.exists():
        with tarfile.open(setting.out / "results.tar.gz", "w:gz") as packed:
            packed.add(results, "results")


def run(setting: Setting, name: str) -> None:
    """Carry out one of :data:`RUNS`, and write down what it took."""
    figures = setting.figures("evaluations")
    if "machine" not in figures:
        figures.add("machine", machine(setting.device))
    results = setting.scratch / "results"
    chosen = DRY if setting.dry else RUNS[name]
    data = setting.data or _random_images(setting, chosen[chosen.index("--model") + 1])
    words = ["dentbench", "evaluate", *chosen]
    words += ["--dataset", str(data), "--examples", str(2 if setting.dry else IMAGES)]
    words += ["--results", str(results), "--device", setting.device, "--progress", "none"]
    words += ["--workers", "1", "--force"]
    before = {*results.glob("runs/*")}
    started = time.perf_counter()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    sys.argv = words
    try:
        app.main()
        code = 0
    except SystemExit as stopped:
        code = int(stopped.code or 0)
    seconds = time.perf_counter() - started
    new = {*results.glob("runs/*")} - before
    result = {
        "command": " ".join(words),
        "images": "of a file" if setting.data else "random, labeled by the network",
        "exit code": code,
        "seconds": round(seconds, 1),
        **_passes(new),
    }
    if setting.device != "cpu":
        result["peak GiB"] = round(torch.cuda.max_memory_allocated() / 2**30, 3)
        result["reserved GiB"] = round(torch.cuda.max_memory_reserved() / 2**30, 3)
    figures.add(name, result)
    print(f"{name}: {json.dumps(result, indent=1)}", flush=True)
    if code:
        raise SystemExit(code)


def _passes(runs: set[Path]) -> dict[str, Any]:
    """Return what the finished batches of runs took, in all and by stage."""
    totals: Counter[str] = Counter()
    by_stage: dict[str, Counter[str]] = {}
    for path in (file for run in runs for file in run.glob("*/*.npz")):
        with np.load(path) as archive:
            outcome = from_arrays(archive)
        stage = f"{_defense(path)} {outcome.stage}"
        counts = Counter(
            forwards=outcome.forwards,
            backwards=outcome.backwards,
            seconds=outcome.seconds,
            right=sum(outcome.correct),
            images=len(outcome.correct),
        )
        by_stage.setdefault(stage, Counter()).update(counts)
        totals.update(counts)
    if not totals["seconds"]:
        return {}
    return {
        "passes": totals["forwards"] + totals["backwards"],
        "passes per second": _rate(totals),
        "by stage": {
            stage: {**item, "seconds": round(item["seconds"], 2), "passes per second": _rate(item)}
            for stage, item in sorted(by_stage.items())
        },
    }


def _rate(counts: Counter[str]) -> int:
    return (
        round((counts["forwards"] + counts["backwards"]) / counts["seconds"])
        if counts["seconds"]
        else 0
    )


def _defense(outcome: Path) -> str:
    spec = json.loads((outcome.parents[1] / "spec.json").read_text())
    return "dent" if spec.get("defense") else "static"


@torch.no_grad()
def _random_images(setting: Setting, model: str) -> Path:
    """Return a file of random images that a model is right about, the same every time."""
    path = setting.scratch / f"random-{model}.npz"
    shape = (2, 1, 8, 8) if setting.dry else (IMAGES, 3, 32, 32)
    images = np.random.default_rng(0).random(shape, np.float32)
    network = load_model(model).network.to(setting.device).eval()
    parts = torch.from_numpy(images).to(setting.device).split(128)
    labels = torch.cat([network(part).argmax(1) for part in parts])
    np.savez(path, images=images, labels=labels.cpu().numpy(), classes=10)
    return path
