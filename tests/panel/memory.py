"""Planted defenses that remember: their answer is not a function of the images asked about.

Asked about an adversarial point first, each is the static model; that is its truth.
"""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.panel.subjects import reach_of, smooth


class Around(nn.Module):
    """A planted defense around a network, which answers each image on its own."""

    separable = True

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network


class Store:
    """Images and what was answered first; a question near one of them gets that answer."""

    def __init__(self) -> None:
        self.images: Tensor | None = None
        self.answers: Tensor | None = None

    def recall(self, x: Tensor, answers: Tensor, *, add: bool = True) -> Tensor:
        """Return ``answers`` (B, ...), those of near-duplicates replaced by the first one given."""
        x, answers = x.detach(), answers.detach()
        if self.images is None or self.answers is None:
            if add:
                self.images, self.answers = x.clone(), answers.clone()
            return answers
        distance = torch.cdist(x.flatten(1), self.images.flatten(1), p=float("inf"))
        near, which = distance.min(1)
        known = near < 1.2 * reach_of(x)
        recalled = self.answers[which]
        result = torch.where(known.view(-1, *[1] * (answers.ndim - 1)), recalled, answers)
        if add and not known.all():
            self.images = torch.cat([self.images, x[~known]])
            self.answers = torch.cat([self.answers, answers[~known]])
        return result


PROCESS = Store()
"""The state that every instance of this process shares."""


class ProcessMemory(Around):
    """Query detection: a near-duplicate gets the label that any instance gave first."""

    def forward(self, x: Tensor) -> Tensor:
        logits = self.network(x)
        labels = PROCESS.recall(x, logits.argmax(1))
        return 10.0 * F.one_hot(labels, logits.shape[1])


class ClassMemory(Around):
    """The same, kept by the class, and with an honest gradient beneath: only its margin lies."""

    shared: ClassVar[Store] = Store()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x)
        labels = self.shared.recall(x, logits.argmax(1))
        span = logits.detach().amax() - logits.detach().amin() + 1
        return logits + 3 * span * F.one_hot(labels, logits.shape[1])


def _write(path: Path, *tensors: Tensor | None) -> None:
    """Write tensors, many times faster than torch does: every call of a defense does so."""
    path.write_bytes(pickle.dumps([tensor.numpy() for tensor in tensors if tensor is not None]))


def _read(path: Path) -> list[Tensor]:
    return [torch.from_numpy(np.asarray(item)) for item in pickle.loads(path.read_bytes())]


class DiskMemory(Around):
    """The same in a file, which a fresh process reads too."""

    def forward(self, x: Tensor) -> Tensor:
        logits = self.network(x)
        path = Path(os.environ.get("PANEL_FOLDER", os.devnull)) / "memory.pt"
        store = Store()
        if path.exists():
            store.images, store.answers = _read(path)
        before = 0 if store.images is None else len(store.images)
        labels = store.recall(x, logits.argmax(1))
        assert store.images is not None
        if len(store.images) > before and path.parent.is_dir():
            _write(path, store.images, store.answers)
        return 10.0 * F.one_hot(labels, logits.shape[1])


class DiskMemoryBeneath(Around):
    """A file too, and the network's own gradient beneath the label: only its margin lies."""

    used_after: ClassVar[int] = 0

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x)
        path = Path(os.environ.get("PANEL_FOLDER", os.devnull)) / "beneath.pt"
        store, asked = Store(), 0
        if path.exists():
            store.images, store.answers, many = _read(path)
            asked = int(many)
        labels = store.recall(x, logits.argmax(1))
        if path.parent.is_dir():
            _write(path, store.images, store.answers, torch.tensor(asked + len(x)))
        if asked < self.used_after:
            return logits
        span = logits.detach().amax() - logits.detach().amin() + 1
        return logits + 3 * span * F.one_hot(labels, logits.shape[1])


class SureDiskMemory(Around):
    """A file too, which keeps no answers but sure ones, as detectors of queries do."""

    least = 0.5

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x)
        path = Path(os.environ.get("PANEL_FOLDER", os.devnull)) / "sure.pt"
        store = Store()
        if path.exists():
            store.images, store.answers = _read(path)
        best = logits.detach().topk(2, 1).values
        span = logits.detach().amax(1) - logits.detach().amin(1)
        sure = best[:, 0] - best[:, 1] > self.least * span
        labels = logits.argmax(1)
        if store.images is not None:
            labels = store.recall(x, labels, add=False)
        if path.parent.is_dir() and bool(sure.any()):
            store.recall(x[sure], labels[sure])
            _write(path, store.images, store.answers)
        return logits + 60 * F.one_hot(labels, logits.shape[1])


class LateDiskMemory(DiskMemoryBeneath):
    """The same, which it uses only after it was asked about many images, in whatever process."""

    used_after = 2000


class JudgeMemory(Around):
    """Honest where gradients are on; the judge, who needs none, gets the label given first."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network)
        self.store = Store()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x)
        if torch.is_grad_enabled():
            return logits
        labels = self.store.recall(x, logits.argmax(1))
        span = logits.amax() - logits.amin() + 1
        return logits + 3 * span * F.one_hot(labels, logits.shape[1])


class LateMemory(Around):
    """Each instance keeps the answers of its first calls, and uses them after its 40th."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network)
        self.calls = 0
        self.store = Store()

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        logits: Tensor = self.network(x)
        if self.calls <= 2:
            self.store.recall(x, logits)
        if self.calls <= 40:
            return logits
        return self.store.recall(x, logits, add=False)


class LateByImages(Around):
    """Counts images, not calls, and keeps an honest gradient beneath the label that it recalls."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network)
        self.asked = 0
        self.store = Store()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x)
        labels = self.store.recall(x, logits.argmax(1), add=self.asked < 400)
        self.asked += len(x)
        if self.asked <= 2000:
            return logits
        span = logits.detach().amax() - logits.detach().amin() + 1
        return logits + 3 * span * F.one_hot(labels, logits.shape[1])


class WarmsUp(Around):
    """Truly helps, once it was asked about many images: until then it is the static model."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network)
        self.asked = 0

    def forward(self, x: Tensor) -> Tensor:
        self.asked += len(x)
        logits: Tensor = self.network(smooth(x) if self.asked > 2500 else x)
        return logits


class Lagged(Around):
    """Adds the labels of three calls ago, which stay as they were once they are there."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network)
        self.past: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x)
        past = [item for item in self.past if len(item) == len(x)]
        if len(past) >= 3:
            span = logits.detach().amax() - logits.detach().amin() + 1
            logits = logits + 3 * span * F.one_hot(past[-3], logits.shape[1])
        self.past = [*self.past[-9:], logits.detach().argmax(1)]
        return logits


class SharedMean(Around):
    """All instances share a running mean of their logits, one call late, which sharpens answers.

    What an image was answered before, by whomever, is added to what it is answered now.
    """

    shared: ClassVar[dict[int, Tensor]] = {}

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x)
        mean = self.shared.get(len(x), torch.zeros_like(logits.detach()))
        answer = logits + 4 * mean
        self.shared[len(x)] = 0.9 * mean + 0.1 * logits.detach()
        return answer


def forget() -> None:
    """Empty the memories of the process and the classes."""
    PROCESS.__init__()  # type: ignore[misc]
    ClassMemory.shared.__init__()  # type: ignore[misc]
    SharedMean.shared.clear()
