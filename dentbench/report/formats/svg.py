"""A chart as inline SVG: colors by CSS class, so that a page may be light or dark.

Drawn 360 units wide, which is a phone's width; a page puts charts side by side, never scales their
text down. Every number is in the text of the element too, for those who do not see it.
"""

from __future__ import annotations

from typing import Final
from xml.etree.ElementTree import Element, SubElement, tostring

from dentbench.report.chart import Bar, BarChart, Chart, Line, LineChart, Role
from dentbench.report.formats.escape import printable

WIDTH: Final = 360
"""Units that a chart is wide: pixels, on a phone."""

_LEFT, _RIGHT = 104.0, 250.0  # where bars begin and where 100 percent is
_ROW = 26.0
_PLOT = (40.0, 346.0, 12.0, 190.0)  # left, right, top and bottom of a line chart's plane
_LEGEND_ROW = 18.0
_CHARACTER = 5.6  # the largest average width of a character in a bar's texts


def to_svg(chart: Chart) -> str:
    """Return a chart as an ``svg`` element, described in words for screen readers."""
    drawn = _bars(chart) if isinstance(chart, BarChart) else _lines(chart)
    return tostring(drawn, encoding="unicode")


def described(chart: Chart) -> str:
    """Describe a chart, in a sentence per bar or line."""
    if isinstance(chart, BarChart):
        said = [_bar_text(bar) for bar in chart.bars]
        if chart.reference is not None:
            said.append(f"The dashed line is the static model under attack, {chart.reference}.")
        return " ".join(said)
    names = dict(chart.ticks)
    return " ".join(
        f"{line.label}: "
        + ", ".join(f"{share} at {chart.axis} {names[x]}" for x, share in line.points)
        + "."
        for line in chart.lines
    )


def _bar_text(bar: Bar) -> str:
    published = "" if bar.published is None else f", published {bar.published:g}%"
    return f"{bar.label}: {bar.share}, 95% interval {bar.share.interval}{published}."


def _svg(chart: Chart, height: float) -> Element:
    label = printable(f"{chart.title}. {described(chart)}")
    box = f"0 0 {WIDTH} {height:g}"
    return Element("svg", {"viewBox": box, "role": "img", "aria-label": label, "class": "chart"})


def _add(parent: Element, tag: str, kind: str, text: str = "", **numbers: float | str) -> Element:
    """Add an element of a CSS class; numbers are rounded to tenths, ``x_1`` means ``x-1``."""
    values = {
        name.replace("_", "-"): f"{value:.1f}".removesuffix(".0")
        if isinstance(value, float)
        else str(value)
        for name, value in numbers.items()
    }
    child = SubElement(parent, tag, {"class": kind, **values})
    child.text = printable(text) or None
    return child


# --- bars -----------------------------------------------------------------------------------------


def _bars(chart: BarChart) -> Element:
    bottom = _ROW * len(chart.bars) + 4
    svg = _svg(chart, bottom + 18)
    for percent in (0, 25, 50, 75, 100):
        x = _x_of(percent)
        _add(svg, "line", "grid", x1=x, x2=x, y1=2.0, y2=bottom)
        _add(svg, "text", "tick", str(percent), x=x, y=bottom + 14, text_anchor="middle")
    for number, bar in enumerate(chart.bars):
        _bar(svg, bar, 4 + _ROW * number)
    if chart.reference is not None:
        x = _x_of(chart.reference.percent)
        _add(svg, "line", "reference", x1=x, x2=x, y1=2.0, y2=bottom)
    return svg


def _bar(svg: Element, bar: Bar, top: float) -> None:
    middle = top + _ROW / 2 - 2
    row = _add(svg, "g", "row")
    _add(row, "title", "", _bar_text(bar))
    label, fit = _fitted(bar.label, _LEFT - 6)
    _add(row, "text", "name", label, x=_LEFT - 6, y=middle + 4, text_anchor="end", **fit)
    width = _x_of(bar.share.percent) - _LEFT
    _add(row, "rect", f"fill {bar.role}", x=_LEFT, y=top, width=width, height=_ROW - 6)
    interval = bar.share.interval
    ends = _x_of(interval.low), _x_of(interval.high)
    _add(row, "line", "whisker", x1=ends[0], x2=ends[1], y1=middle, y2=middle)
    for x in ends:
        _add(row, "line", "whisker", x1=x, x2=x, y1=middle - 4, y2=middle + 4)
    if bar.published is not None:
        _diamond(row, _x_of(bar.published), middle, "marker")
    value, fit = _fitted(str(bar.share), WIDTH - _RIGHT - 6)
    _add(row, "text", "value", value, x=_RIGHT + 6, y=middle + 4, **fit)


def _fitted(text: str, room: float) -> tuple[str, dict[str, float | str]]:
    """Return a text, its middle left out where it is long, and how to squeeze it into a room."""
    most = int(room / 4.2)
    if len(text) > most:
        text = f"{text[: most // 2 - 2]}...{text[-(most - most // 2 - 1) :]}"
    if len(text) * _CHARACTER <= room:
        return text, {}
    return text, {"textLength": room, "lengthAdjust": "spacingAndGlyphs"}


def _x_of(percent: float) -> float:
    return _LEFT + (_RIGHT - _LEFT) * percent / 100


def _diamond(parent: Element, x: float, y: float, kind: str, size: float = 5.5) -> None:
    corners = ((x, y - size), (x + size, y), (x, y + size), (x - size, y))
    points = " ".join(f"{left:.1f},{top:.1f}" for left, top in corners)
    _add(parent, "polygon", kind, points=points)


# --- lines ----------------------------------------------------------------------------------------


def _lines(chart: LineChart) -> Element:
    left, right, _, bottom = _PLOT
    svg = _svg(chart, bottom + 36 + _LEGEND_ROW * len(chart.lines))
    span = [place for place, _ in chart.ticks]
    for percent in (0, 25, 50, 75, 100):
        y = _y_of(percent)
        _add(svg, "line", "grid", x1=left, x2=right, y1=y, y2=y)
        _add(svg, "text", "tick", str(percent), x=left - 6, y=y + 4, text_anchor="end")
    for place, text in _spaced(chart.ticks):
        x = _across(place, span)
        _add(svg, "text", "tick", text, x=x, y=bottom + 14, text_anchor="middle")
    middle = (left + right) / 2
    _add(svg, "text", "axis", chart.axis, x=middle, y=bottom + 29, text_anchor="middle")
    for number, line in enumerate(chart.lines):
        _line(svg, line, span)
        y = bottom + 46 + _LEGEND_ROW * number
        _add(svg, "line", f"stroke {line.role}", x1=left, x2=left + 24, y1=y - 4, y2=y - 4)
        _mark(svg, line.role, left + 12, y - 4)
        _add(svg, "text", "name", line.label, x=left + 32, y=y)
    return svg


def _line(svg: Element, line: Line, span: list[float]) -> None:
    group = _add(svg, "g", "row")
    band = [(x, share.interval.high) for x, share in line.points]
    band += [(x, share.interval.low) for x, share in reversed(line.points)]
    _add(group, "polygon", f"band {line.role}", points=_path(band, span))
    middle = [(x, share.percent) for x, share in line.points]
    _add(group, "polyline", f"stroke {line.role}", points=_path(middle, span))
    for x, share in line.points:
        mark = _mark(group, line.role, _across(x, span), _y_of(share.percent))
        _add(mark, "title", "", f"{line.label}: {share}, 95% interval {share.interval}")


def _mark(parent: Element, role: Role, x: float, y: float) -> Element:
    """Add a mark whose shape tells the role too."""
    kind = f"fill {role}"
    if role == "worst":
        points = f"{x:.1f},{y + 5:.1f} {x - 5:.1f},{y - 4:.1f} {x + 5:.1f},{y - 4:.1f}"
        return _add(parent, "polygon", kind, points=points)
    if role in ("published", "other"):
        return _add(parent, "rect", kind, x=x - 3.5, y=y - 3.5, width=7.0, height=7.0)
    return _add(parent, "circle", kind, cx=x, cy=y, r=3.5 if role == "static" else 2.5)


def _path(points: list[tuple[float, float]], span: list[float]) -> str:
    return " ".join(f"{_across(x, span):.1f},{_y_of(percent):.1f}" for x, percent in points)


def _across(place: float, span: list[float]) -> float:
    left, right, _, _ = _PLOT
    low, high = min(span), max(span)
    return left + (right - left) * (place - low) / (high - low)


def _y_of(percent: float) -> float:
    _, _, top, bottom = _PLOT
    return bottom - (bottom - top) * percent / 100


def _spaced(ticks: tuple[tuple[float, str], ...]) -> list[tuple[float, str]]:
    """Return the ticks whose texts do not run into one another, from the left."""
    span = [place for place, _ in ticks]
    shown: list[tuple[float, str]] = []
    free = -WIDTH * 1.0
    for place, text in ticks:
        half = 3.2 * len(text)
        middle = _across(place, span)
        if middle - half >= free:
            shown.append((place, text))
            free = middle + half + 6
    return shown
