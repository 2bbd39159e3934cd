"""Options of the model and the data that are evaluated."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dentbench.cli.names import names_of, number_option

Model = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        metavar="NAME",
        autocompletion=names_of("dentbench.zoo.cards.model_cards", "MODELS"),
        help="Model by id or alias (see fetch --list), module:callable, or a checkpoint; "
        "repeatable. Default: the embedded digits-robust; ablate: digits-nominal, on CIFAR-10 "
        "cifar10-resnet20-nominal.",
    ),
]
Arch = Annotated[
    str | None,
    typer.Option(
        "--arch",
        metavar="NAME|MODULE:CALLABLE",
        help="Network of a checkpoint file: a model's name or a factory.",
    ),
]
Normalize = Annotated[
    tuple[str, str] | None,
    typer.Option(
        "--normalize",
        metavar="MEAN STD",
        help="Normalize images for your own model: numbers per channel, separated by commas.",
    ),
]
ExpectClean = Annotated[
    float | None,
    number_option(
        float,
        "--expect-clean",
        94.8,
        metavar="PERCENT",
        help="Expected natural accuracy; stop if it differs (see --force).",
    ),
]
Dataset = Annotated[
    str | None,
    typer.Option(
        "--dataset",
        "--data",
        metavar="NAME|FILE",
        autocompletion=names_of("dentbench.zoo.cards.dataset_cards", "DATASETS"),
        help="Data set by name, a .parquet, .npz or CIFAR file, or a folder of pictures with one "
        "folder per class. Default: the model's own.",
    ),
]
DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        metavar="DIR",
        help="Folder of ImageNet's val, or of the .npy files of a corruption set. Default: the "
        "cache.",
    ),
]
DataName = Annotated[
    str | None,
    typer.Option("--data-name", metavar="TEXT", help="Name of your own data file."),
]
Preprocess = Annotated[
    str | None,
    typer.Option(
        "--preprocess",
        metavar="NAME",
        help="How pictures are resized and cropped: Res256Crop224, BicubicRes256Crop224, "
        "BicubicRes224Crop224, Res224 or Crop288. Default: the model's own.",
    ),
]
Corruptions = Annotated[
    list[str] | None,
    typer.Option(
        "--corruption",
        metavar="NAME",
        help="A corruption of cifar10-c or cifar100-c, such as gaussian_noise; repeatable. "
        "Default: all 15.",
    ),
]
Severities = Annotated[
    list[int] | None,
    number_option(
        int, "--severity", 5, metavar="1-5", help="Severity of corruptions; repeatable. Default: 5."
    ),
]
Examples = Annotated[
    int | None,
    number_option(int, "--examples", 256, metavar="N", help="Number of images. Default: all."),
]
First = Annotated[
    int, number_option(int, "--first", 0, metavar="N", help="Index of the first image.")
]
Order = Annotated[
    str,
    typer.Option(
        "--order",
        metavar="ORDER",
        help="given, or label-windows:N: sort by label within windows of N images (Chen et al. "
        "2022: 256), and report natural accuracy in the given order too.",
    ),
]
Force = Annotated[
    bool,
    typer.Option(
        "--force",
        help="Go on although natural accuracy differs from the published accuracy or is no better "
        "than chance, or eps is implausible.",
    ),
]
