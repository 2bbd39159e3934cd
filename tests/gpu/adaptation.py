"""Adaptation against its floor and against the released algorithm, in each precision.

The floor of N steps is arithmetic: N + 1 times what the static network takes, forward and
gradient, in the layout of memory that suits it best.
"""

from __future__ import annotations

import copy
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from dentbench import Dent, DentSpec
from dentbench.attacks.counting import CallCounter
from dentbench.compute.answer_graphs import CapturedAnswer, RecordedNetwork
from dentbench.compute.bn_relu_fusion import joined_if_same
from dentbench.compute.cuda_graphs import OFTEN, Captured
from dentbench.compute.precision import Bfloat16, full_float32, tensor_float32
from tests.benchmarks.pairs import Work, ratio, timed
from tests.benchmarks.released import ReleasedDent
from tests.gpu.figures import machine
from tests.gpu.networks import network
from tests.gpu.parts import AGAIN, Setting

ROUNDS = 9
"""How often each work is timed, if there is time."""


@dataclass(frozen=True)
class Case:
    """Works that are timed in turns: ``ways`` to compute one network's adaptation.

    ``seconds``: after which no further round begins; ``at_most``: after which it is given up.
    """

    network: str
    steps: int
    precision: str
    ways: tuple[str, ...]
    batch: int = 128
    seconds: float = 4.0
    at_most: float = 40.0

    def __str__(self) -> str:
        return f"{self.network}, batch {self.batch}, {self.steps} steps, {self.precision}"


WAYS = ("released", "plain", "graphs")

CASES = (
    *(Case("ResNet-18", 6, item, WAYS) for item in ("tf32", "bf16", "fp32")),
    *(Case("ResNet-20", 6, item, WAYS) for item in ("fp32", "bf16", "tf32")),
    *(Case("WRN-28-10", 6, item, WAYS) for item in ("tf32", "bf16", "fp32")),
    Case("ResNet-20", 30, "fp32", WAYS),
    Case("ResNet-18", 30, "bf16", WAYS),
    Case("WRN-28-10", 30, "bf16", ("plain", "graphs")),
    Case("ResNet-18", 30, "fp32", WAYS),
    Case("ResNet-18", 30, "tf32", WAYS),
    Case("ResNet-20", 30, "bf16", WAYS),
)
"""In the order of what they are worth: what there is no time for is skipped by name."""

DRY = (
    Case("WRN-10-1", 2, "fp32", ("released", "plain"), batch=2, seconds=0.1),
    Case("WRN-10-1", 2, "bf16", ("plain",), batch=2, seconds=0.1),
)


def run(setting: Setting) -> None:
    """Time every case that is not in the file yet, while there is time."""
    figures = setting.figures("adaptation")
    full_float32()
    figures.add("machine", machine(setting.device))
    torch.manual_seed(1)
    for case in DRY if setting.dry else CASES:
        name = str(case)
        if name in figures:
            continue
        if setting.left < (0 if setting.dry else case.seconds + 4):
            figures.add(name, "skipped: no time was left")
            continue
        started = time.perf_counter()
        try:
            with _at_most(case.at_most):
                result = measured(case, setting.device)
        except Exception as error:  # whatever fails is this case's own, unless the GPU is lost
            figures.add(name, f"failed: {type(error).__name__}: {error}")
            _require_device(setting.device)
        else:
            figures.add(name, {**result, "seconds in all": round(time.perf_counter() - started, 1)})
        print(f"{name}: {figures.content[name]}", flush=True)
        if setting.device != "cpu":
            torch.cuda.empty_cache()


@contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    """Raise :class:`TimeoutError` inside the ``with`` block after so many seconds."""

    def stop(number: int, frame: object) -> None:
        raise TimeoutError(f"not done after {seconds:.0f} s")

    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _require_device(device: str) -> None:
    """End this process where its GPU answers no more: a new one may."""
    try:
        (torch.zeros(1, device=device) + 1).item()
    except RuntimeError:
        raise SystemExit(AGAIN) from None


def measured(case: Case, device: str) -> dict[str, Any]:
    """Return the seconds of a case's works, what they are compared with, and how they agree."""
    plain = network(case.network, device)
    x = torch.rand(case.batch, 3, 32, 32, device=device)
    with _precision(case.precision):
        layouts = _layouts(plain, x, case.precision)
        last = min(layouts, key=layouts.__getitem__) == "channels_last"
        laid_out = copy.deepcopy(plain)
        laid_out = laid_out.to(memory_format=torch.channels_last) if last else laid_out
        static = _low(joined_if_same(laid_out, x[:2]), case.precision)
        recording: dict[str, float] = {}
        dents = dict(_dents(case, plain, laid_out, x, recording))
        torch.manual_seed(2)
        shown = torch.rand_like(x)
        answers = {way: logits(dent, shown) for way, dent in dents.items()}
        works: dict[str, Work] = {"static, attack gradient": partial(gradient, static, x)}
        if "graphs" in case.ways:
            recorded = _recorded_network(static, x)
            works["static graphs, attack gradient"] = partial(gradient, recorded, x)
        for way, dent in dents.items():
            works[f"{way}, attack gradient"] = _as_it_comes(way, partial(gradient, dent, x))
        for way in dents:
            works[f"{way}, logits"] = _as_it_comes(way, partial(logits, dents[way], x))
        memory = _peak(works, device)
        seconds = timed(works, ROUNDS, limit=case.seconds)
    return {
        "layout": "channels_last" if last else "contiguous",
        "static, attack gradient, by layout": _rounded(layouts),
        "rounds": min(map(len, seconds.values())),
        "seconds": _rounded({name: median(result) for name, result in seconds.items()}),
        "seconds to record": _rounded(recording),
        **compared(case, seconds),
        "peak GiB": memory,
        "furthest from plain": _furthest(answers),
    }


def compared(case: Case, seconds: dict[str, list[float]]) -> dict[str, float]:
    """Return each way over the floor, and the released algorithm over each."""
    floor = [(case.steps + 1) * item for item in seconds["static, attack gradient"]]
    ours = [way for way in case.ways if way != "released"]
    result = {}
    for way in ours:
        result[f"{way} over floor"] = ratio(seconds[f"{way}, attack gradient"], floor)
        if "released" in case.ways:
            for work in ("attack gradient", "logits"):
                pair = (seconds[f"{item}, {work}"] for item in ("released", way))
                result[f"released over {way}, {work}"] = ratio(*pair)
    return {name: round(item, 3) for name, item in result.items()}


def _dents(
    case: Case, plain: nn.Module, laid_out: nn.Module, x: Tensor, seconds: dict[str, float]
) -> Iterator[tuple[str, nn.Module]]:
    """Yield each way's defense, ready: recorded, if it is; take note of what that took."""
    spec = DentSpec(steps=case.steps)
    for way in case.ways:
        if way == "released":
            yield way, ReleasedDent(_low(plain, case.precision), case.steps)
            continue
        started = time.perf_counter()
        base, counter = joined_if_same(laid_out, x[:2]), CallCounter()
        made: dict[str, Any] = {}
        if way == "graphs":
            made["recorded"] = partial(Captured, counter=counter)
            made["answered"] = partial(CapturedAnswer, counter=counter)
        dent = Dent(_low(base, case.precision), spec, **made)
        for _ in range(OFTEN if made else 1):
            gradient(dent, x)
        if x.is_cuda:
            torch.cuda.synchronize()
        seconds[way] = time.perf_counter() - started
        if made:
            _require_recorded(dent._descent, dent._answer)
        yield way, dent


def _recorded_network(network: nn.Module, x: Tensor) -> nn.Module:
    recorded = RecordedNetwork(network, CallCounter())
    for _ in range(OFTEN):
        gradient(recorded, x)
    _require_recorded(recorded._answers)
    return recorded


def _require_recorded(*works: Any) -> None:
    """Raise where nothing was recorded: it would be timed under a wrong name."""
    if not all(item.recordings for item in works):
        raise RuntimeError("not recorded; see the log")


def gradient(classify: nn.Module, x: Tensor) -> Tensor:
    """Return what an attack asks for at every iterate: the images' gradient of a loss."""
    x = x.clone().requires_grad_()
    return torch.autograd.grad(classify(x).logsumexp(1).sum(), x)[0]


@torch.no_grad()
def logits(classify: nn.Module, x: Tensor) -> Tensor:
    """Return a classifier's answer, without a graph."""
    answer: Tensor = classify(x)
    return answer


def _low(network: nn.Module, precision: str) -> nn.Module:
    return Bfloat16(network) if precision == "bf16" else network


@contextmanager
def _precision(precision: str) -> Iterator[None]:
    with tensor_float32(precision == "tf32"):
        yield


def _as_it_comes(way: str, work: Work) -> Work:
    """Return the work with PyTorch's default choice of algorithms, if it is the released one's."""
    if way != "released":
        return work

    def run() -> None:
        torch.backends.cudnn.deterministic = False
        try:
            work()
        finally:
            torch.backends.cudnn.deterministic = True

    return run


def _layouts(plain: nn.Module, x: Tensor, precision: str) -> dict[str, float]:
    """Return the seconds of the static network's attack gradient in each layout."""
    result = {}
    layouts = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}
    for name, layout in layouts.items():
        network = _low(copy.deepcopy(plain).to(memory_format=layout), precision)
        result[name] = min(timed({name: partial(gradient, network, x)}, 3, calls=3)[name])
    return result


def _peak(works: dict[str, Work], device: str) -> dict[str, float]:
    """Return the most memory that a call of each work takes, beside what is there before it."""
    result: dict[str, float] = {}
    if device == "cpu":
        return result
    for name, work in works.items():
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        work()
        torch.cuda.synchronize()
        result[name] = round((torch.cuda.max_memory_allocated() - before) / 2**30, 3)
    result["held in all"] = round(torch.cuda.memory_reserved() / 2**30, 3)
    return result


def _furthest(answers: dict[str, Tensor]) -> dict[str, float]:
    """Return how far each way's logits are from the plainest one's, relative to the largest."""
    first = next(way for way in ("plain", *answers) if way in answers)
    size = float(answers[first].abs().max())
    return {
        way: float(f"{float((answer - answers[first]).abs().max()) / size:.2g}")
        for way, answer in answers.items()
        if way != first
    }


def _rounded(seconds: dict[str, float]) -> dict[str, float]:
    return {name: float(f"{item:.4g}") for name, item in seconds.items()}
