"""Ctrl-C and SIGTERM at any moment of any command: one sentence, and the exit code that says so."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from dentbench.cli import signals
from dentbench.errors import InterruptedRunError

STOPS = [(signal.SIGINT, 130), (signal.SIGTERM, 143)]


def ended(script: str, code: int) -> str:
    """Return the error stream of a process that ends with an exit code, having printed nothing."""
    done = subprocess.run(
        [sys.executable, "-c", script, "report"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (code, "")
    return done.stderr


@pytest.mark.parametrize(("sent", "code"), STOPS)
def test_a_command_that_is_stopped_ends_in_a_sentence(sent: signal.Signals, code: int) -> None:
    script = (
        "import os; from dentbench.cli import app; from dentbench.records import results_csv; "
        f"results_csv.read = lambda *values: os.kill(os.getpid(), {int(sent)}); app.main()"
    )
    err = ended(script, code)
    assert err.startswith("dentbench: stopped; what was finished is kept.")
    assert err.endswith("dentbench report\n") and err.count("\n") == 1


@pytest.mark.parametrize(("sent", "code"), STOPS)
def test_it_may_be_stopped_while_libraries_are_loaded(sent: signal.Signals, code: int) -> None:
    script = (
        "import os; from dentbench.cli import signals; signals.at_once(); "
        f"os.kill(os.getpid(), {int(sent)}); print('went on')"
    )
    err = ended(script, code)
    assert err == "dentbench: stopped before anything was done: dentbench report\n"


def test_json_of_a_command_that_is_stopped_so_early_is_a_document() -> None:
    script = (
        "import os, sys; from dentbench.cli import signals; signals.at_once(); "
        f"sys.argv.append('--json'); os.kill(os.getpid(), {int(signal.SIGINT)})"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert done.returncode == 130 and "stopped" in json.loads(done.stdout)["error"]


def test_an_ignored_signal_is_ignored() -> None:
    """As of a command that a shell without job control runs in the background."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with signals.raised():
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_the_signal_that_came_first_counts() -> None:
    with pytest.raises(KeyboardInterrupt), signals.raised():
        os.kill(os.getpid(), signal.SIGTERM)
    assert signals.error().exit_code == 143
    with signals.raised():
        assert type(signals.error()) is InterruptedRunError
