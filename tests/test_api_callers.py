"""dentbench.evaluate from the surroundings that scripts have, with the values that they hold."""

from __future__ import annotations

import logging
import random
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import nn

import dentbench
from dentbench import api
from dentbench.errors import DentBenchError
from dentbench.spec.evaluation import AttackSpec, DentSpec, exact_eps


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 10)
    return nn.Sequential(*layers).eval()


NET = network()
X = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
Y = NET(X).argmax(1)
ATTACK = AttackSpec(name="apgd-ce", eps=Fraction(2, 255), iterations=1)


def found(folder: Path, images: Any = X, labels: Any = Y, **more: Any) -> Any:
    values = {"attack": ATTACK, "defense": DentSpec(steps=1), "protocols": "transfer"} | more
    values = {"progress": "none"} | values
    return dentbench.evaluate(values.pop("model", NET), images, labels, results=folder, **values)


def counts(folder: Path, *values: Any, **more: Any) -> tuple[Any, ...]:
    static, dent = found(folder, *values, **more)
    return static.key, static.natural_correct, static.robust_correct, dent.by_protocol


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, ...]:
    return counts(tmp_path_factory.mktemp("plain"))


@contextmanager
def default(set_it: Callable[[Any], None], value: Any, before: Any) -> Iterator[None]:
    set_it(value)
    try:
        yield
    finally:
        set_it(before)


@pytest.mark.parametrize(
    "surroundings",
    [
        torch.no_grad(),
        torch.inference_mode(),
        torch.autocast("cpu", dtype=torch.bfloat16),
        default(torch.set_default_dtype, torch.float64, torch.float32),
        default(torch.set_default_device, "meta", None),
    ],
    ids=["no_grad", "inference_mode", "autocast", "float64", "meta"],
)
def test_surroundings_change_nothing(
    plain: tuple[Any, ...], tmp_path: Path, surroundings: AbstractContextManager[Any]
) -> None:
    with surroundings:
        assert counts(tmp_path) == plain
    assert torch.get_default_dtype() is torch.float32


class Drawing(nn.Module):
    """A network that draws random numbers of every kind, and changes nothing by them."""

    threads: ClassVar[set[int]] = set()

    def __init__(self) -> None:
        super().__init__()
        self.net = network()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits."""
        drawn = random.random() + np.random.rand() + float(torch.rand(()))
        torch.backends.cudnn.deterministic = True
        self.threads.add(torch.get_num_threads())
        logits: torch.Tensor = self.net(x) + 0 * drawn
        return logits


def test_what_is_set_for_the_whole_process_is_as_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def state() -> tuple[Any, ...]:
        numbers = random.getstate(), np.random.get_state()[2], torch.get_rng_state().tolist()
        flags = torch.backends.cudnn.deterministic, torch.backends.cudnn.allow_tf32
        settings = torch.get_num_threads(), torch.is_grad_enabled(), torch.get_default_dtype()
        log = logging.getLogger("dentbench")
        handlers = log.level, [*log.handlers], [*logging.getLogger().handlers]
        stops = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
        return numbers, flags, settings, handlers, stops, [*warnings.filters], Path.cwd()

    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    model = Drawing()
    before = state()
    # As in a fork, which has none of its parent's threads and would wait for them.
    monkeypatch.setattr(api, "_PROCESS", -1)
    found(tmp_path, model=model, attack="none")
    assert state() == before
    torch.set_num_threads(threads)
    assert Drawing.threads == {1}


@pytest.mark.parametrize(
    ("images", "labels"),
    [(X.numpy(), Y.numpy()), (X.tolist(), Y.tolist()), (X, Y.to(torch.uint8)), (X, Y.short())],
)
def test_arrays_lists_and_integers_of_any_type(
    plain: tuple[Any, ...], tmp_path: Path, images: Any, labels: Any
) -> None:
    assert counts(tmp_path, images, labels) == plain


@pytest.mark.parametrize(
    "more",
    [
        {"images": "pictures"},
        {"images": [[1, 2], [3]]},
        {"labels": None},
        {"labels": Y[:2]},
        {"model": lambda x: x},
        {"device": "tpu"},
        {"protocols": "nothing"},
        {"eps": 0.1},
        {"attack": "quick", "eps": -1},
        {"attack": "quick", "eps": "a/b"},
        {"attack": "no such attack"},
        {"attack": "quick", "norm": "L7"},
        {"seed": 1.5},
        {"attack": 5},
        {"attack": "quick", "norm": 3},
        {"protocols": 5},
        {"protocols": [5]},
        {"protocol_settings": "x"},
        {"batch_size": "8"},
        {"precision": 7},
        {"expect_clean": "x"},
        {"name": 5},
        {"results": None},
        {"device": 5},
        {"defense": 5},
        {"defense": "dent,stesp=2"},
        {"progress": 5},
        {"normalize": ([0.5] * 2, [1] * 2)},
        {"attack": "quick", "eps": 8},
    ],
)
def test_every_refusal_is_a_dentbench_error(tmp_path: Path, more: dict[str, Any]) -> None:
    folder = more.pop("results", tmp_path) if "results" in more else tmp_path
    with pytest.raises(DentBenchError):
        found(folder, **more)


def test_constants_of_colors_do_not_fit_gray_images(tmp_path: Path) -> None:
    gray = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval()
    with pytest.raises(DentBenchError, match="3 numbers, and the images are gray, of 1 channel"):
        found(tmp_path, X[:, :1], model=gray, normalize=([0.5] * 3, [1.0] * 3))


@pytest.mark.parametrize("change", [1e-7, -1e-9, 0.0])
def test_rounding_beyond_the_range_is_clipped(change: float) -> None:
    from dentbench.api.arguments import dataset_of

    images = torch.where(X > 0.5, 1 + change, X) if change > 0 else torch.where(X < 0.5, change, X)
    data = dataset_of(images, Y, "mine").images[0:4]
    assert float(data.min()) >= 0 and float(data.max()) <= 1
    torch.testing.assert_close(data, images, rtol=0, atol=2e-7)
    with pytest.raises(DentBenchError, match="divide them by 255"):
        dataset_of(255 * X, Y, "mine")


def test_a_device_may_be_an_object(plain: tuple[Any, ...], tmp_path: Path) -> None:
    assert counts(tmp_path, device=torch.device("cpu")) == plain


def test_a_model_that_ends_the_process_is_refused(tmp_path: Path) -> None:
    class Ends(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise SystemExit(0)

    with pytest.raises(DentBenchError, match=r"sys.exit\(0\)"):
        found(tmp_path, model=Ends())


@pytest.mark.parametrize(
    ("given", "exact"),
    [
        (8 / 255, Fraction(8, 255)),
        (1.5 / 255, Fraction(3, 510)),
        (np.float32(8 / 255), Fraction(8, 255)),
        (torch.tensor(8 / 255), Fraction(8, 255)),
        ("8/255", Fraction(8, 255)),
        ("0.03", Fraction(3, 100)),
        (0.5, Fraction(1, 2)),
        (0.0314, Fraction(0.0314)),
        (1, Fraction(1)),
        (Fraction(1, 7), Fraction(1, 7)),
    ],
)
def test_eps_is_exact(given: Any, exact: Fraction) -> None:
    assert exact_eps(given) == AttackSpec(eps=given).eps == exact


def test_all_255ths_as_floats() -> None:
    assert all(exact_eps(n / 255) == Fraction(n, 255) for n in range(256))


def test_texts_as_on_the_command_line_and_a_printed_summary(tmp_path: Path) -> None:
    result = found(tmp_path, attack="none", eps=None)
    assert "Natural accuracy" in str(result)
    result = found(tmp_path, defense="dent,steps=1", batch_size=np.int64(128))
    assert (
        result.defended.steps == 1
        and result.verdict.sentence in str(result)
        and "static" in str(result)
    )
    assert result.static.eps == "2/255"
