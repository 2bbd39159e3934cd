"""Options of the cache and of ``dentbench fetch``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Cache = Annotated[
    Path | None,
    typer.Option("--cache", metavar="DIR", help="Cache folder; also DENTBENCH_CACHE."),
]
Offline = Annotated[
    bool, typer.Option("--offline", help="Make no connection; also DENTBENCH_OFFLINE=1.")
]
Mirrors = Annotated[
    list[str] | None,
    typer.Option(
        "--mirror",
        metavar="URL",
        help="Try this copy of the cache's layout first; repeatable, also DENTBENCH_MIRRORS.",
    ),
]
Names = Annotated[
    list[str] | None,
    typer.Argument(metavar="[NAME]...", help="Models or data sets.", hidden=True),
]
ModelNames = Annotated[
    list[str] | None, typer.Option("--model", metavar="NAME", help="A model; repeatable.")
]
DatasetNames = Annotated[
    list[str] | None, typer.Option("--dataset", metavar="NAME", help="A data set; repeatable.")
]
Paper = Annotated[bool, typer.Option("--paper", help="All models and data of the paper's tables.")]
ListCards = Annotated[
    bool,
    typer.Option(
        "--list",
        help="List what can be named, with links; NAMEs, or any words of theirs, restrict it, "
        "as --dataset does to a data set and its models.",
    ),
]
BatchNorm = Annotated[
    bool | None,
    typer.Option(
        "--batchnorm/--no-batchnorm", help="List only models with BatchNorm layers, or without."
    ),
]
Verify = Annotated[bool, typer.Option("--verify", help="Check cached files against their hashes.")]
Remove = Annotated[bool, typer.Option("--remove", help="Remove files from the cache.")]
ByHand = Annotated[
    str | None,
    typer.Option("--from", metavar="PATH|URL", help="Import one file from here instead."),
]
