"""A picture of a command's output on a terminal of 88 columns."""

from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final

from rich.console import Console
from rich.text import Text

ROOT: Final = Path(__file__).parents[2]

COLUMNS: Final = 88

_TOKENS: Final = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\n|\r|[^\x1b\r\n]+")


def typed(
    arguments: Sequence[str], folder: Path, environment: Mapping[str, str] = MappingProxyType({})
) -> str:
    """Return all that a command writes to a terminal, codes included; ``folder``: where it runs."""
    master, slave = pty.openpty()
    base = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    base |= {
        "PYTHONPATH": str(ROOT),
        "TERM": "xterm-256color",
        "COLUMNS": str(COLUMNS),
        **environment,
    }
    command = [sys.executable, "-m", "dentbench", *arguments]
    with subprocess.Popen(command, stdout=slave, stderr=slave, env=base, cwd=folder) as process:
        os.close(slave)
        parts = []
        while True:
            try:
                part = os.read(master, 65536)
            except OSError:  # the other end is closed
                break
            if not part:
                break
            parts.append(part)
    os.close(master)
    if process.returncode:
        raise RuntimeError(f"{command} ended with {process.returncode}")
    return b"".join(parts).decode()


def screen(written: str) -> list[str]:
    """Return the lines that are left on a terminal, with their colors.

    Knows what live displays write: lines are erased whole and written again.
    """
    lines, row = [""], 0
    for token in _TOKENS.findall(written):
        if token == "\n":
            row += 1
            lines += [""] * (row == len(lines))
        elif token == "\x1b[2K":
            lines[row] = ""
        elif token.startswith("\x1b[") and token.endswith("A"):
            row -= int(token[2:-1] or 1)
        elif token != "\r" and (token[-1] == "m" or token[0] != "\x1b"):
            lines[row] += token
    return lines


def picture(command: str, lines: Sequence[str]) -> str:
    """Return an SVG of a terminal after a command; no font is loaded from the network."""
    console = Console(
        record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True, legacy_windows=False
    )
    console.print(Text(f"$ {command}"))
    for line in map(Text.from_ansi, lines):
        # A terminal goes on in the next row, wherever a word is then.
        for row in line.divide(range(COLUMNS, len(line), COLUMNS)):
            console.print(row, no_wrap=True, soft_wrap=True)
    drawn = console.export_svg(title="dentbench")
    return re.sub(r"@font-face \{.*?\}\s*", "", drawn, flags=re.DOTALL)
