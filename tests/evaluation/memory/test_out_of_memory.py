"""Out of memory: the same answers from parts of a batch, and a clear refusal where there are none.

A network that refuses more than so many images at a time, as a full GPU does, stands in for a GPU.
"""

from __future__ import annotations

import copy
import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import dentbench
from dentbench.adapt.dent import Dent
from dentbench.attacks.catalogue import PROTOCOLS
from dentbench.attacks.chunked import Chunked
from dentbench.attacks.counting import CallCounter, CountedNetwork
from dentbench.cli import app
from dentbench.errors import DeviceMemoryError
from dentbench.evaluation.checks import sanity_checks
from dentbench.evaluation.context import RunOptions
from dentbench.evaluation.memory.footprint import HEAVY, in_words, look_of, needed, peak
from dentbench.evaluation.memory.out_of_memory import is_out_of_memory
from dentbench.evaluation.runner import Evaluation
from dentbench.evaluation.workers import micro_batcher
from dentbench.evaluation.workers.placement import Placement
from dentbench.records.checkpoint import RunFolder
from dentbench.records.outcome import BatchOutcome, Record
from dentbench.spec.evaluation import AttackSpec, BatchPlan, DentSpec, EvalSpec
from tests.attacks.toys import small_network, tiny_images
from tests.helpers import DENT, DENT_ALONE, compared, outcomes, spec_of, subject

FULL = (
    "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 7.79 GiB of "
    "which 6.81 MiB is free."
)
SOON = AttackSpec(name="standard", eps=Fraction(1, 50), iterations=2, targets=1, queries=5)
WORSE = DentSpec(mode="batch", steps=1, lr=0.05)


class Cramped(nn.Module):
    """A network that has no room for more than ``most`` images at a time, at times.

    From its call number ``since`` on; the first calls may be those before the run.
    """

    def __init__(self, most: int, since: int = 0, network: nn.Module | None = None) -> None:
        super().__init__()
        self.most = most
        self.since = since
        self.network = network or small_network()
        self.calls = torch.zeros((), dtype=torch.long)

    def __deepcopy__(self, memo: dict[int, Any]) -> Cramped:
        result = Cramped(self.most, self.since, copy.deepcopy(self.network, memo))
        result.calls = self.calls
        return result

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        if len(x) > self.most and self.calls > self.since:
            raise torch.OutOfMemoryError(FULL)
        logits: Tensor = self.network(x)
        return logits


def run(
    results: Path,
    spec: EvalSpec,
    network: nn.Module | None = None,
    protocols: tuple[str, ...] = tuple(PROTOCOLS),
    **options: Any,
) -> list[Record]:
    how = RunOptions(results=results, **options)
    specs = [replace(spec, defense=None), spec] if spec.defense else [spec]
    return Evaluation(subject(spec.data.count, network), how).run(specs, protocols)


def require_same(ours: Path, theirs: Path) -> None:
    """Compare all that is stored of every batch, passes too, but seconds.

    Points to 1e-5, and so each norm of a perturbation.
    """
    result, expected = outcomes(ours), outcomes(theirs)
    assert result.keys() == expected.keys()
    for name, (outcome, points) in expected.items():
        # In parts, last bits of points are others.
        close = {"points_sha256": None, "linf": None, "l2": None, "l1": None}
        assert {**result[name][0], **close} == {**outcome, **close}, name
        for norm in ("linf", "l2", "l1"):
            assert result[name][0][norm] == pytest.approx(outcome[norm], rel=1e-5, abs=1e-5), name
        pair = [np.frombuffer(item, np.float32) for item in (result[name][1], points)]
        np.testing.assert_allclose(*pair, atol=1e-5)


# --- the same answers -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def roomy(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Record]]:
    """Static and separable dent, every protocol that attacks it, with memory enough."""
    results = tmp_path_factory.mktemp("roomy")
    spec = spec_of(DENT_ALONE, 5, attack=SOON, batches=BatchPlan(size=4))
    return results, run(results, spec, save_adversarial=True)


@pytest.mark.parametrize(("most", "since"), [(1, 0), (2, 450)])
def test_parts_give_the_same_record(
    most: int, since: int, roomy: tuple[Path, list[Record]], tmp_path: Path
) -> None:
    spec = spec_of(DENT_ALONE, 5, attack=SOON, batches=BatchPlan(size=4))
    network = Cramped(most, since)
    records = run(tmp_path, spec, network, save_adversarial=True)
    require_same(tmp_path, roomy[0])
    assert network.calls > since
    assert list(map(compared, records)) == list(map(compared, roomy[1]))


LOCAL = Placement(workers=2, threads=1)
RAY = Placement(executor="ray", workers=2, threads=1)


@pytest.mark.checks
@pytest.mark.parametrize("placement", [LOCAL, pytest.param(RAY, marks=pytest.mark.sweep)])
def test_workers_find_room_too(placement: Placement, tmp_path: Path) -> None:
    if placement.executor == "ray":
        pytest.importorskip("ray")
    spec = spec_of(DENT_ALONE, batches=BatchPlan(size=4))
    protocols = ("published", "transfer")
    run(tmp_path / "one", spec, None, protocols)
    run(tmp_path / "two", spec, Cramped(2), protocols, placement=placement)
    require_same(tmp_path / "two", tmp_path / "one")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_timing_diagnostics_and_pictures_heed_it(precision: str, tmp_path: Path) -> None:
    defense = replace(DENT_ALONE, blur="dynamic", sigma=1.0, padding="zeros", sigma_lr=0.1)
    spec = spec_of(defense, 4, batches=BatchPlan(size=4), precision=precision)
    options = {"save_adversarial": True, "measure_time": True, "diagnostics": True}
    actual = [
        run(tmp_path / str(most), spec, Cramped(most), ("published",), **options)
        for most in (100, 2)
    ]
    assert [item.time_ratio is not None for _, item in actual] == [True, True]
    numbers = [json.loads(str(item.diagnostics)) for _, item in actual]
    assert numbers[0].keys() == {"natural", "published"} == numbers[1].keys()
    for stage, expected in numbers[0].items():
        assert numbers[1][stage] == pytest.approx(expected, rel=1e-4), stage
    require_same(tmp_path / "2", tmp_path / "100")


def test_what_was_cut_is_told_once_and_remembered(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "dentbench.evaluation.workers.micro_batcher"):
        run(tmp_path, spec_of(None, batches=BatchPlan(size=4)), Cramped(1))
    assert [record.getMessage() for record in caplog.records] == [
        "static: out of memory with 4 images at a time; going on with 2 (same answers)",
        "static: out of memory with 2 images at a time; going on with 1 (same answers)",
    ]


@pytest.mark.checks
@pytest.mark.parametrize("defense", [pytest.param(DENT_ALONE, marks=pytest.mark.sweep), WORSE])
def test_a_full_machine_is_foreseen(
    defense: DentSpec,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """No allocation fails: it is what is free that tells, for the system would end the process."""
    spec = spec_of(defense, 4, batches=BatchPlan(size=4))
    protocols = ("published", "transfer", "unrolled")
    run(tmp_path / "roomy", spec, None, protocols)
    assert micro_batcher.free() is None or micro_batcher.free() > 0
    monkeypatch.setattr(micro_batcher, "free", lambda: 12_000)
    run(tmp_path / "full", spec, None, protocols)
    require_same(tmp_path / "full", tmp_path / "roomy")
    said = "\n".join(
        record.getMessage() for record in caplog.records if "free" in record.getMessage()
    )
    assert "static checks: 4 images may need" in said
    assert ("instance checks: 4 images may need" in said) is defense.separable
    assert ("batch checks: 4 images may need" in said) is not defense.separable
    assert ("the system may end this process" in said) is not defense.separable
    assert "11.7 KiB are free; going on with" in said


# --- one part's graph at a time -------------------------------------------------------------------


WIDE = nn.Sequential(
    nn.Conv2d(3, 32, 1), nn.BatchNorm2d(32), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
).eval()


def looks() -> dict[str, Callable[[Any, Tensor], Tensor]]:
    return {
        "call": lambda defense, x: defense(x),
        "unrolled": lambda defense, x: defense.predict(x, defense.unroll(x)),
        "last": lambda defense, x: defense.predict(x, defense.unroll(x, last=1)),
        "constant": lambda defense, x: defense.predict(x, defense.adapt(x.detach())),
    }


@pytest.mark.parametrize("look", looks())
def test_a_gradient_in_parts_is_the_gradient_in_an_eighth_of_the_memory(look: str) -> None:
    counter = CallCounter()
    network = CountedNetwork(copy.deepcopy(WIDE).double(), counter)
    dent = Dent(network, DentSpec(steps=2, loss="entropy", lr=0.05), batch_size=32)
    actual = []
    for defense in (dent, Chunked(dent, 4, counter)):
        x = tiny_images(32, shape=(3, 16, 16)).double().requires_grad_()
        counter.forwards = counter.backwards = 0
        logits = looks()[look](defense, x)
        gradients = [
            torch.autograd.grad(logits[:, column].sum(), x, retain_graph=True)[0]
            for column in (0, 1)
        ]
        passes = counter.forwards, counter.backwards
        taken = peak(partial(looks()[look], defense), x)
        actual.append((logits, *gradients, *passes, taken))
    (*tensors, forwards, backwards, whole), (*same, ours, theirs, parts) = actual
    for tensor, other in zip(tensors, same, strict=True):
        torch.testing.assert_close(tensor, other, rtol=0, atol=1e-9)
    assert (ours, theirs) == (forwards, backwards)
    assert parts < whole / 5


def test_a_defense_without_a_gradient_has_none_in_parts() -> None:
    x = tiny_images(4).requires_grad_()
    assert not Chunked(lambda x: x.detach().flatten(1), 2, CallCounter())(x).requires_grad
    with pytest.raises(AttributeError):
        Chunked(WIDE, 2, CallCounter()).adapt(x)


# --- what must not be cut -------------------------------------------------------------------------


def refusal(
    folder: Path, spec: EvalSpec, network: nn.Module, *protocols: str, **options: Any
) -> str:
    with pytest.raises(DeviceMemoryError) as refused:
        run(folder, spec, network, protocols or ("published",), **options)
    assert refused.value.exit_code == 2
    return str(refused.value)


def calls_when_saved(monkeypatch: pytest.MonkeyPatch, network: Cramped, stage: str) -> list[int]:
    """Return a list that gets the network's calls when a defense's first batch of a stage is."""
    save, calls = RunFolder.save, list[int]()

    def saving(folder: RunFolder, outcome: BatchOutcome, points: Any) -> None:
        save(folder, outcome, points)
        if folder.spec.defense is not None and (outcome.stage, outcome.index) == (stage, 0):
            calls.append(int(network.calls))

    monkeypatch.setattr(RunFolder, "save", saving)
    return calls


@pytest.mark.parametrize("defense", [DENT, WORSE])
def test_a_coupled_batch_is_not_cut(
    defense: DentSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It fails in the middle; what is done is kept, and with more memory the rest follows."""
    spec = spec_of(defense, count=12, batches=BatchPlan(size=6))
    roomy = Cramped(100)
    calls = calls_when_saved(monkeypatch, roomy, "published")
    records = run(tmp_path / "roomy", spec, roomy, ("published",))
    said = refusal(tmp_path / "full", spec, Cramped(5, since=calls[0] + 5))
    assert f"{spec.label} published: out of memory with a batch of 6 images" in said
    assert "answers depend on batch mates" in said and "another defense" in said
    assert "needs at least" in said and "asked for 20.00 MiB more" in said
    assert "same command goes on" in said and "\n" not in said
    kept = outcomes(tmp_path / "full")
    finished = outcomes(tmp_path / "roomy")
    assert 0 < len(kept) < len(finished)
    for name, (outcome, _) in kept.items():  # points are dropped once they were judged anew
        assert outcome == finished[name][0], name
    again = run(tmp_path / "full", spec, Cramped(100), ("published",))
    assert outcomes(tmp_path / "full") == finished
    assert list(map(compared, again)) == list(map(compared, records))


@pytest.mark.parametrize("placement", [LOCAL, pytest.param(RAY, marks=pytest.mark.sweep)])
def test_a_worker_says_it_in_one_sentence_too(placement: Placement, tmp_path: Path) -> None:
    if placement.executor == "ray":
        pytest.importorskip("ray")
    spec = spec_of(WORSE, batches=BatchPlan(size=4), attack=AttackSpec(name="none"))
    said = refusal(tmp_path, spec, Cramped(3, since=2), placement=placement)
    assert said.startswith("batch natural: out of memory with a batch of 4 images")
    assert "Error" not in said and "\n" not in said


def test_other_protocols_are_named_where_one_needs_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = spec_of(WORSE, count=6, batches=BatchPlan(size=6))
    counted = Cramped(100)
    calls = calls_when_saved(monkeypatch, counted, "unrolled")
    run(tmp_path / "roomy", spec, counted, ("unrolled",))
    said = refusal(tmp_path / "full", spec, Cramped(5, calls[0] - 5), "unrolled")
    assert said.startswith("batch unrolled: ") and "other protocols need less" in said


def test_one_image_that_does_not_fit(tmp_path: Path) -> None:
    spec, counted = spec_of(None, batches=BatchPlan(size=2)), Cramped(100)
    Evaluation(subject(spec.data.count, counted), RunOptions(results=tmp_path / "made"))
    said = refusal(tmp_path / "full", spec, Cramped(0, since=int(counted.calls)))
    assert "one image at a time" in said


def test_a_model_that_does_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: nn.Module, device: object = None, **_: object) -> nn.Module:
        raise torch.OutOfMemoryError(FULL)

    monkeypatch.setattr(nn.Module, "to", full)
    with pytest.raises(DeviceMemoryError, match="the model does not fit into memory"):
        run(tmp_path, spec_of(None))


def test_a_model_that_has_no_room_for_one_image(tmp_path: Path) -> None:
    """Whichever of the calls that make the worker fails, it is told in one sentence."""
    counted, how = Cramped(100), RunOptions(results=tmp_path)
    Evaluation(subject(network=counted), how)
    # The last call asks for the gradient's path alone, which is taken to be whole.
    for since in range(int(counted.calls) - 1):
        with pytest.raises(DeviceMemoryError, match="the model does not fit into memory"):
            Evaluation(subject(network=Cramped(0, since)), how)


class Lying(nn.Module):
    """Says that it is separable, and is not."""

    separable = True

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x)
        return logits * (1 + x.mean() * torch.linspace(1, 2, logits.shape[1]))


class Random(Lying):
    """Draws random numbers."""

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x + 0.1 * torch.rand_like(x))
        return logits


@pytest.mark.parametrize(
    ("defense", "reason"),
    [("hedge", "random numbers"), (Random, "random numbers"), (Lying, "batch mates")],
)
def test_what_is_called_separable_is_tried(defense: Any, reason: str, tmp_path: Path) -> None:
    x = tiny_images(6)
    given: Any = {"attack": SOON, "batch_size": 6, "protocols": ("published",)}
    with pytest.raises(DeviceMemoryError, match=reason):
        dentbench.evaluate(
            Cramped(5), x, torch.zeros(6).long(), defense=defense, results=tmp_path, **given
        )


def test_a_static_model_that_mixes_its_batch_is_not_cut(tmp_path: Path) -> None:
    network = Cramped(2, network=small_network(coupled=True))
    assert "batch mates" in refusal(tmp_path, spec_of(None), network)


@pytest.mark.checks
def test_the_command_line_says_it_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "full.py").write_text(
        "import torch\n"
        "class Full(torch.nn.Module):\n"
        "    def __init__(self, network):\n"
        "        super().__init__()\n"
        "        self.network = network\n"
        "    def forward(self, x):\n"
        "        if len(x) > 4:\n"
        "            raise MemoryError\n"
        "        return self.network(x)\n"
    )
    monkeypatch.chdir(tmp_path)
    command = ["evaluate", "--defense", "full:Full", "--attack", "apgd-ce", "--examples", "8"]
    monkeypatch.setattr(sys, "argv", ["dentbench", *command, "--iterations", "1"])
    with pytest.raises(SystemExit) as stopped:
        app.main()
    said = capsys.readouterr().err
    assert stopped.value.code == 2
    assert "dentbench: full:Full checks: out of memory with a batch of 8 images" in said
    assert "Traceback" not in said


# --- errors of memory, and the bytes that are needed ----------------------------------------------


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError(FULL), True),
        (MemoryError(), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you"), True),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 1 b"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_counts_as_out_of_memory(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) is expected


def test_the_processors_own_allocator_is_understood() -> None:
    with pytest.raises(RuntimeError) as failed:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(failed.value)


@pytest.mark.parametrize(
    ("defense", "stage"),
    [
        (None, "natural"),
        (None, "published"),
        *((item, stage) for item in (DENT_ALONE, WORSE) for stage in ("natural", *HEAVY)),
    ],
)
def test_the_need_of_a_batch_is_what_it_takes(defense: DentSpec | None, stage: str) -> None:
    """Drawn out from four images, it is the peak of the whole batch, to a tenth."""
    x = tiny_images(40, shape=(3, 16, 16))
    # As in an evaluation, where the network is prepared before and not at the first call.
    made: Any = WIDE if defense is None else Dent(WIDE, defense, batch_size=40, prepare=False)
    spec = spec_of(defense, count=40, batches=BatchPlan(size=40))
    actual = needed(spec, stage, made, WIDE, x)
    whole = peak(look_of(spec, stage, made, WIDE), x, gradient=stage != "natural")
    assert actual == pytest.approx(whole, rel=0.1)
    kept = 40 * 32 * 16 * 16 * 4  # one layer's output
    assert actual > kept


def test_a_compiled_network_is_measured_as_it_is() -> None:
    x = tiny_images(4)
    expected = peak(WIDE, x)
    compiled = torch.compile(copy.deepcopy(WIDE), backend="eager")
    compiled(x)
    frames = torch._dynamo.utils.counters["frames"]
    before = frames["total"]
    assert peak(compiled, x) == expected
    assert frames["total"] == before, "code of the measurement was compiled"


def test_sizes_are_told_in_words() -> None:
    sizes = (512, 3 * 2**19, 5 * 2**30)
    assert list(map(in_words, sizes)) == ["0.5 KiB", "1.5 MiB", "5.0 GiB"]


LIMITED = """
import resource, sys
from fractions import Fraction
from functools import partial
from pathlib import Path
import torch
from torch import nn
from dentbench.evaluation.checks import sanity_checks
from dentbench.evaluation.context import RunOptions
from dentbench.evaluation.runner import Evaluation
from dentbench.spec.evaluation import AttackSpec, BatchPlan, DataSpec, DentSpec, EvalSpec, ModelSpec
from dentbench.evaluation.inputs import RunInputs

torch.set_num_threads(1)
torch.manual_seed(0)
network = nn.Sequential(
    nn.Conv2d(3, 256, 1), nn.BatchNorm2d(256), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    nn.Linear(256, 10)
).eval()
x = torch.rand(64, 3, 32, 32)
results, mode, limit = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
if mode == "static":  # what attacks it needs room too, and is asked less
    sanity_checks.probe = lambda _: ()
spec = EvalSpec(
    model=ModelSpec(name="wide", sha256="0"), batches=BatchPlan(size=64),
    data=DataSpec(name="x", sha256="0", first=0, count=64),
    attack=AttackSpec(name="apgd-ce", eps=Fraction(1, 50), iterations=1),
    defense=None if mode == "static" else DentSpec(mode=mode, steps=1, loss="entropy"),
)
with torch.no_grad():
    labels = torch.cat([network(image[None]).argmax(1) for image in x])
subject = RunInputs(network=network, images=x, labels=labels)
evaluation = Evaluation(subject, RunOptions(results=results))
evaluation.worker.network(x[:1])
if limit:
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + limit * 2**20,) * 2)
evaluation.run([spec], ["published"])
print("torch's compiler is loaded:", "torch._dynamo" in sys.modules)
"""
"""A network whose activations of a batch are 64 MiB a layer, and its run."""


def limited(folder: Path, mode: str, limit: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", LIMITED, str(folder), mode, str(limit)]
    # A second heap would take 64 MiB of the address space, whenever a thread happens to start.
    environment = {**os.environ, "MALLOC_ARENA_MAX": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's")
def test_with_a_real_limit_a_static_model_is_shown_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sanity_checks, "probe", lambda _: ())
    monkeypatch.setattr(sys, "argv", ["-c", str(tmp_path / "roomy"), "static", "0"])
    exec(LIMITED, {})
    cramped = limited(tmp_path / "cramped", "static", 200)
    assert cramped.returncode == 0, cramped.stderr
    assert "static: out of memory with 64 images at a time; going on with 32" in cramped.stderr
    assert "loaded: False" in cramped.stdout, "memory is measured without it"
    require_same(tmp_path / "cramped", tmp_path / "roomy")


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's")
def test_with_a_real_limit_a_coupled_batch_is_refused(tmp_path: Path) -> None:
    cramped = limited(tmp_path, "batch", 120)
    assert cramped.returncode == 1
    assert "DeviceMemoryError: batch checks: out of memory with a batch of 64" in cramped.stderr
    # The bytes that it needs are reported where memory suffices to measure them.
