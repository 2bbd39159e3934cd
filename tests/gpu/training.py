"""The nominal ResNet-20 trained on the GPU, as ``python -m dentbench.zoo.training.train`` would."""

from __future__ import annotations

import shutil
import time
from dataclasses import replace

import torch

from dentbench.zoo.training import train, training_cards
from dentbench.zoo.training.seeded_training import Split, nominal
from tests.gpu.figures import machine
from tests.gpu.parts import Setting


def run(setting: Setting) -> None:
    """Train, and measure natural accuracy on training images that were kept out."""
    train.repeatably(1 if setting.dry else 8)
    figures = setting.figures("training")
    figures.add("machine", machine(setting.device))
    recipe = nominal(train.CIFAR10_ROBUST)
    started = time.perf_counter()
    if setting.dry:
        recipe = replace(recipe, epochs=1, batch=8)
        data = kept = _noise()
    else:
        assert setting.train_data is not None
        data, kept = train.calibrated(train.read_cifar10(setting.train_data))
    figures.add("seconds to read", round(time.perf_counter() - started, 1))
    started = time.perf_counter()
    weights, model = train.trained(recipe, data.to(setting.device), setting.scratch)
    seconds = time.perf_counter() - started
    shutil.copyfile(weights, setting.out / weights.name)
    correct = training_cards.count_natural(model, kept.to(setting.device))
    result = {
        "epochs": recipe.epochs,
        "images": len(data.labels),
        "seconds": round(seconds, 1),
        "images per second": round(recipe.epochs * len(data.labels) / seconds),
        "kept out, correct": correct,
        "kept out, total": len(kept.labels),
        "weights": weights.name,
    }
    figures.add(recipe.name, result)
    print(f"{recipe.name}: {result}", flush=True)


def _noise() -> Split:
    pixels = torch.randint(256, (16, 3, 32, 32), dtype=torch.uint8)
    return Split(pixels, torch.arange(16) % 10, white=255)
