"""Options of a run's output."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dentbench.cli.names import number_option, one_of
from dentbench.evaluation.progress.display_names import Display

Results = Annotated[Path, typer.Option("--results", metavar="DIR", help="Results folder.")]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="Print the verdicts alone; no progress.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Progress = Annotated[
    Display,
    typer.Option(
        "--progress",
        metavar="HOW",
        **one_of("progress", Display),
        help="On the error stream: bars, lines, json (one object a line), none; auto: bars on a "
        "terminal, else lines.",
    ),
]
RequireGain = Annotated[
    float | None,
    number_option(
        float,
        "--require-gain",
        5,
        metavar="POINTS",
        help="End with exit code 3 unless every defense holds and the 95% interval of its "
        "worst-case gain over static lies at or above POINTS percentage points.",
    ),
]
SaveAdversarial = Annotated[
    bool, typer.Option("--save-adversarial", help="Keep the final points of every batch.")
]
Diagnostics = Annotated[
    bool,
    typer.Option(
        "--diagnostics",
        help="Keep a diagnosis of every adaptation to natural images, and to attacked images where "
        "their points are kept.",
    ),
]
