"""The run that several ways of carrying it out are compared with."""

from __future__ import annotations

from typing import Any

import pytest

from dentbench.evaluation.workers.placement import Placement
from tests.evaluation.workers.recorder import Recorder
from tests.helpers import all_stored


@pytest.fixture(scope="session")
def alone() -> Recorder:
    """The events of one process, which :func:`serial` makes."""
    return Recorder()


@pytest.fixture(scope="session")
def serial(tmp_path_factory: pytest.TempPathFactory, alone: Recorder) -> Any:
    """All that one process leaves on disk, checks aside."""
    return all_stored(tmp_path_factory.mktemp("serial"), Placement(), progress=alone)
