"""Figures: every chart in every format, equal for equal records, whatever the names are."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dentbench.errors import SpecError, StoreError
from dentbench.outcome import Record
from dentbench.report.figures import CAPTIONS, SUFFIXES, draw

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
