"""Make the embedded models: ``python -m dentbench.zoo.training.train COMMAND``.

``digits-data`` embeds the digits data set, ``digits`` trains a robust and a nominal network on it,
and ``cifar10`` trains a ResNet-20 on the JPEG copy of CIFAR-10; ``denoisers`` trains those that
purify digits and, with ``--data``, 32x32 images. Each model becomes a safetensors
file and a JSON card (:mod:`dentbench.zoo.training.training_cards`).
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from dentbench.errors import DataError
from dentbench.zoo.cards.model_cards import ASSETS
from dentbench.zoo.denoisers import DENOISERS, fit_denoiser
from dentbench.zoo.images.datafiles import read_parquet
from dentbench.zoo.training.seeded_training import Recipe, Split, fit, nominal
from dentbench.zoo.training.training_cards import CIFAR10_JPEG, DIGITS, describe

DIGITS_TRAIN: Final = 1297
CALIBRATION: Final = 2000
"""The last images of the CIFAR-10 (JPEG copy) training file, reserved for calibration."""


DIGITS_ROBUST: Final = Recipe(
    name="digits-robust",
    network="DigitsResNet",
    epochs=30,
    batch=64,
    lr=0.1,
    eps=0.15,
    noise=1.0,
    step=0.25,
    steps=7,
    ema=0.99,
)
CIFAR10_ROBUST: Final = Recipe(
    name="cifar10-resnet20-robust",
    network="ResNet-20",
    epochs=30,
    batch=256,
    lr=0.2,
    eps=8 / 255,
    noise=2.0,
    step=1.0,
    steps=1,
    crop=4,
    flip=True,
    ema=0.999,
    bf16=True,
)


def write_digits(path: Path) -> None:
    """Write scikit-learn's copy of the UCI digits to ``path`` with a seeded split."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise DataError("digits-data needs scikit-learn: pip install scikit-learn") from None
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target)).astype(np.int16)
    np.savez_compressed(
        path,
        images=digits.images.astype(np.uint8),
        labels=digits.target.astype(np.uint8),
        train=np.sort(order[:DIGITS_TRAIN]),
        test=np.sort(order[DIGITS_TRAIN:]),
    )


def read_digits(part: str, path: Path = ASSETS / "digits.npz") -> Split:
    """The "train" or "test" part of the embedded digits: (N, 1, 8, 8), 0 to 16."""
    with np.load(path) as file:
        chosen = file[part]
        pixels = torch.from_numpy(file["images"][chosen]).unsqueeze(1)
        return Split(pixels, torch.from_numpy(file["labels"][chosen]).long(), white=16)


def read_cifar10(path: Path) -> Split:
    """The images of a CIFAR-10 (JPEG copy) parquet file, in its order: (N, 3, 32, 32), 0 to 255."""
    raw = read_parquet(path)
    pixels = torch.from_numpy(np.ascontiguousarray(raw.images))
    return Split(pixels, torch.from_numpy(np.array(raw.labels, dtype=np.int64)), white=255)


def trained(recipe: Recipe, data: Split, out: Path) -> tuple[Path, nn.Module]:
    """Train a network where the data are and write its weights; return their file, and it.

    A checkpoint in ``out`` lets a killed run continue. The file names the settings of the training.
    """
    checkpoint = out / f"{recipe.name}.checkpoint"
    model, _ = fit(recipe, data, checkpoint, lambda line: print(line, flush=True))
    path = out / f"{recipe.name}.safetensors"
    facts = {"torch": torch.__version__.partition("+")[0], **_made_on(data)}
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(state, path, {name: str(fact) for name, fact in facts.items()})
    checkpoint.unlink()
    return path, model


def _made_on(data: Split) -> dict[str, Any]:
    """Return the facts that the last bits depend on beside the recipe."""
    device = data.pixels.device
    if device.type == "cuda":
        return {"device": torch.cuda.get_device_name(device)}
    return {"threads": torch.get_num_threads()}


def train_denoiser(data: Path | None, out: Path) -> Path:
    """Train the denoiser of the digits, or of a CIFAR-10 file, and write it in half precision."""
    split = read_digits("train") if data is None else calibrated(read_cifar10(data))[0]
    recipe = DENOISERS[tuple(split.pixels.shape[1:])]
    network, losses = fit_denoiser(recipe, split, lambda line: print(line, flush=True))
    path = out / f"{recipe.name}.safetensors"
    state = {name: value.half() for name, value in network.state_dict().items()}
    last = sum(losses[-100:]) / len(losses[-100:])
    facts = {"recipe": json.dumps(asdict(recipe)), "loss": f"{last:.4f}"}
    save_file(state, path, {**facts, "torch": torch.__version__.partition("+")[0]})
    print(path)
    return path


def calibrated(data: Split) -> tuple[Split, Split]:
    """Return the images of the CIFAR-10 (JPEG copy) training file to train on, and the rest."""
    return data.part(slice(-CALIBRATION)), data.part(slice(-CALIBRATION, None))


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line's options."""
    parser = argparse.ArgumentParser(
        prog="python -m dentbench.zoo.training.train", description=__doc__
    )
    commands = parser.add_subparsers(dest="command", required=True)
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--out", type=Path, default=ASSETS, help="folder to write to")
    shared.add_argument("--threads", type=int, default=2, help="torch threads (part of the recipe)")
    shared.add_argument("--epochs", type=int, help="instead of the recipe's")
    commands.add_parser("digits-data", parents=[shared])
    commands.add_parser("digits", parents=[shared])
    denoisers = commands.add_parser("denoisers", parents=[shared])
    denoisers.add_argument(
        "--data", type=Path, help="CIFAR-10 training parquet file, in place of the digits"
    )
    cifar10 = commands.add_parser("cifar10", parents=[shared])
    trained_on = cifar10.add_mutually_exclusive_group(required=True)
    trained_on.add_argument("--data", type=Path, help="training parquet file")
    trained_on.add_argument("--weights", type=Path, help="describe these, trained elsewhere")
    cifar10.add_argument("--test", type=Path, required=True, help="test parquet file")
    cifar10.add_argument("--nominal", action="store_true", help="train without an attack")
    cifar10.add_argument("--device", default="cpu", help="where to train: cpu or cuda")
    return parser.parse_args(arguments)


def repeatably(threads: int) -> None:
    """Let this process train the same network every time; call it before a GPU is used."""
    torch.set_num_threads(threads)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # as PyTorch asks for there
    torch.use_deterministic_algorithms(True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    options = parse(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    repeatably(options.threads)
    changes = {"epochs": options.epochs} if options.epochs else {}
    if options.command == "digits-data":
        write_digits(options.out / "digits.npz")
    elif options.command == "digits":
        robust = replace(DIGITS_ROBUST, **changes)
        for recipe in (robust, nominal(robust)):
            weights, _ = trained(recipe, read_digits("train"), options.out)
            describe(recipe, DIGITS, read_digits("test"), weights)
    elif options.command == "denoisers":
        train_denoiser(options.data, options.out)
    else:
        recipe = replace(CIFAR10_ROBUST, **changes)
        recipe = nominal(recipe) if options.nominal else recipe
        weights = options.weights
        if weights is None:
            train, _ = calibrated(read_cifar10(options.data))
            weights, _ = trained(recipe, train.to(options.device), options.out)
        describe(recipe, CIFAR10_JPEG, read_cifar10(options.test), weights)


if __name__ == "__main__":
    main()
