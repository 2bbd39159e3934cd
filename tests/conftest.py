"""One thread per test process: the tensors are tiny, and threads would only wait for each other.

And no cache, unless a test makes one: what is faster is not timed, and a rule says it.
"""

import os
import pickle

import pytest

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported; subprocesses inherit it
os.environ["DENTBENCH_CACHE"] = f"{os.devnull}/no-cache"


@pytest.fixture(autouse=True)
def _judged_here(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Judge final points anew in this process, but in tests of new processes, which take long."""
    from dentbench.evaluation.fresh_judgement import judge, pristine
    from dentbench.evaluation.fresh_judgement.fork_server import SERVER

    if request.node.get_closest_marker("new_processes"):
        # Let no process that judges anew load pytest for a defense that is planted in a test.
        monkeypatch.setattr(SERVER, "preloaded", ("pytest", "hypothesis"))
        return

    def ask(asked: judge.Request) -> dict[str, list[judge.Judged]]:
        network, given = pickle.loads(asked.pristine)
        with pristine._random_numbers_kept():
            return judge.judged(asked, network, given, isolated=False)

    monkeypatch.setattr(judge.Request, "ask", ask)
    monkeypatch.setattr(SERVER, "start", lambda: None)


FEW = {
    "dentbench.attacks.probes.climbing": {"STEPS": 5, "SHORT": 3, "DRAWS": 2},
    "dentbench.attacks.probes.consistency": {"ALONE": 2},
    "dentbench.attacks.probes.gradients": {"STEPS": 5, "DRAWS": 2},
    "dentbench.attacks.probes.indicators": {"STEPS": 5, "SHORT": 3, "DRAWS": 2},
    "dentbench.attacks.probes.planting": {"IMAGES": 4, "DRAWS": 4, "FRESH": 2, "CHANGES": 2},
    "dentbench.attacks.probes.scores": {"GRID": 2, "HALVINGS": 2},
    "dentbench.evaluation.checks.planted": {"ITERATIONS": (3, 3)},
}
"""By module, the constants by which checks ask less, but about the same."""


@pytest.fixture(autouse=True)
def _few_questions(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the checks that ask a defense ask less, but in tests of what they say or cost."""
    if request.node.get_closest_marker("whole_checks"):
        return
    for module, constants in FEW.items():
        for name, value in constants.items():
            monkeypatch.setattr(f"{module}.{name}", value)


@pytest.fixture
def without_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no check ask a defense, where a test is about neither them nor a verdict."""
    from dentbench.attacks import checks
    from dentbench.evaluation import record_maker
    from dentbench.evaluation.checks import sanity_checks

    unasked = checks.Check(checks.PLANTED, None, None, "not asked in this test")
    monkeypatch.setattr(sanity_checks, "probe", lambda _: ())
    monkeypatch.setattr(record_maker, "planted", lambda *_: unasked)
