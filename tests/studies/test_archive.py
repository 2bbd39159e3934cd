"""The archived outcomes are of today's code, so that a run goes on from them."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path, PurePosixPath

import numpy as np
import pytest

from dentbench.attacks.catalogue import PROTOCOLS
from dentbench.records.outcome import NATURAL, BatchOutcome
from dentbench.records.outcome_arrays import from_arrays
from tests.studies.studies import FOLDER

ARCHIVE = Path("results/archive")
NAMES = ["digits-quick", "table1-standard"]


def outcomes(name: str) -> list[tuple[PurePosixPath, BatchOutcome]]:
    """Return the stored outcomes of an archive, with their paths."""
    result = []
    with tarfile.open(ARCHIVE / f"{name}.tar.xz") as packed:
        for member in packed:
            path = PurePosixPath(member.name)
            assert path.parts[0] == "runs" and ".." not in path.parts
            if path.suffix == ".npz":
                file = packed.extractfile(member)
                assert file is not None
                with np.load(io.BytesIO(file.read())) as arrays:
                    result.append((path, from_arrays(arrays)))
    return result


@pytest.mark.parametrize("name", NAMES)
def test_outcomes_are_of_todays_protocols(name: str) -> None:
    actual = outcomes(name)
    assert len(actual) > 20
    for path, outcome in actual:
        assert outcome.stage == path.parent.name
        assert outcome.index == int(path.stem)
        if outcome.stage != NATURAL:
            assert outcome.versions[outcome.stage] == PROTOCOLS[outcome.stage].version


def test_archives_are_of_studies_and_small() -> None:
    assert sorted(path.name for path in ARCHIVE.iterdir()) == [f"{name}.tar.xz" for name in NAMES]
    assert all((FOLDER / f"{name}.toml").is_file() for name in NAMES)
    assert sum(path.stat().st_size for path in ARCHIVE.iterdir()) < 20e6
