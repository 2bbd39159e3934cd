"""The run that several ways of carrying it out are compared with."""

from __future__ import annotations

from typing import Any

import pytest

from dentbench.evaluation.workers.placement import Placement
from tests.helpers import all_stored


@pytest.fixture(scope="session")
def serial(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """All that one process leaves on disk, checks aside."""
    return all_stored(tmp_path_factory.mktemp("serial"), Placement())
