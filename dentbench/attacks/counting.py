"""Count the single-image passes through a network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from torch import Tensor, nn

from dentbench.attacks.base import OFFERS
from dentbench.attacks.differentiable import Path, attackable
from dentbench.attacks.no_answer import NoAnswers
from dentbench.containment import own_copy, torch_settings_kept


def _nothing() -> None:
    return None


class CallCounter:
    """Counts single-image passes through a network; ``listen`` is called at every change."""

    def __init__(self) -> None:
        self.forwards = 0
        self.backwards = 0
        self.listen: Callable[[], None] = _nothing

    def __deepcopy__(self, memo: object) -> CallCounter:
        return self  # A copied network is still counted by the same counter.

    def uncounted(self) -> Uncounted:
        """Leave the passes that are made inside a ``with`` block out of the count."""
        return Uncounted(self)

    def forward(self, images: int) -> None:
        """Count forward passes."""
        self.forwards += images
        self.listen()

    def backward(self, images: int) -> None:
        """Count backward passes."""
        self.backwards += images
        self.listen()

    def add(self, forwards: int, backwards: int) -> None:
        """Count passes that were made elsewhere."""
        self.forwards += forwards
        self.backwards += backwards
        self.listen()


class Uncounted:
    """The context manager of :meth:`CallCounter.uncounted`."""

    def __init__(self, counter: CallCounter) -> None:
        self.counter = counter
        self._before: list[tuple[int, int, Callable[[], None]]] = []

    def __enter__(self) -> None:
        counter = self.counter
        self._before.append((counter.forwards, counter.backwards, counter.listen))
        counter.listen = _nothing

    def __exit__(self, *error: object) -> None:
        counter = self.counter
        counter.forwards, counter.backwards, counter.listen = self._before.pop()


_OF_DEFENSES: Final = frozenset(
    {*OFFERS, "surrogate", "after", "with_steps", "steps", "separable", "random"}
)
"""Names by which protocols ask a defense for its methods; a network's own mean something else."""


class CountedNetwork(nn.Module):
    """A network (B, C, H, W) -> (B, classes) whose forward and backward passes are counted.

    It gets copies of the images, which it may change, and answers are copies, for it may use their
    memory again for the next.
    ``path``: whether its logits lead back to the images; where they do not, the gradient is zero.
    ``no_answers``: takes errors that it raises; by default they are raised.
    ``own``: whose layers and methods a defense may use by name, the network itself by default;
    passes through these alone are not counted.
    """

    prepared = True
    """An evaluation has prepared the network; dent's own trials would be counted as passes."""

    def __init__(
        self,
        network: nn.Module,
        counter: CallCounter,
        path: Path = "whole",
        own: nn.Module | None = None,
        no_answers: NoAnswers | None = None,
    ) -> None:
        super().__init__()
        self.__dict__["_own"] = network if own is None else own
        self.network = network
        self.counter = counter
        self.path = path
        self._no_answers = no_answers

    def __getattr__(self, name: str) -> Any:
        """Return the network's attribute of that name, but for those that make a defense."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            own = self.__dict__.get("_own")
            if own is None or name in _OF_DEFENSES or name[:1] == "_":
                raise
        return getattr(own, name)

    def forward(self, x: Tensor) -> Tensor:
        """Return the network's logits."""
        logits = attackable(self.answers, x, self.path)
        images = len(x)
        self.counter.forward(images)
        if logits.requires_grad:
            counter = self.counter
            logits.register_hook(lambda _: counter.backward(images))
        return logits

    def answers(self, x: Tensor) -> Tensor:
        """Return the logits of images, and leave the settings of torch as they were."""
        with torch_settings_kept():
            return self._ask(x) if self._no_answers is None else self._no_answers(self._ask, x)

    def _ask(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(own_copy(x))
        return logits.clone()
