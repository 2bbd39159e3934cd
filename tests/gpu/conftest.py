"""These tests need a GPU, and are skipped on other machines."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

HERE = "tests/gpu/"
ANYWHERE = "test_dry_form.py"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a GPU where there is none."""
    if torch.cuda.is_available():
        return
    for item in items:
        if HERE in item.path.as_posix() and item.path.name != ANYWHERE:
            item.add_marker(pytest.mark.skip(reason="no GPU is here"))


@pytest.fixture(autouse=True)
def exact_arithmetic() -> Iterator[None]:
    """Compute float32 in float32 unless a test says otherwise; leave no memory to the next one."""
    from dentbench.compute.precision import full_float32  # late: it imports torch

    full_float32()
    torch.manual_seed(0)
    yield
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
