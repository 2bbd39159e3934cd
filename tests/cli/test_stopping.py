"""Ctrl-C and SIGTERM at any moment of any command: one sentence, and the exit code that says so."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from dentbench.cli import stopping
from dentbench.errors import InterruptedRunError
from dentbench.records import results_csv
from tests.helpers import Run

STOPS = [(signal.SIGINT, 130), (signal.SIGTERM, 143)]


@pytest.fixture
def command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Any
) -> Iterator[Run]:
    """The command, in a folder of its own."""
    yield Run(monkeypatch, capsys, tmp_path)


def sends(sent: signal.Signals) -> Callable[..., None]:
    """Return a function that sends this process a signal."""
    return lambda *values: os.kill(os.getpid(), sent)


@pytest.mark.parametrize(("sent", "code"), STOPS)
@pytest.mark.parametrize("arguments", [["report"], ["list"], ["show", "latest"]])
def test_a_command_that_is_stopped_ends_in_a_sentence(
    command: Run,
    monkeypatch: pytest.MonkeyPatch,
    sent: signal.Signals,
    code: int,
    arguments: list[str],
) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(results_csv, "read", sends(sent))
    actual, out, err = command(*arguments)
    assert (actual, out) == (code, "")
    assert err.startswith("dentbench: stopped; what was finished is kept.")
    assert err.endswith(f"dentbench {arguments[0]}{' latest' * (len(arguments) > 1)}\n")
    assert err.count("\n") == 1
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


@pytest.mark.parametrize(("sent", "code"), STOPS)
def test_it_may_be_stopped_while_libraries_are_loaded(sent: signal.Signals, code: int) -> None:
    script = (
        "import os; from dentbench.cli import stopping; stopping.at_once(); "
        f"os.kill(os.getpid(), {int(sent)}); print('went on')"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "report"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr == "dentbench: stopped before anything was done: dentbench report\n"


def test_an_ignored_signal_is_ignored() -> None:
    """As of a command that a shell without job control runs in the background."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stopping.raised():
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_the_signal_that_came_first_counts() -> None:
    with pytest.raises(KeyboardInterrupt), stopping.raised():
        os.kill(os.getpid(), signal.SIGTERM)
    assert stopping.error().exit_code == 143
    with stopping.raised():
        assert type(stopping.error()) is InterruptedRunError
