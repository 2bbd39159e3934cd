"""A chart as a value: bars or lines of shares; the renderers decide how it looks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from dentbench.report.numbers import Share

Role = Literal["natural", "static", "published", "other", "worst"]
"""The meaning of a bar or a line; each role has a color and, on lines, a mark."""

COLORS: Final[dict[Role, str]] = {
    "natural": "#767676",
    "static": "#0072b2",
    "published": "#e69f00",
    "other": "#009e73",
    "worst": "#d55e00",
}
"""A color for each role, distinct for color-blind readers too. Source: Okabe and Ito 2008."""

ROLES: Final[dict[Role, str]] = {
    "natural": "without an attack",
    "static": "static model under attack",
    "published": "defense, published protocol",
    "other": "defense, another protocol",
    "worst": "defense, worst case per image",
}
"""Each role in words."""


@dataclass(frozen=True)
class Bar:
    """A share with its name; ``published``: the percentage published of the same thing."""

    label: str
    share: Share
    role: Role
    published: float | None = None


@dataclass(frozen=True)
class BarChart:
    """Bars from 0 to 100 percent; ``reference``: the share that all are to be compared with."""

    name: str
    title: str
    subtitle: str
    bars: tuple[Bar, ...]
    reference: Share | None = None


@dataclass(frozen=True)
class Line:
    """Shares over a quantity; ``points``: where on the axis, and the share there."""

    label: str
    role: Role
    points: tuple[tuple[float, Share], ...]


@dataclass(frozen=True)
class LineChart:
    """Lines from 0 to 100 percent over one axis; ``ticks``: where on the axis, and its text."""

    name: str
    title: str
    subtitle: str
    axis: str
    ticks: tuple[tuple[float, str], ...]
    lines: tuple[Line, ...]


Chart = BarChart | LineChart
"""Any chart."""
