"""Labels inferred from folders: what other programs leave there moves no label."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from PIL import Image

from dentbench.zoo.datasets import load_dataset
from dentbench.zoo.models import load_model
from tests.helpers import Run

COUNT = 60
NATURAL = ("--mode", "static", "--attack", "none", "--progress", "none")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of digits with nine class folders: the last of ten is missing."""
    data = load_dataset("digits")
    for number in range(COUNT):
        label = int(data.labels[number])
        if label < 9:
            path = tmp_path / "digits of mine" / str(label) / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = (data.images[number : number + 1][0, 0] * 255).round().byte().numpy()
            Image.fromarray(pixels).save(path)
    return tmp_path / "digits of mine"


def clutter(folder: Path) -> None:
    """Leave what Jupyter, macOS and Windows leave."""
    (folder / ".ipynb_checkpoints").mkdir()
    (folder / "__MACOSX" / "3").mkdir(parents=True)
    (folder / "__MACOSX" / "3" / "._a.png").write_bytes(b"\0\5\26\7")
    for name in (".DS_Store", "Thumbs.db", "README.txt"):
        (folder / name).write_bytes(b"")
    shutil.copy(next((folder / "3").iterdir()), folder / "3" / "._x.png")
    (folder / "3" / "._y.png").write_bytes(b"\0\5\26\7")


def test_clutter_moves_no_label_and_a_missing_folder_is_told(
    dentbench: Run, pictures: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = load_dataset("digits")
    network = load_model("digits-robust").network
    mine = data.labels[:COUNT] < 9
    right = network(data.images[0:COUNT]).argmax(1) == data.labels[:COUNT]
    for number, leave in enumerate((lambda _: None, clutter)):
        leave(pictures)
        code, _, err = dentbench(
            *("evaluate", "--model", "digits-robust", "--data", str(pictures), *NATURAL),
            *("--results", str(number)),
        )
        assert code == 0, err
        assert "has 9 class folders and the model 10 outputs" in caplog.text
        caplog.clear()
        (row,) = dentbench.rows(str(number))
        counts = int(row["natural_correct"]), int(row["n"])
        assert counts == (int((right & mine).sum()), int(mine.sum()))
