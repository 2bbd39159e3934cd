"""``holds`` requires budgets; and a result of a key is never hidden again."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from dentbench.api import Evaluated
from dentbench.records.results_csv import read
from dentbench.spec.evaluation import ProtocolSpec
from tests.helpers import shorten_standard
from tests.panel import honest, masking
from tests.panel.running import run, said_of
from tests.panel.table import FEW

pytestmark = pytest.mark.whole_checks

PLAIN = ProtocolSpec()
WEAK = ProtocolSpec(
    iterations=1, targets=1, queries=1, rounds=1, restarts=0, draws=1, every=100, fractions=(0.01,)
)


def test_a_gain_does_not_hold_under_weakened_protocols(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The defense truly holds, and under the full budgets that is said (see the table)."""
    shorten_standard(monkeypatch)
    weak = run(honest.Projection, tmp_path, FEW, settings=WEAK)
    assert weak.verdict.p_value < 0.05 and weak.verdict.gain_points > 0, said_of(weak)
    assert weak.verdict.kind == "undecided" and weak.verdict.doubts, said_of(weak)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Evaluated]:
    """A run by every protocol, and its folder."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, run(masking.Quantised, folder, settings=PLAIN)


@pytest.mark.parametrize("later", [("published",), ("transfer",), ("published", "transfer")])
def test_a_later_weaker_run_hides_nothing(
    later: tuple[str, ...], whole: tuple[Path, Evaluated], tmp_path: Path
) -> None:
    folder, first = whole
    assert first.verdict.kind == "no gain", said_of(first)
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    again = run(masking.Quantised, tmp_path, protocols=later, settings=PLAIN)
    assert again.defended.protocol_counts == first.defended.protocol_counts
    assert again.defended.robust_correct == first.defended.robust_correct
    assert again.verdict.kind == "no gain", said_of(again)
    newest = [row for row in read(tmp_path) if row.key == first.defended.key][-1]
    assert newest.robust_correct == first.defended.robust_correct
    assert newest.protocol_counts == first.defended.protocol_counts


def test_a_weaker_run_before_is_added_to(tmp_path: Path) -> None:
    """Findings add up in whatever order they are made."""
    before = run(masking.Quantised, tmp_path, protocols=("transfer",), settings=PLAIN)
    assert set(before.defended.protocol_counts) == {"transfer"}
    after = run(masking.Quantised, tmp_path, protocols=("published",), settings=PLAIN)
    assert set(after.defended.protocol_counts) == {"published", "transfer"}
    assert after.defended.robust_correct == before.defended.robust_correct
