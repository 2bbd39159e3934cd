"""Notebooks: results show themselves, and progress is one output, however long the run."""

from __future__ import annotations

import builtins
import sys
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import dentbench
from dentbench import AttackSpec, DentSpec
from dentbench.errors import UnknownNameError
from dentbench.evaluation.progress import events
from dentbench.evaluation.progress.display import shown_progress
from dentbench.evaluation.progress.display_names import Display
from dentbench.evaluation.progress.events import BatchDone, PassesDone, Stage, StageBegan
from dentbench.report.table import Column, Table
from tests.reference import tiny_network

ATTACK = AttackSpec(name="apgd-ce", eps=Fraction(2, 255), iterations=2)


class Recorder:
    """Stands in for IPython's display: the outputs, each with all that was ever written to it."""

    def __init__(self) -> None:
        self.outputs: list[list[dict[str, str]]] = []

    def display(self, data: dict[str, str], *, raw: bool, display_id: bool) -> Any:
        assert raw and display_id
        self.outputs.append([data])
        return self

    def update(self, data: dict[str, str], *, raw: bool) -> None:
        assert raw
        self.outputs[-1].append(data)


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    """A notebook's kernel, as far as progress knows it."""
    recorder, module = Recorder(), ModuleType("IPython.display")
    monkeypatch.setattr(module, "display", recorder.display, raising=False)
    monkeypatch.setitem(sys.modules, "IPython", ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    shell = type("ZMQInteractiveShell", (), {})  # by this name a notebook's kernel is known
    monkeypatch.setattr(builtins, "get_ipython", shell, raising=False)
    return recorder


def test_progress_is_one_output_and_does_not_flood(
    notebook: Recorder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(events.time, "perf_counter", lambda: 1000.0)
    with shown_progress(Display.AUTO) as shown:
        assert shown is not None
        for name in ("natural", "published"):
            stage = Stage(model="my <b>model</b>", defense="static", protocol=name)
            shown(StageBegan(stage=stage, passes=1000))
            for passes in range(1000):
                shown(PassesDone(passes=passes))
            shown(BatchDone(done=1, batches=1, right=3, images=4))
    (output,) = notebook.outputs
    assert len(output) == 4  # the beginning and the end of each stage; the clock stands still
    lines = output[-1]["text/plain"].splitlines()
    assert lines[0].strip() == "my <b>model</b>" and len(lines) == 3
    assert lines[1].startswith("static natural") and "1/1 75.0%" in lines[2]
    assert "&lt;b&gt;model" in output[-1]["text/html"] and "<b>" not in output[-1]["text/html"]
    assert capsys.readouterr() == ("", "")


def test_an_evaluation_tells_a_notebook_how_it_goes_and_shows_its_verdict(
    notebook: Recorder, tmp_path: Path
) -> None:
    images = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    actual = dentbench.evaluate(
        tiny_network(),
        images,
        torch.arange(6),
        defense=DentSpec(steps=1),
        attack=ATTACK,
        batch_size=2,
        results=tmp_path,
    )
    (output,) = notebook.outputs
    lines = output[-1]["text/plain"].splitlines()
    assert lines[0].strip() == "my model"
    static, dent = actual
    rights = {
        "static natural": static.natural_correct,
        "static published": static.robust_correct,
        "instance natural": dent.natural_correct,
        **{f"instance {name}": right for name, right in dent.protocol_counts.items()},
    }
    bars = {line[:20].split("━")[0].strip(): line for line in lines if "━" in line}
    assert bars.keys() == {*rights, "all"}  # one for each stage, whatever its rounds
    for name, right in rights.items():
        assert f"3/3 {100 * right / 6:.1f}%" in bars[name]
    assert "after 6 of 6 images" in lines[-2] + lines[-1]
    shown = actual._repr_html_()
    assert shown.startswith("<figure") and f"<strong>{actual.verdict.sentence[:9]}" in shown


def test_progress_has_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images, labels = torch.rand(2, 3, 8, 8), torch.zeros(2, dtype=torch.long)
    given = {"defense": DentSpec(steps=1), "attack": ATTACK, "results": tmp_path}
    with pytest.raises(UnknownNameError, match="did you mean lines"):
        dentbench.evaluate(tiny_network(), images, labels, progress="line", **given)
    dentbench.evaluate(tiny_network(), images, labels, progress=None, **given)
    assert capsys.readouterr() == ("", "")


def test_tables_and_records_show_themselves(tmp_path: Path) -> None:
    table = Table.of("<t>", [Column("c")], [["<script>"]])
    assert table._repr_html_().startswith("<figure") and "<script>" not in table._repr_html_()
    images, labels = torch.rand(2, 3, 8, 8), torch.zeros(2, dtype=torch.long)
    static, _ = dentbench.evaluate(
        tiny_network(),
        images,
        labels,
        defense=DentSpec(steps=1),
        attack=ATTACK,
        results=tmp_path,
        name="<script>",
        progress=None,
    )
    shown = static._repr_html_()
    assert "&lt;script&gt;" in shown and "<script>" not in shown
    assert ">natural_correct<" in shown and ">images right without an attack<" in shown
    assert ">sigma<" not in shown  # a static model has none


NOTEBOOK = f"""
import sys; sys.path.insert(0, {str(Path(__file__).parents[2])!r})
import torch, dentbench
from tests.reference import tiny_network
attack = dentbench.AttackSpec(name="apgd-ce", iterations=2)
images, labels = torch.rand(6, 3, 8, 8), torch.arange(6)
found = dentbench.evaluate(tiny_network(), images, labels, attack=attack, batch_size=2)
found
"""


def test_in_a_real_notebook(tmp_path: Path) -> None:
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    notebook = nbformat.v4.new_notebook()
    notebook.cells = [nbformat.v4.new_code_cell(NOTEBOOK)]
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, kernel_name="python3", resources=resources).execute()
    progress_, result = notebook.cells[0].outputs
    assert progress_.output_type == "display_data" and "3/3" in progress_.data["text/plain"]
    assert result.data["text/html"].startswith("<figure")
