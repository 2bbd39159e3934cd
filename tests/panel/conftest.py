"""Every test of the panel begins with empty memories."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.panel import harming, memory


@pytest.fixture(autouse=True)
def forgetful(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test begins with empty memories, and one on disk has a folder of its own."""
    monkeypatch.setenv("PANEL_FOLDER", str(tmp_path))
    memory.forget()
    yield
    memory.forget()
    harming.Baseline.harmed = False
