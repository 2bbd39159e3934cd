"""The tests of this folder, run by pytest inside a part: each outcome is written as it comes."""

from __future__ import annotations

import os
from typing import Any

from tests.gpu.figures import machine
from tests.gpu.parts import Setting


class _Keeper:
    """A plugin of pytest that writes down how each test ended."""

    def __init__(self, setting: Setting, group: str) -> None:
        self.figures = setting.figures("tests")
        self.group = group
        self.found: dict[str, Any] = {}

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when != "call" and report.outcome == "passed":
            return
        entry: dict[str, Any] = {"outcome": report.outcome, "seconds": round(report.duration, 2)}
        if report.outcome == "failed":
            entry["said"] = str(report.longrepr)[-3000:]
        elif report.outcome == "skipped":
            entry["said"] = str(report.longrepr[-1])
        self.found[report.nodeid.removeprefix("tests/gpu/")] = entry
        self.figures.add(self.group, self.found)


def run(setting: Setting, group: str) -> None:
    """Run the tests of one file; fail where one does."""
    import pytest

    keeper = _Keeper(setting, group)
    keeper.figures.add("machine", machine(setting.device))
    os.environ["DENTBENCH_CACHE"] = f"{os.devnull}/no-cache"
    words = [f"tests/gpu/test_{group}.py"]
    words += ["-p", "no:cacheprovider", "-p", "no:xdist", "-rs", "--tb=short", "--durations=8"]
    words += ["-o", "faulthandler_timeout=10"]
    code = pytest.main([*words, f"--basetemp={setting.scratch / 'pytest'}"], plugins=[keeper])
    if code:
        raise SystemExit(int(code))
