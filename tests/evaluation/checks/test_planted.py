"""For which protocols points are planted."""

from __future__ import annotations

from pathlib import Path

import pytest

from dentbench.attacks.evidence import SUPPORTING, TESTED
from dentbench.evaluation.checks import planted
from dentbench.evaluation.context import RunOptions
from dentbench.evaluation.runner import Evaluation
from tests.helpers import spec_of, subject


class Asked(Exception):
    """Points are to be planted."""


@pytest.mark.parametrize("protocols", [[name] for name in TESTED] + [["transfer", "surrogate"]])
def test_nothing_is_planted_where_no_gain_can_rest_on_what_was_run(
    protocols: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planted points could prove nothing there."""

    def tried(*arguments: object) -> None:
        raise Asked

    monkeypatch.setattr(planted, "_tried", tried)
    context = Evaluation(subject(7), RunOptions(results=tmp_path)).context
    if {*protocols} & {*SUPPORTING}:
        with pytest.raises(Asked):
            planted.planted(context, spec_of(), protocols, ())
    else:
        check = planted.planted(context, spec_of(), protocols, ())
        assert check.passed is None and "a gain can rest on" in check.sentence
