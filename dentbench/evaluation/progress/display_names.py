"""The ways to show progress, by name. Nothing heavy: the command line knows them for its help."""

from __future__ import annotations

from enum import StrEnum

from dentbench.registry import Registry


class Display(StrEnum):
    """How progress is shown; auto: bars on a terminal or in a notebook, lines elsewhere."""

    AUTO = "auto"
    BARS = "bars"
    LINES = "lines"
    JSON = "json"
    NONE = "none"


DISPLAYS: Registry[Display] = Registry("progress display")
"""Every display by its name."""
for _display in Display:
    DISPLAYS.add(_display.value, _display)
