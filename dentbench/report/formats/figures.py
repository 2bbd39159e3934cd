"""Charts as files for a paper: pdf, svg and png by matplotlib, one column wide."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from dentbench.errors import SpecError, StoreError, os_reason
from dentbench.records.outcome import Record
from dentbench.records.safe_files import write_atomic
from dentbench.report import charts, run_details
from dentbench.report.chart import COLORS, BarChart, Chart, LineChart, Role
from dentbench.report.formats.escape import printable
from dentbench.report.formats.svg import described
from dentbench.report.pairing import pair_up

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INCHES: Final = 3.35
"""The width of a figure: a column of a two-column paper."""

SUFFIXES: Final = ("pdf", "svg", "png")
"""The formats that every chart is written in."""

CAPTIONS: Final = "captions.txt"
"""The file beside the figures that describes each of them."""

_MARKS: Final[dict[Role, str]] = {
    "natural": ".",
    "static": "o",
    "published": "s",
    "other": "D",
    "worst": "v",
}
_STYLE: Final[Any] = {  # matplotlib types the name of each setting
    "font.size": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "pdf.fonttype": 42,  # TrueType, which publishers ask for
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "dentbench",  # equal charts are equal files
    "text.parse_math": False,  # a name may hold dollar signs
    "savefig.dpi": 300,
}
_TICKS: Final = (0, 25, 50, 75, 100)
_DATES: Final = {"pdf": {"CreationDate": None}, "svg": {"Date": None}, "png": {}}


def draw(records: Sequence[Record], results: Path, folder: Path) -> list[Path]:
    """Write every chart of the records into a folder and return the files, captions last.

    ``results``: the results folder, where runs keep reports' details. Raises
    :class:`~dentbench.errors.SpecError` without matplotlib and
    :class:`~dentbench.errors.StoreError` where there is nothing to draw or no place for it.
    """
    _require_matplotlib()
    drawn = list(_charts(records, results))
    if not drawn:
        raise StoreError(
            "there is nothing to draw: no record of a defense beside its static model is there"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"cannot make the folder {folder}: {os_reason(error)}") from error
    written = []
    for chart in drawn:
        written += _written(chart, folder)
    captions = [
        f"{chart.name}\n  {printable(chart.title)}. {printable(chart.subtitle)}\n"
        f"  {printable(described(chart))}\n"
        for chart in drawn
    ]
    write_atomic(folder / CAPTIONS, "\n".join(captions))
    return [*written, folder / CAPTIONS]


def _charts(records: Sequence[Record], results: Path) -> Iterator[Chart]:
    pairs = pair_up(records)
    for pair in charts.shown_pairs(pairs):
        yield from run_details.charts_of(pair, results)
    yield from charts.over_eps(pairs)
    yield from charts.over_steps(pairs)


def drawing(chart: Chart) -> Figure:
    """Return a chart as a matplotlib figure, a column wide and as high as it needs to be."""
    import matplotlib

    with matplotlib.rc_context(_STYLE):
        return _bars(chart) if isinstance(chart, BarChart) else _lines(chart)


def chart_as_svg(chart: Chart) -> str:
    """Return a chart as the text of an SVG file; raises as :func:`draw` without matplotlib."""
    import io

    _require_matplotlib()
    stream = io.BytesIO()
    import matplotlib

    figure = drawing(chart)
    with matplotlib.rc_context(_STYLE):
        figure.savefig(stream, format="svg", metadata=_DATES["svg"])
    return stream.getvalue().decode()


def _require_matplotlib() -> None:
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise SpecError(
            f"--figures needs matplotlib, which cannot be loaded ({error}); "
            "pip install 'dentbench[figures]'"
        ) from error


def _written(chart: Chart, folder: Path) -> list[Path]:
    import io

    import matplotlib

    figure = drawing(chart)
    paths = []
    for suffix in SUFFIXES:
        data = io.BytesIO()
        with matplotlib.rc_context(_STYLE):
            figure.savefig(data, format=suffix, metadata=_DATES[suffix])
        paths.append(folder / f"{chart.name}.{suffix}")
        write_atomic(paths[-1], data.getvalue())
    return paths


def _new(
    chart: Chart, left: float, right: float, bottom: float, inches: float
) -> tuple[Figure, Axes]:
    """Return a figure of one column's width with axes ``inches`` high, its texts above them.

    ``left``, ``right``, ``bottom``: inches beside and below the axes.
    """
    from matplotlib.figure import Figure as NewFigure

    title = _wrapped(printable(chart.title), INCHES - 0.08, 8)
    small = _wrapped(printable(chart.subtitle), INCHES - 0.08, 6)
    top = 0.08 + 0.14 * len(title) + 0.11 * len(small)
    height = top + inches + bottom
    figure = NewFigure(figsize=(INCHES, height))
    width = INCHES - left - right
    axes = figure.add_axes((left / INCHES, bottom / height, width / INCHES, inches / height))
    place = 1 - 0.03 / height
    figure.text(0.01, place, "\n".join(title), va="top", fontsize=8, linespacing=1.1)
    place -= 0.14 * len(title) / height
    figure.text(0.01, place, "\n".join(small), va="top", fontsize=6, color="#555555")
    return figure, axes


def _inches(text: str, size: float) -> float:
    """Return how wide a line of text is at a font size in points."""
    from matplotlib.textpath import TextPath

    return float(TextPath((0, 0), text, size=size).get_extents().width) / 72 if text else 0.0


def _wrapped(text: str, inches: float, size: float) -> list[str]:
    """Return a text as lines of at most so many inches at a font size in points."""
    per_character = max(_inches(text, size) / max(len(text), 1), size / 200)
    for room in range(max(int(inches / per_character) + 4, 8), 7, -1):
        lines = textwrap.wrap(text, room)
        if all(_inches(line, size) <= inches for line in lines):
            return lines
    return textwrap.wrap(text, 7)


def _bars(chart: BarChart) -> Figure:
    labels = [_wrapped(printable(bar.label), 1.2, 7) for bar in chart.bars]
    left = 0.15 + max(_inches(line, 7) for lines in labels for line in lines)
    right = 0.11 + max(_inches(str(bar.share), 6) for bar in chart.bars)
    row_height = max(0.2, 0.04 + 0.12 * max(map(len, labels)))
    figure, axes = _new(chart, left, right, 0.42, row_height * len(chart.bars))
    for row, bar in enumerate(chart.bars):
        percent, interval = bar.share.percent, bar.share.interval
        axes.barh(row, percent, height=0.7, color=COLORS[bar.role])
        error = [[percent - interval.low], [interval.high - percent]]
        axes.errorbar(percent, row, xerr=error, color="black", linewidth=0.8, capsize=2)
        if bar.published is not None:
            axes.plot(bar.published, row, "D", markersize=4, color="white", mec="black", mew=0.8)
        place, beside = ("axes fraction", "data"), "offset points"
        axes.annotate(str(bar.share), (1, row), (5, 0), place, beside, va="center", fontsize=6)
    if chart.reference is not None:
        axes.axvline(chart.reference.percent, color="black", linestyle="--", linewidth=0.8)
    axes.set_yticks(range(len(chart.bars)), ["\n".join(lines) for lines in labels])
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xticks(_TICKS)
    marked = any(bar.published is not None for bar in chart.bars)
    axes.set_xlabel("images (%); diamond: published" if marked else "images (%)", fontsize=7)
    return figure


def _lines(chart: LineChart) -> Figure:
    figure, axes = _new(chart, 0.5, 0.12, 0.62, 1.7)
    for line in chart.lines:
        places = [x for x, _ in line.points]
        shares = [share for _, share in line.points]
        ends = [share.interval for share in shares]
        color = COLORS[line.role]
        low, high = [end.low for end in ends], [end.high for end in ends]
        axes.fill_between(places, low, high, color=color, alpha=0.15, linewidth=0)
        axes.plot(
            places,
            [share.percent for share in shares],
            marker=_MARKS[line.role],
            markersize=3.5,
            linewidth=1.2,
            color=color,
            label=line.label,
        )
    axes.set_xticks([x for x, _ in chart.ticks], [text for _, text in chart.ticks])
    if len(chart.ticks) > 6:
        axes.tick_params("x", rotation=45)
    axes.set_xlabel(chart.axis)
    axes.set_ylabel("images right (%)")
    axes.set_ylim(0, 101)
    axes.set_yticks(_TICKS)
    axes.legend(frameon=False, fontsize=7)
    return figure
