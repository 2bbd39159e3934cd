"""Short forms of ``make soak``, and what must hold of networks of any shape, in any order."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dentbench.attacks.catalogue import PROTOCOLS
from dentbench.errors import DentBenchError, ModelError
from dentbench.evaluation.context import RunOptions
from dentbench.evaluation.inputs import RunInputs
from dentbench.evaluation.runner import Evaluation
from dentbench.evaluation.workers.worker import Task
from dentbench.records import results_csv
from dentbench.records.checkpoint import RunFolder
from dentbench.records.outcome import NATURAL, Record
from dentbench.report.formats.render import render
from dentbench.report.tables.records import all_records
from dentbench.spec.evaluation import AttackSpec, BatchPlan, DentSpec, EvalSpec, ProtocolSpec
from dentbench.zoo.weights import weights_sha256
from tests.helpers import SIZE, UNCHECKED, compared, evaluated, outcomes, spec_of, subject
from tests.soak import disk, fuzz, kills, rows

ROOT = Path(results_csv.__file__).parents[2]
ATTACK = AttackSpec(name="quick", eps=Fraction(1, 50), iterations=2, targets=1)
SEPARABLE = DentSpec(steps=2, lr=0.05, loss="entropy")
COUPLED = DentSpec(mode="batch", steps=2, lr=0.05)


FEW = ("published", "transfer", "warm")
"""Under every protocol a run is killed elsewhere, and in the long forms."""


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    """A static and a defended record of a run."""
    return evaluated(tmp_path_factory.mktemp("run"), protocols=FEW)


def test_killed_at_random_instants(tmp_path: Path) -> None:
    assert kills.soak(tmp_path, 6, names=FEW)["instants killed"] == 6


def test_rows_of_many_writers_are_whole(tmp_path: Path, records: list[Record]) -> None:
    assert rows.soak(tmp_path / "rows", records[1], 4, 20)["rows written"] == 80


def test_a_disk_that_fills_up(tmp_path: Path) -> None:
    assert disk.soak(tmp_path, (8, 32), FEW)["runs that filled one"] == 2


def test_generated_malformed_input(tmp_path: Path, records: list[Record]) -> None:
    assert sum(fuzz.soak(tmp_path / "fuzz", 30, records[1]).values()) >= 200


# --- shapes ---------------------------------------------------------------------------------------


def network(shape: tuple[int, int, int], classes: int) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(shape[0], 4, 3, padding=1, stride=1 if shape[1] < 64 else 8),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(16, classes),
    ).eval()


def attack_all(
    results: Path,
    shape: tuple[int, int, int],
    classes: int,
    images: int,
    batch: int,
    attack: str,
    defenses: Sequence[DentSpec],
) -> None:
    model, x = network(shape, classes), torch.rand(images, *shape)
    with torch.no_grad():
        y = model(x).argmax(1)
    budget: dict[str, Any] = {"queries": 5} if attack == "standard" else {}
    chosen = replace(ATTACK, name=attack, **budget)
    static = spec_of(None, images, batches=BatchPlan(size=batch), attack=chosen)
    subject = RunInputs(network=model, images=x, labels=y)
    specs = [static, *(replace(static, defense=defense) for defense in defenses)]
    evaluation = Evaluation(subject, RunOptions(results=results))
    for record in evaluation.run(specs, ("published", "transfer", "surrogate")):
        assert 0 <= record.robust_correct <= record.natural_correct <= record.n == images


@pytest.mark.parametrize(
    ("shape", "classes", "images", "batch", "attack", "defenses"),
    [
        ((3, 8, 8), 2, 5, 4, "quick", (DentSpec(), COUPLED)),  # and a last batch of one image
        ((3, 8, 8), 3, 4, 4, "quick", (DentSpec(), SEPARABLE, COUPLED)),
        pytest.param(  # batches of one image
            *((3, 8, 8), 10, 2, 1, "quick", (SEPARABLE, COUPLED)), marks=pytest.mark.checks
        ),
        pytest.param((3, 8, 8), 1000, 4, 2, "quick", (COUPLED,), marks=pytest.mark.sweep),
        ((3, 8, 8), 1000, 2, 2, "standard", (SEPARABLE,)),
        ((1, 8, 8), 10, 4, 2, "standard", (COUPLED,)),  # one channel
        ((3, 224, 224), 5, 2, 2, "quick", (SEPARABLE,)),
    ],
)
def test_networks_of_many_shapes_are_evaluated(
    tmp_path: Path,
    shape: tuple[int, int, int],
    classes: int,
    images: int,
    batch: int,
    attack: str,
    defenses: Sequence[DentSpec],
) -> None:
    attack_all(tmp_path, shape, classes, images, batch, attack, defenses)


@pytest.mark.checks
@pytest.mark.parametrize(("classes", "attack"), [(1, "quick"), (1, "standard"), (2, "standard")])
def test_too_few_classes_are_evaluated_or_refused_in_words(
    tmp_path: Path, classes: int, attack: str
) -> None:
    try:
        attack_all(tmp_path, (3, 8, 8), classes, 3, 3, attack, (SEPARABLE, COUPLED))
    except DentBenchError as error:
        assert f"{classes} class" in str(error)
    else:
        assert classes > 1


@pytest.mark.parametrize("defense", [None, SEPARABLE, COUPLED])
def test_at_eps_0_robust_is_natural_accuracy(tmp_path: Path, defense: DentSpec | None) -> None:
    attack = replace(ATTACK, eps=Fraction(0))
    specs = [spec_of(None, attack=attack), spec_of(defense, attack=attack)]
    for record in evaluated(tmp_path, specs, protocols=tuple(PROTOCOLS)):
        assert record.robust_correct == record.natural_correct > 0


# --- independence and determinism -----------------------------------------------------------------


FOUR = 4
"""A batch, and one of a single image."""


def all_specs() -> list[EvalSpec]:
    short = ProtocolSpec(rounds=1, queries=10)
    return [spec_of(item, FOUR, protocols=short) for item in (None, SEPARABLE, COUPLED)]


def test_batches_in_any_order_have_the_same_outcomes(tmp_path: Path) -> None:
    evaluation = Evaluation(subject(FOUR), RunOptions(results=tmp_path))

    def done(task: Task) -> tuple[object, ...]:
        outcome, points = evaluation.worker.carry_out(replace(task, keep=True))
        assert points is not None
        return replace(outcome, seconds=0), points.tobytes()

    for spec in all_specs():
        for stage in (NATURAL, "published"):
            tasks = [evaluation.stages._task(spec, stage, unit) for unit in range(2)]
            forth = {task.unit: done(task) for task in tasks}
            assert forth == {task.unit: done(task) for task in reversed(tasks)}
            evaluation.outcomes(spec, stage)


def test_the_same_specs_again_give_the_same_bits_and_leave_the_model(tmp_path: Path) -> None:
    """Under what draws random numbers; all others are run twice where a run is killed."""
    names = (*FEW, "eot", "scores", "batch-mates")
    evaluated(tmp_path / "one", all_specs(), protocols=names)
    given = subject(FOUR)
    before = weights_sha256(given.network)
    Evaluation(given, RunOptions(results=tmp_path / "two")).run(all_specs(), names)
    assert weights_sha256(given.network) == before == weights_sha256(subject().network)
    assert outcomes(tmp_path / "one") == outcomes(tmp_path / "two")
    first, second = (results_csv.read(tmp_path / name) for name in ("one", "two"))
    assert [*map(compared, first)] == [*map(compared, second)]


@pytest.mark.checks
def test_the_same_checks_are_made_again(tmp_path: Path) -> None:
    specs = [spec_of(item, FOUR) for item in (None, SEPARABLE)]
    first, second = (evaluated(tmp_path / name, specs, protocols=FEW) for name in ("one", "two"))
    assert [*map(compared, first)] == [*map(compared, second)]


def test_one_and_two_threads_agree(tmp_path: Path) -> None:
    """The flags are the same; points may differ by the rounding of sums in another order."""
    threads = torch.get_num_threads()
    attack = replace(ATTACK, name="apgd-ce", targets=None)
    specs = [replace(spec, attack=attack) for spec in all_specs()]
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            evaluated(tmp_path / str(number), specs, protocols=FEW, save_adversarial=True)
    finally:
        torch.set_num_threads(threads)
    first, second = outcomes(tmp_path / "1"), outcomes(tmp_path / "2")
    for name, (outcome, points) in first.items():
        assert outcome["correct"] == second[name][0]["correct"]
        if points:
            ours, theirs = (
                torch.frombuffer(bytearray(each), dtype=torch.float32)
                for each in (points, second[name][1])
            )
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


# --- what is not a number -------------------------------------------------------------------------


class NaNGradient(nn.Module):
    """Finite logits with a gradient that is not a number: the root of zero, times zero."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = subject().network

    def forward(self, x: Tensor) -> Tensor:
        zero = (x.flatten(1).sum(1) * 0).sqrt()
        logits: Tensor = self.inner(x) + zero[:, None]
        return logits


@pytest.mark.checks
@pytest.mark.parametrize("defense", [SEPARABLE, COUPLED])
def test_no_image_is_robust_unsaid_where_the_gradient_is_no_number(
    tmp_path: Path, defense: DentSpec
) -> None:
    try:
        records = evaluated(tmp_path, [spec_of(None), spec_of(defense)], network=NaNGradient())
    except ModelError as error:
        assert "gradient" in str(error)
    else:
        for record in records:
            assert '"gradient": {"passed": false' in (record.checks or ""), record.checks


@pytest.mark.parametrize(
    ("row", "text"),
    [
        (SIZE + 1, "batch 2 of 3: the model .* for this batch$"),
        (
            2 * SIZE,
            f"batch 3 of 3: .*; this batch has 1 of the others' {SIZE} images: --examples 6 ",
        ),
    ],
)
def test_a_batch_that_stops_a_run_is_named(row: int, text: str, tmp_path: Path) -> None:
    bad = subject().images[row]

    class Breaks(NaNGradient):
        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.inner(x)
            hit = torch.isclose(x, bad, atol=0.05).flatten(1).all(1)
            return torch.where(hit[:, None], torch.nan, logits)

    with pytest.raises(ModelError, match=text):
        evaluated(tmp_path, network=Breaks())
    assert RunFolder(tmp_path, spec_of(None)).load(NATURAL, 0) is not None
    assert not (tmp_path / "results.csv").exists()


# --- nothing elsewhere ----------------------------------------------------------------------------


def test_nothing_is_written_but_in_the_results_folder(tmp_path: Path) -> None:
    """A whole command, from another folder and with another home; the names try to escape."""
    home, here, results = (tmp_path / name for name in ("home", "here", "results"))
    for folder in (home, here):
        folder.mkdir()
    np.savez(here / "data.npz", images=np.zeros((4, 8, 8, 1), np.uint8), labels=np.arange(4))
    before = {path: path.stat().st_mtime_ns for path in (home, here, here / "data.npz")}
    script = f"{UNCHECKED}\nfrom dentbench.cli.app import main\nmain()"
    command = [sys.executable, "-c", script, "evaluate", "--results", str(results)]
    command += ["--data", "data.npz", "--data-name", "../../../etc/passwd", "--force"]
    command += ["--attack", "apgd-ce", "--iterations", "1", "--eps", "0.1", "--norm", "Linf"]
    command += ["--steps", "1", "--examples", "2", "--protocol", "published"]
    environment = {**os.environ, "HOME": str(home), "PYTHONDONTWRITEBYTECODE": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), environment.get("PYTHONPATH", "")])
    environment.pop("XDG_CACHE_HOME", None)
    done = subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert {path.name for path in tmp_path.iterdir()} == {"home", "here", "results"}
    assert results_csv.read(results)[0].dataset == "../../../etc/passwd"


@pytest.mark.parametrize(
    ("name", "markdown", "latex", "html", "csv"),
    [
        (
            "=cmd|' /C calc'!A0",
            r"=cmd\|' /C calc'\!A0",
            "=cmd",
            "=cmd|",
            "'=cmd|' /C calc'!A0",
        ),
        (
            r"\input{/etc/passwd}",
            r"\\input{/etc/passwd}",
            r"\textbackslash{}input\{/etc/passwd\}",
            r"\input{/etc/passwd}",
            r"\input{/etc/passwd}",
        ),
        (
            "<script>alert(1)</script>",
            "&lt;script&gt;",
            r"\textless{}script\textgreater{}",
            "&lt;script&gt;",
            "<script>",
        ),
    ],
)
def test_what_users_named_is_escaped_in_every_format(
    tmp_path: Path,
    records: list[Record],
    name: str,
    markdown: str,
    latex: str,
    html: str,
    csv: str,
) -> None:
    named = [replace(record, model=name) for record in records]
    table = all_records(named, None)
    for kind, expected in {"markdown": markdown, "latex": latex, "html": html, "csv": csv}.items():
        text = render(table, kind).replace(r"\allowbreak{}", "")
        assert expected in text, (kind, text)
        if kind == "latex":
            assert r"\input{" not in text
        if kind in ("markdown", "html"):
            assert "<script" not in text
    assert [row.model for row in _stored(tmp_path / "named", named)] == [name] * len(named)


def _stored(results: Path, records: list[Any]) -> list[Any]:
    for record in records:
        results_csv.append(results, record)
    return results_csv.read(results)
