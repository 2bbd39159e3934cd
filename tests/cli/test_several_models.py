"""The time of a command that runs several models is told once, for all of them."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from dentbench.cli import running
from dentbench.evaluation.context import RunOptions
from dentbench.evaluation.estimates.time_forecast import TimeForecast
from dentbench.evaluation.progress import events
from dentbench.evaluation.progress.display_names import Display
from dentbench.evaluation.progress.events import (
    BatchDone,
    PassesDone,
    Progress,
    RunPlanned,
    Stage,
    StageBegan,
)
from dentbench.study import loading
from dentbench.study.study import Request, Study, make_studies

MODELS = ("digits-robust", "digits-nominal")


def stage_of(study: Study) -> Stage:
    return Stage(model=study.model, defense="static", protocol="published")


def forecast(studies: Sequence[Study], options: Any) -> TimeForecast:
    del options
    times = dict.fromkeys(
        ("whole", "decided", "quick", "low", "high", "within"), 3600.0 * len(studies)
    )
    passes = {stage_of(study): 1000.0 for study in studies}
    return TimeForecast(passes=passes, batches={}, until_decided=False, **times)


def run_study(study: Study, options: Any, progress: Progress | None, check: Any) -> list[Any]:
    del options, check
    if progress is not None:
        progress(RunPlanned(passes={stage_of(study): 1000.0}, text="of this model alone"))
        progress(StageBegan(stage=stage_of(study), passes=1000))
        progress(PassesDone(passes=1000))
        progress(BatchDone(done=1, batches=1, right=1, images=1))
    return []


@pytest.fixture(autouse=True)
def _no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "forecast", forecast)
    monkeypatch.setattr(loading, "run_study", run_study)
    clock = itertools.count()
    monkeypatch.setattr(events.time, "perf_counter", lambda: float(next(clock)))


def events_of(
    models: Sequence[str], attack: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> list[dict[str, Any]]:
    studies = make_studies(Request(models=models, attack=attack), lambda card: [(None, ())])
    finished = running.carry_out(studies, RunOptions(results=folder), Display.JSON, dry_run=False)
    assert [study.model for study, _ in finished] == [*models]
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_several_models_have_one_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written = events_of(MODELS, "quick", tmp_path, capsys)
    plans = [event for event in written if event["event"] == "plan"]
    assert [plan["passes_expected"] for plan in plans] == [2000]
    assert plans[0]["text"].startswith("about 2.0 h on this machine")
    first, second = (event for event in written if event["event"] == "batch")
    assert first["seconds_left_of_all"] > 0  # the other model is still ahead
    assert second["seconds_left_of_all"] == 0


def test_one_model_tells_its_own_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written = events_of(MODELS[:1], "quick", tmp_path, capsys)
    assert [event["text"] for event in written if event["event"] == "plan"] == [
        "of this model alone"
    ]


def test_models_without_an_attack_are_not_loaded_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "forecast", lambda *_: pytest.fail("loaded for its forecast"))
    assert len(events_of(MODELS, "none", tmp_path, capsys)) > 2
