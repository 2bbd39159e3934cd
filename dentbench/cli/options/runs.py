"""Options of how a run is carried out, with the config file that gives options their values."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dentbench.cli import config, keys
from dentbench.cli.names import number_option

Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE.toml",
        is_eager=True,
        callback=config.apply,
        help="Values for these options by name, or a study of several runs; the command line wins.",
    ),
]
FromRecord = Annotated[
    str | None,
    typer.Option(
        "--from-record",
        metavar="KEY",
        autocompletion=keys.complete,
        help="Repeat the run of a record, by the beginning of its key (dentbench list), latest, "
        "or FOLDER/KEY for another results folder; other options win.",
    ),
]
BatchSize = Annotated[
    int,
    number_option(
        int, "--batch-size", 128, metavar="N", help="Images that the defense sees together."
    ),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run", help="Print the stages that would run and their cost; attack nothing."
    ),
]
Until = Annotated[
    str | None,
    typer.Option(
        "--until",
        metavar="decided",
        help="decided: stop as soon as the verdict is decided, by intervals that allow for every "
        "look; cheap protocols run first, and holds needs all of them.",
    ),
]
TimeLimit = Annotated[
    str | None,
    typer.Option(
        "--time-limit",
        metavar="2h",
        help="Stop after as many rounds as fit into a time, such as 90m or 1h30m; a larger limit "
        "resumes.",
    ),
]
PassLimit = Annotated[
    str | None,
    typer.Option(
        "--pass-limit",
        metavar="N",
        help="Stop after as many rounds as fit into N passes of single images per record, such as "
        "1e9; a larger limit resumes.",
    ),
]
Rounds = Annotated[
    int | None,
    number_option(
        int,
        "--rounds",
        4,
        metavar="BATCHES",
        help="Batches per round: all protocols run on them before the next round begins. Default: "
        "as many as run at a time.",
    ),
]
Device = Annotated[
    str,
    typer.Option(
        "--device",
        "--devices",
        metavar="DEVICE",
        help="auto, cpu, cuda or cuda:N; with commas, a worker for each. With --dry-run also h100 "
        "or h200: estimate the time on that GPU.",
    ),
]
Workers = Annotated[
    str,
    typer.Option(
        "--workers",
        metavar="N|auto",
        help="Batches that run at a time, each in its own process. auto: one per GPU; on CPUs as "
        "many as are faster, if the run is long enough.",
    ),
]
Threads = Annotated[
    int | None,
    number_option(
        int,
        "--threads",
        2,
        metavar="N",
        help="Threads per worker. Default: torch's choice, shared equally among workers.",
    ),
]
Executor = Annotated[
    str,
    typer.Option(
        "--executor",
        metavar="local|ray",
        help="Where batches run: on this machine, or by Ray (pip install 'dentbench[ray]').",
    ),
]
Address = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="HOST:PORT",
        help="Running Ray cluster to use, or auto. Default: start a cluster for the run.",
    ),
]
Compiling = Annotated[
    str,
    typer.Option(
        "--compile",
        metavar="auto|off",
        help="auto: on GPUs, CUDA graphs of whole adaptations, answers and gradients.",
    ),
]
Fresh = Annotated[
    bool, typer.Option("--fresh", help="Forget stored outcomes of these runs and start over.")
]
PaperTable = Annotated[
    int | None,
    number_option(
        int,
        "--table",
        1,
        metavar="1",
        help="Run exactly the cells of the paper's Table 1: both modes, Carmon2019 and "
        "Ding2020 or the models given. For Table 2: dentbench ablate.",
    ),
]
MeasureTime = Annotated[
    bool,
    typer.Option("--time/--no-time", help="Measure inference time beside the static model's."),
]
