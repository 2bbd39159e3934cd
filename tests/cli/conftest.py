"""The command line as a fixture."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers import Run


@pytest.fixture
def dentbench(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Run:
    return Run(monkeypatch, capsys, tmp_path)
