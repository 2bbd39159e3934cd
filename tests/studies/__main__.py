"""``python -m tests.studies``: run the committed studies, and render their tables.

Stopped, the same command goes on at the first missing batch. ``--render`` renders alone. CIFAR-10
(JPEG copy) is not part of the package: ``--data`` names the folder that has its parquet files;
studies that need it are left out without.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.studies.pages import render_all
from tests.studies.studies import STUDIES, Study


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(prog="python -m tests.studies", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="STUDY", help="these only; default: all")
    parser.add_argument("--data", type=Path, help="folder with the CIFAR-10 (JPEG copy) files")
    parser.add_argument("--results", type=Path, default=Path("results"), help="results folder")
    parser.add_argument("--options", default="", help="more options of dentbench, in one text")
    parser.add_argument("--render", action="store_true", help="run nothing, render the tables")
    return parser.parse_args(arguments)


def run(study: Study, data: Path | None, results: Path, options: Sequence[str]) -> int:
    """Run a study by the command line; return its exit code."""
    command = [*study.command(data, results), *options]
    print("dentbench", shlex.join(command), flush=True)
    return subprocess.run([sys.executable, "-m", "dentbench", *command], check=False).returncode


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    options = parse(arguments)
    codes = []
    for study in () if options.render else STUDIES:
        if options.names and study.name not in options.names:
            continue
        if study.file and options.data is None:
            print(f"{study.name} is left out: it needs --data", file=sys.stderr)
            continue
        codes.append(run(study, options.data, options.results, shlex.split(options.options)))
    render_all(options.results, options.results / "tables")
    return max(codes, default=0)


if __name__ == "__main__":
    raise SystemExit(main())
