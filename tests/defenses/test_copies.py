"""A run leaves no trace in a user's defense, so that another run of it has the same key."""

from __future__ import annotations

import functools
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dentbench.api import evaluate
from dentbench.defenses.copies import copied
from dentbench.identity.as_left import before_runs, known_again
from tests.attacks.toys import labels_of, small_network, tiny_images


class Keeping:
    """Counts its calls under a lock, keeps answers, computes what it needs late."""

    asked_of_all = 0

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.calls = 0
        self.lock, self.changed = threading.RLock(), threading.Condition()
        self.thread = threading.local()
        self.whole = weakref.ref(self)
        self.answers: dict[float, Tensor] = {}

    @functools.cached_property
    def scale(self) -> Tensor:
        return torch.ones(5)

    def __call__(self, x: Tensor) -> Tensor:
        with self.lock, self.changed:
            self.calls += 1
            self.changed.notify_all()
        type(self).asked_of_all += 1
        self.thread.last = len(x)
        answer: Tensor = self.network(x) * self.scale
        self.answers[float(x.detach().sum())] = answer.detach()
        return answer


def closure(network: nn.Module) -> Callable[[Tensor], Tensor]:
    calls = []

    def count() -> None:
        calls.append(1)

    def answer(x: Tensor) -> Tensor:
        count()
        assert calls
        logits: Tensor = network(x)
        return logits

    answer.calls = calls  # type: ignore[attr-defined]
    return answer


CALLS = []


def counting(x: Tensor) -> Tensor:
    CALLS.append(len(x))
    logits: Tensor = small_network()(x)
    return logits


KINDS: dict[str, Callable[[], Any]] = {
    "object": lambda: Keeping(small_network()),
    "closure": lambda: closure(small_network()),
    "closure with arguments": lambda: functools.partial(closure(small_network())),
    "method": lambda: Keeping(small_network()).__call__,
    "function": lambda: counting,
}


@pytest.mark.parametrize("kind", KINDS)
def test_two_runs_of_a_defense_have_one_key(kind: str, tmp_path: Path) -> None:
    defense, images = KINDS[kind](), tiny_images(4)
    labels = labels_of(small_network(), images)
    keys = [
        evaluate(
            *(small_network(), images, labels),
            defense=defense,
            attack="none",
            results=tmp_path / str(number),
            progress=None,
        ).defended.key
        for number in range(3)
    ]
    assert len({*keys}) == 1
    if kind == "object":
        assert not defense.calls and not defense.answers


def test_what_is_copied_is_apart_and_its_code_is_the_same() -> None:
    whole = Keeping(small_network())
    whole.thread.last = 3
    other = copied(whole)
    images = tiny_images(2)
    assert type(other) is Keeping and torch.equal(other(images), whole.network(images))
    assert not whole.calls and not whole.answers and whole.thread.last == 3
    assert other.whole() is other and other.lock is not whole.lock
    assert copied(counting) is counting and copied(Keeping) is Keeping


def test_closures_go_on_sharing_their_variables() -> None:
    answer: Any = closure(small_network())
    other = copied(answer)
    other(tiny_images(2))
    assert len(other.calls) == 1 and not answer.calls


def test_an_object_is_known_as_a_run_left_it_and_no_other_is() -> None:
    thing, other = Keeping(small_network()), Keeping(small_network())
    with known_again(thing, "first", lambda: "left"):
        pass
    with known_again(thing, "first", lambda: "left again"):
        pass
    assert {before_runs(thing, name) for name in ("first", "left", "left again")} == {"first"}
    assert before_runs(thing, "changed by hand") == "changed by hand"
    assert before_runs(other, "left") == "left"
