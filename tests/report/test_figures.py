"""Figures: every chart in every format, equal for equal records, whatever the names are.

The golden file has the content of the figures, read back from matplotlib, since the bytes change
with its version; the figures were looked at when it was written.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from dentbench.errors import SpecError, StoreError
from dentbench.records.outcome import Record
from dentbench.report import charts
from dentbench.report.chart import Chart
from dentbench.report.formats.figures import CAPTIONS, INCHES, SUFFIXES, draw, drawing
from dentbench.report.pairing import Pair, pair_up
from tests.report.fixed_records import check, grid, long_named

RIGHT = ("natural_correct", "robust_correct")
HEADS = {"pdf": b"%PDF", "svg": b"<?xml", "png": b"\x89PNG"}


def test_every_chart_is_written_in_every_format_and_the_same_twice(
    records: list[Record], tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")
    chosen = records[:3]
    written = draw(chosen, tmp_path, tmp_path / "one")
    again = draw(chosen, tmp_path, tmp_path / "two")
    assert [path.name for path in written] == [path.name for path in again]
    assert [a.read_bytes() for a in written] == [b.read_bytes() for b in again]
    # Two accuracies, the protocols of one defense, and the captions.
    assert len(written) == 3 * len(SUFFIXES) + 1 and written[-1].name == CAPTIONS
    for path in written[:-1]:
        assert path.read_bytes().startswith(HEADS[path.suffix[1:]])
    captions = written[-1].read_text(encoding="utf-8")
    assert (
        "dent, published: 82.3% (8230/10000), 95% interval 81.5-83.0, published 82.3%" in captions
    )


# --- what is drawn --------------------------------------------------------------------------------


def drawn(records: list[Record]) -> list[Chart]:
    """Charts of every kind: beside published numbers, every protocol, over eps and over steps."""
    pairs = pair_up(records)
    curves = pair_up(grid(records))
    bars = [charts.accuracies(pairs[0]), charts.accuracies(pairs[-1]), charts.protocols(pairs[0])]
    return [*bars, *charts.over_eps(curves), *charts.over_steps(curves)]


def numbers(values: Any) -> str:
    return " ".join(f"{value:.2f}".replace("-0.00", "0.00") for value in np.ravel(values))


def lines_of(chart: Chart) -> Iterator[str]:
    """The content of a figure, in the units of its axes, line by line."""
    from matplotlib.collections import LineCollection
    from matplotlib.colors import to_hex

    figure = drawing(chart)
    (axes,) = figure.axes
    yield f"{chart.name}: {numbers(figure.get_size_inches())} inches"
    texts = [*figure.texts, *axes.texts, axes.xaxis.label, axes.yaxis.label]
    texts += [*axes.get_xticklabels(), *axes.get_yticklabels()]
    legend = axes.get_legend()
    texts += [] if legend is None else legend.get_texts()
    yield from (f"  text: {text.get_text()!r}" for text in texts if text.get_text())
    yield f"  axes: x {numbers(axes.get_xlim())}, y {numbers(axes.get_ylim())}"
    for bar in axes.patches:
        ends = (bar.get_x(), bar.get_x() + bar.get_width(), bar.get_y() + bar.get_height() / 2)
        yield f"  bar: {numbers(ends)}, {to_hex(bar.get_facecolor())}"
    lines = []
    for line in axes.lines:
        look = f"{line.get_linestyle()} {line.get_marker()} {to_hex(line.get_color())}"
        lines.append(f"  line: {numbers(line.get_xydata())}, {look}")
    yield from sorted(lines)
    for item in axes.collections:
        kind = "interval" if isinstance(item, LineCollection) else "band"
        for path in item.get_paths():
            low, high = path.vertices.min(0), path.vertices.max(0)
            yield f"  {kind}: {numbers([*low, *high])}, {to_hex(item.get_edgecolor()[0])}"


def test_golden_figures(records: list[Record]) -> None:
    pytest.importorskip("matplotlib")
    check(
        "figures.txt",
        "\n".join(line for chart in drawn(records) for line in lines_of(chart)) + "\n",
    )


def test_texts_are_whole_and_apart(records: list[Record]) -> None:
    pytest.importorskip("matplotlib")
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    for chart in (*drawn(records), charts.accuracies(pair_up(long_named())[0])):
        figure = drawing(chart)
        renderer = FigureCanvasAgg(figure).get_renderer()
        figure.draw(renderer)
        (axes,) = figure.axes
        texts = [*figure.texts, *axes.texts, axes.xaxis.label, axes.yaxis.label]
        texts += [*axes.get_xticklabels(), *axes.get_yticklabels()]
        boxes = [
            (text.get_text(), text.get_window_extent(renderer)) for text in texts if text.get_text()
        ]
        for text, box in boxes:
            inside = figure.bbox.padded(1)
            assert inside.x0 <= box.x0 and box.x1 <= inside.x1, f"{text!r} is cut off"
            assert inside.y0 <= box.y0 and box.y1 <= inside.y1, f"{text!r} is cut off"
        for (text, box), (other, beside) in combinations(boxes, 2):
            assert not box.padded(-1).overlaps(beside.padded(-1)), f"{text!r} is on {other!r}"


def test_the_files_have_the_texts_and_the_size(records: list[Record], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    written = draw(records[:2], tmp_path, tmp_path)
    svg = next(path for path in written if path.suffix == ".svg")
    root = ElementTree.fromstring(svg.read_bytes())
    assert float(root.attrib["width"].removesuffix("pt")) == pytest.approx(72 * INCHES)
    texts = {text.text for text in root.iter("{http://www.w3.org/2000/svg}text")}
    assert {"static, attacked", "59.5% (5950/10000)", "images (%); diamond: published"} <= texts
    png = svg.with_suffix(".png").read_bytes()
    assert int.from_bytes(png[16:20], "big") == round(300 * INCHES)
    pdf = svg.with_suffix(".pdf").read_bytes()
    assert b"/FontFile2" in pdf or b"/TrueType" in pdf or b"/Type0" in pdf
    assert b"/Type3" not in pdf


# --- names and errors -----------------------------------------------------------------------------


def test_names_are_neither_formulas_nor_paths(
    make_record: Callable[..., Record], tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")
    name = "../$\\frac{$ <b>"
    static = make_record(1, 100, {"published": 50}, model=name, n=128)
    dent = {"mode": "instance", "steps": 6, "gained": 2, "lost": 1, "n": 128}
    defended = make_record(2, 99, {"published": 51}, model=name, **dent)
    written = draw([static, defended], tmp_path, tmp_path / "figures")
    assert {path.parent for path in written} == {tmp_path / "figures"}
    assert "&lt;b&gt;" in written[1].read_text(encoding="utf-8")


def test_what_cannot_be_drawn(
    records: list[Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SpecError, match=r"pip install 'dentbench\[figures\]'"):
        monkeypatch.setitem(sys.modules, "matplotlib", None)
        draw(records, tmp_path, tmp_path)
    monkeypatch.undo()
    pytest.importorskip("matplotlib")
    with pytest.raises(StoreError, match="nothing to draw"):
        draw(records[:1], tmp_path, tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="cannot make the folder"):
        draw(records[:2], tmp_path, tmp_path / "file")


def test_the_static_model_is_shown_of_its_own_images(records: list[Record]) -> None:
    """Where a run stops early, the static model may have been attacked on more images."""

    def twice(pair: Pair) -> Pair:
        counts = {name: 2 * getattr(pair.static, name) for name in ("n", *RIGHT)}
        return replace(pair, static=replace(pair.static, **counts))

    def shown(pairs: list[Pair]) -> list[float]:
        bars = [bar.share.percent for bar in charts.accuracies(pairs[0]).bars]
        lines = [line for chart in charts.over_eps(pairs) for line in chart.lines]
        return [*bars, *(share.percent for line in lines for _, share in line.points)]

    pairs = pair_up(grid(records))
    assert shown([*map(twice, pairs)]) == shown(pairs)
