"""``dentbench judge``: points of a file lower the worst case of the record that they belong to."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from dentbench.attacks.apgd import apgd
from dentbench.attacks.base import ThreatModel
from dentbench.attacks.losses import make_loss
from dentbench.attacks.protocols.search import through
from dentbench.records.results_csv import read
from dentbench.zoo.datasets import load_dataset
from dentbench.zoo.models import load_model
from tests.helpers import Run

COUNT, EPS = 12, 0.1
RUN = [
    *("--model", "digits-nominal", "--defense", "norm", "--attack", "apgd-ce"),
    *("--iterations", "1", "--examples", str(COUNT), "--batch-size", "6", "--eps", str(EPS)),
]


@pytest.fixture
def command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Iterator[Run]:
    yield Run(monkeypatch, capsys, tmp_path)


def attacked(eps: float) -> Any:
    """Points of a longer attack on the network without the defense."""
    data, network = load_dataset("digits"), load_model("digits-nominal").network.eval()
    x, y = data.images[:COUNT], data.labels[:COUNT]
    points = apgd(through(network), make_loss("margin", y), x, x, ThreatModel("Linf", eps), 20)
    return points.numpy(), x.numpy()


def test_points_lower_the_worst_case_and_stay(command: Run, tmp_path: Path) -> None:
    points, clean = attacked(EPS)
    assert command("evaluate", *RUN, "--eps", "0.01")[0] == 0
    (before,) = (record for record in read(tmp_path / "results") if record.mode != "static")
    close = clean + (points - clean) * np.float32(0.1)
    save_file({"points": close}, tmp_path / "close.safetensors")
    code, _, err = command("judge", "close.safetensors", "--from-record", before.key)
    assert code == 0, err
    after = read(tmp_path / "results")[-1]
    digits = hashlib.sha256((tmp_path / "close.safetensors").read_bytes()).hexdigest()[:12]
    name = f"claimed@{digits}"
    assert after.key == before.key and name in after.protocol_counts
    assert after.robust_correct <= before.robust_correct
    assert {*before.protocol_counts} < {*after.protocol_counts}
    assert json.loads(after.stage_versions or "{}")
    flags = sorted((tmp_path / "results" / "runs" / after.key / name).glob("*.npz"))
    assert len(flags) == 2, "one file for each declared batch"
    with np.load(tmp_path / "results" / "claims" / f"{digits}.npz") as kept:
        assert np.array_equal(kept["points"], close)


def test_points_that_break_everything_break_it(command: Run, tmp_path: Path) -> None:
    points, _ = attacked(0.25)
    np.savez(tmp_path / "points.npz", points=points)
    code, _, err = command("judge", "points.npz", *RUN, "--eps", "0.25")
    assert code == 0, err
    record = read(tmp_path / "results")[-1]
    network = load_model("digits-nominal").network.eval()
    labels = load_dataset("digits").labels[:COUNT]
    right = int((network(torch.from_numpy(points)).argmax(1) == labels).sum())
    (name,) = (count for count in record.protocol_counts if count.startswith("claimed@"))
    assert right < COUNT // 2 and record.protocol_counts[name] < COUNT // 2
    assert record.robust_correct <= record.protocol_counts[name]


BAD: dict[str, tuple[Any, str]] = {
    "type": (lambda x: (255 * x).astype(np.uint8), "uint8; give floating numbers"),
    "nan": (lambda x: x * np.nan, "NaN or infinite"),
    "scale": (lambda x: 3 * x, "scale them to [0, 1]"),
    "flat": (lambda x: x.reshape(COUNT, -1), "not (images, C, H, W)"),
    "few": (lambda x: x[:5], "one point for each image"),
    "far": (lambda x: 1 - x, "of another eps"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_points_are_one_sentence(command: Run, tmp_path: Path, kind: str) -> None:
    change, words = BAD[kind]
    _, clean = attacked(EPS)
    np.savez(tmp_path / "bad.npz", points=change(clean))
    code, _, err = command("judge", "bad.npz", *RUN)
    assert code == 2 and words in err and len(err.strip().splitlines()) == 1, err
    assert not (tmp_path / "results" / "results.csv").exists()


def test_bad_files_are_one_sentence(command: Run, tmp_path: Path) -> None:
    (tmp_path / "junk.npz").write_text("junk")
    (tmp_path / "points.txt").write_text("junk")
    np.savez(tmp_path / "two.npz", a=np.zeros(3), b=np.zeros(3))
    for name, words in (
        ("junk.npz", "no arrays"),
        ("points.txt", "is no .npz, .npy or .safetensors file"),
        ("two.npz", "call the points points"),
        ("gone.npz", "there is no file of points gone.npz; name one"),
    ):
        code, _, err = command("judge", name, *RUN)
        assert code == 2 and words in err and "Traceback" not in err
    code, _, err = command("judge", "two.npz", "--mode", "static")
    assert code == 2 and "no defense" in err
