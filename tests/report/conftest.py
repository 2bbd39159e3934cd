"""The fixed records as fixtures."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from dentbench.records.outcome import Record
from tests.report.fixed_records import fixed_records, make


@pytest.fixture
def records() -> list[Record]:
    """The fixed records."""
    return fixed_records()


@pytest.fixture
def make_record() -> Callable[..., Record]:
    """The function that makes a record."""
    return make
