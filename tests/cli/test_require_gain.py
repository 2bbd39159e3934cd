"""``--require-gain``: the exit code when a gain is met, is too small, is in doubt, is not there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.helpers import Run, shorten_standard
from tests.panel.subjects import planted

OWN = """
from tests.panel.honest import Identity, Projection
from tests.panel.subjects import planted


def network():
    return planted()[0]


def projecting(network):
    return Projection(network)


projecting.separable = True


def nothing(network):
    return Identity(network)
"""


@pytest.fixture
def dentbench(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Run:
    _, images, labels = planted()
    np.savez(
        tmp_path / "images.npz", images=images.permute(0, 2, 3, 1).numpy(), labels=labels.numpy()
    )
    (tmp_path / "planted_own.py").write_text(OWN)
    return Run(monkeypatch, capsys, tmp_path)


NEEDED = ("published", "transfer", "warm", "bpda", "scores", "decision")
"""The protocols that ``holds`` needs of a defense that answers each image on its own."""


def command(defense: str, *more: str) -> tuple[str, ...]:
    data = ("--data", "images.npz", "--data-name", "planted", "--examples", "24", "--eps", "0.05")
    own = ("--model", "planted_own:network", "--defense", f"planted_own:{defense}")
    return ("evaluate", *own, *data, *more)


@pytest.mark.checks
def test_a_gain_that_holds_is_met_or_too_small(
    dentbench: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Smoothing takes away what only the attacker uses: a gain with a closed form."""
    shorten_standard(monkeypatch)
    needed = (item for name in NEEDED for item in ("--protocol", name))
    run = command("projecting", *needed, "--require-gain")
    code, out, err = dentbench(*run, "5")
    assert code == 0 and "required" not in err, (out, err)
    assert "Holds:" in out
    code, _, err = dentbench(*run, "95")  # nothing is left to do but to judge
    assert code == 3
    assert "required: a gain of 95 points that holds; found: holds, gain +" in err
    assert len(dentbench.rows()) == 2


def test_a_gain_in_doubt_is_not_met(dentbench: Run) -> None:
    code, out, err = dentbench(*command("projecting", "--attack", "quick", "--require-gain", "5"))
    assert code == 3
    assert "Undecided:" in out and "found: undecided, gain +" in err


def test_no_gain_is_not_met(dentbench: Run) -> None:
    run = command("nothing", "--attack", "quick", "--require-gain", "0")
    code, _, err = dentbench(*run)
    assert code == 3 and "found: " in err and "gain +0.0 (" in err


def test_it_needs_a_defense(dentbench: Run) -> None:
    run = ("evaluate", *command("none", "--attack", "quick")[3:], "--require-gain", "1")
    code, _, err = dentbench(
        *run[:1], "--model", "planted_own:network", "--mode", "static", *run[3:]
    )
    assert code == 2 and "needs a defense" in err


@pytest.mark.parametrize("points", ["0.05", "0.5", "nan", "inf", "101"])
def test_what_is_no_gain_in_points(dentbench: Run, points: str) -> None:
    code, _, err = dentbench(*command("nothing", "--attack", "quick", "--require-gain", points))
    assert code == 2 and f"--require-gain is {points}; it is in percentage points" in err
    assert not (dentbench.results / "results.csv").exists()
