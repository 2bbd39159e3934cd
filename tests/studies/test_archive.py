"""The archived outcomes are of today's code, so that a run goes on from them."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path, PurePosixPath

import numpy as np
import pytest

from dentbench.attacks.catalogue import COUPLED_VERSION, PROTOCOLS
from dentbench.records.outcome import NATURAL, PUBLISHED, BatchOutcome
from dentbench.records.outcome_arrays import from_arrays
from tests.studies.studies import FOLDER

ARCHIVE = Path("results/archive")
NAMES = ["table1-standard"]


def outcomes(name: str) -> tuple[list[tuple[PurePosixPath, BatchOutcome]], set[str]]:
    """Return the stored outcomes of an archive, with their paths, and the keys with a defense."""
    result, defended = [], set()
    with tarfile.open(ARCHIVE / f"{name}.tar.xz") as packed:
        for member in packed:
            path = PurePosixPath(member.name)
            assert path.parts[0] == "runs" and ".." not in path.parts
            file = packed.extractfile(member)
            if file is not None and path.suffix == ".npz":
                with np.load(io.BytesIO(file.read())) as arrays:
                    result.append((path, from_arrays(arrays)))
            elif file is not None and path.name == "spec.json":
                defense = json.loads(file.read())["defense"]
                defended |= set() if defense is None else {path.parts[1]}
    return result, defended


@pytest.mark.parametrize("name", NAMES)
def test_outcomes_are_of_todays_protocols(name: str) -> None:
    actual, defended = outcomes(name)
    assert len(actual) >= 8
    for path, outcome in actual:
        assert outcome.stage == path.parent.name
        assert outcome.index == int(path.stem)
        if outcome.stage != NATURAL:
            assert outcome.versions[outcome.stage] == PROTOCOLS[outcome.stage].version
        if path.parts[1] in defended and outcome.stage not in (NATURAL, PUBLISHED):
            assert outcome.versions["coupled"] == COUPLED_VERSION


def test_archives_are_of_studies_and_small() -> None:
    assert sorted(path.name for path in ARCHIVE.iterdir()) == [f"{name}.tar.xz" for name in NAMES]
    assert all((FOLDER / f"{name}.toml").is_file() for name in NAMES)
    assert sum(path.stat().st_size for path in ARCHIVE.iterdir()) < 20e6
