"""What a run expects of a defense's answers before its checks: whether they repeat."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from dentbench.attacks import checks as soundness
from dentbench.attacks.checks import Check
from dentbench.defenses.naming import built_in
from dentbench.evaluation.checks import sanity_checks
from dentbench.records.checkpoint import RunFolder
from dentbench.spec.evaluation import DefenseSpec
from tests.helpers import DENT, spec_of


def test_a_defense_is_random_by_its_card_until_a_check_says_more(tmp_path: Path) -> None:
    own = DefenseSpec(name="hedge", sha256="0")  # a user's, of a built-in's name
    defenses = (DENT, built_in("hedge"), built_in("et3"), own, replace(own, random=True), None)
    specs = [replace(spec_of(DENT), defense=defense) for defense in defenses]
    folders = [RunFolder(tmp_path, spec) for spec in specs]
    asked = [*map(sanity_checks.is_expected_random, folders, specs)]
    assert asked == [False, True, False, False, True, False]
    for number, repeats in ((1, True), (2, False), (3, False), (0, False)):
        check = Check(soundness.REPEATABLE, repeats, 0.0, "as found")
        folders[number].save_note(sanity_checks.NOTE, soundness.to_json([check]))
        found = sanity_checks.is_expected_random(folders[number], specs[number])
        assert found is not repeats
