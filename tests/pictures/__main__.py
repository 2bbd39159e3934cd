"""``python -m tests.pictures [NAME ...]``: real runs, pictured; goes to results/NAME."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tests.pictures.terminal import picture, screen, typed

OUT: Final = Path("results")

TERMINAL: Final = "evaluate --attack quick --eps 0.2 --lr 0.02 --batch-size 32 --examples 256"

_DIGITS: Final = "evaluate --attack quick --lr 0.02 --batch-size 16 --examples 128"
REPORT: Final = (
    f"{_DIGITS} --eps-grid 0,0.1,0.2,0.3 --save-adversarial",
    f"{_DIGITS} --eps 0.2 --steps-grid 1,3,12",
    "report --format html --out report.html",
)
"""The command of the page in the picture: curves over eps and steps, and images."""

SIZE: Final = "1280,1560"


def terminal(folder: Path, out: Path) -> None:
    """Draw a command's output on a terminal."""
    lines = screen(typed(shlex.split(TERMINAL), folder))
    out.write_text(picture(f"dentbench {TERMINAL}", lines), encoding="utf-8")


def report(folder: Path, out: Path) -> None:
    """Photograph the HTML report in Chromium."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        sys.exit("report.png needs Chromium: install it, or name terminal.svg alone")
    for command in REPORT:
        typed(shlex.split(command), folder)
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    options += [f"--user-data-dir={folder / 'profile'}", f"--window-size={SIZE}"]
    page = (folder / "report.html").as_uri()
    command = [browser, *options, f"--screenshot={out.resolve()}", page]
    subprocess.run(command, check=True, capture_output=True)


PICTURES: Final[dict[str, Callable[[Path, Path], None]]] = {
    "terminal.svg": terminal,
    "report.png": report,
}


def main(names: list[str]) -> None:
    for name in names or PICTURES:
        with tempfile.TemporaryDirectory() as folder:
            PICTURES[name](Path(folder), OUT / name)
        print(f"wrote {OUT / name}")


if __name__ == "__main__":
    main(sys.argv[1:])
