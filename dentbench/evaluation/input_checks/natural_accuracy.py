"""Check whether natural accuracy is plausible, and which usual mistake explains it if not.

Labels that begin at 1, classes in another order, images that the model wants normalized, in BGR or
of another range: each is tried on some natural images, without an attack.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

from dentbench.attacks.base import Classifier
from dentbench.errors import ModelError
from dentbench.evaluation.memory.out_of_memory import is_out_of_memory
from dentbench.stats import more_often_than, percent_text, wilson

LEAST: Final = 16
"""The fewest images from which natural accuracy is judged."""

MOST_ASKED: Final = 1024
"""The most images that are classified before anything else is done."""

TRIED: Final = 64
"""The most images on which the usual mistakes are tried."""

LEVEL: Final = 0.05
"""Accuracy that guessing reaches with this probability is no better than chance."""

MENDED: Final = 0.1
"""By how much accuracy must rise, its interval's lower end, for a mistake to explain it."""

MOST: Final = 0.5
"""A mistake explains the accuracy of few images only if more than this share is right with it."""

GOOD: Final = 0.9
"""The share of the possible accuracy, or of all images, below which mistakes are searched."""

FAR: Final = 0.5
"""The share of the possible accuracy below which the run warns, whatever the cause."""

ONE_TO_ONE: Final = 0.8
"""How many images must share the commonest label of a predicted class, for an order of classes."""

USUAL: Final = (
    "the usual causes: labels that begin at 1 or are of another order of the classes, images that "
    "the model wants normalized (--normalize), in BGR or of another range, weights of another model"
)

GO_ON: Final = (
    "look at the weights, the preprocessing and the data, or go on with --force (force=True)"
)
"""What to do about a natural accuracy that stops a run."""

_IMAGENET: Final = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_CIFAR10: Final = ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
_HALVES: Final = ((0.5,), (0.5,))


@dataclass(frozen=True)
class Remedy:
    """A change that raises natural accuracy, and how many of ``of`` images are right with it.

    ``fitted``: whether it was fitted to these images, as an order of the classes is.
    """

    words: str
    correct: int
    of: int
    fitted: bool = False

    @property
    def is_clear(self) -> bool:
        """Whether most images are right with it, of so many that this is not by luck."""
        return not self.fitted and wilson(self.correct, self.of)[0] > MOST

    @property
    def sentence(self) -> str:
        """A description for the record."""
        share = percent_text(self.correct, self.of)
        return f"{self.words} it is {share} ({self.correct} of {self.of})"


def is_chance(correct: int, n: int, classes: int) -> bool:
    """Return whether guessing would be right as often; False for too few images to say."""
    return n >= LEAST and more_often_than(correct, n, 1 / classes) > LEVEL


def require_above_chance(
    network: nn.Module, images: Tensor, labels: Tensor, device: str, expected: float | None = None
) -> None:
    """Raise :class:`~dentbench.errors.ModelError` for a network no better than chance.

    ``network`` is on ``device``, as it is evaluated; ``images`` (N, C, H, W) in [0, 1], ``labels``
    (N,), ``expected``: the natural accuracy, in percent, that its owner expects. A few images are
    asked about, and up to :data:`MOST_ASKED` where these are not above chance. It comes before
    anything is timed. Labels that the network has no output for are refused by their own words.
    """
    if len(images) < LEAST:
        return
    try:
        for count in (LEAST, MOST_ASKED):
            x, y = _spread(images, count), _spread(labels, count)
            with torch.no_grad(), torch.random.fork_rng([device] if "cuda" in device else []):
                logits = torch.cat([network(part.to(device)) for part in x.split(LEAST)])
            correct, classes = int((logits.argmax(1).cpu() == y).sum()), logits.shape[1]
            if int(labels.max()) >= classes or not is_chance(correct, len(y), classes):
                return
        best = remedy(network, images, labels, device)
    except Exception:  # a network may raise anything; the evaluation itself says so in words
        return
    text = chance_text(correct, len(y), classes)
    if expected is not None:
        text += f", and {expected:g}% was expected"
    raise ModelError(f"{text}; {USUAL if best is None else best.sentence}; {GO_ON}")


def _spread(values: Tensor, count: int) -> Tensor:
    """Return up to so many values, from the first to the last."""
    return values[torch.linspace(0, len(values) - 1, min(count, len(values))).long().unique()]


def chance_text(correct: int, n: int, classes: int) -> str:
    """Say that natural accuracy is no better than chance."""
    share = f"natural accuracy is {percent_text(correct, n)} ({correct} of {n})"
    return f"{share}, no better than chance among {classes} classes"


def allowed(dataset: str) -> float | None:
    """Return the highest natural accuracy, in [0, 1], published on a data set; None: unknown."""
    from dentbench.zoo.cards.dataset_cards import DATASETS
    from dentbench.zoo.cards.model_cards import MODELS

    published = [
        card.clean
        for card in MODELS.values()
        if card.clean is not None
        and card.dataset in DATASETS
        and DATASETS[card.dataset].name == dataset
    ]
    return max(published) / 100 if published else None


@torch.no_grad()
def remedy(
    classify: Classifier, images: Tensor, labels: Tensor, device: str | torch.device = "cpu"
) -> Remedy | None:
    """Return the usual mistake whose mending raises natural accuracy most, or None.

    ``images`` (N, C, H, W) in [0, 1] and ``labels`` (N,): of them :data:`TRIED` are looked at,
    on ``device``. None too where none raises it clearly. Torch's random numbers are kept. An error
    of ``classify`` that says that memory ran out is raised; any other on changed images is not.
    """
    x, y = _spread(images, TRIED).to(device), _spread(labels, TRIED).to(device)
    with torch.random.fork_rng([x.device] if x.is_cuda else []):
        logits = classify(x)
        predicted = logits.argmax(1)
        base = int((predicted == y).sum())
        tried = [*_of_labels(predicted, y, logits.shape[1]), *_of_images(classify, x, y)]
    best = max(tried, key=lambda candidate: candidate.correct, default=None)
    if best is None or wilson(best.correct, best.of)[0] < base / len(y) + MENDED:
        return None
    return best


def _of_labels(predicted: Tensor, labels: Tensor, classes: int) -> Iterator[Remedy]:
    count = len(labels)
    shifts = Counter(((predicted - labels) % classes).tolist())
    shifts.pop(0, None)
    for shift, correct in shifts.most_common(1):
        if len(labels[(predicted - labels) % classes == shift].unique()) == 1:
            continue  # images of one class are no order of classes
        least = shift - classes if 2 * shift > classes else shift
        hint = " (they begin at 1)" if least == -1 else ""
        yield Remedy(f"with the labels shifted by {least:+d}{hint}", correct, count)
    pairs = Counter(zip(predicted.tolist(), labels.tolist(), strict=True))
    order: dict[int, int] = {}
    for (answer, label), _ in pairs.most_common():
        if answer not in order and label not in order.values():
            order[answer] = label
    correct = sum(pairs[pair] for pair in order.items())
    several = len(order) > 1 and correct > max(shifts.values(), default=0)
    if several and correct >= ONE_TO_ONE * count and any(a != b for a, b in order.items()):
        text = "with the classes in another order"
        first = order.get(0, "?")
        words = f"{text} (the model's class 0 is label {first}, ...)"
        yield Remedy(words, correct, count, fitted=True)


def _of_images(classify: Classifier, images: Tensor, labels: Tensor) -> Iterator[Remedy]:
    for words, change in _changes(images):
        try:
            correct = int((classify(change(images)).argmax(1) == labels).sum())
        except Exception as error:  # a network may refuse values outside [0, 1]
            if is_out_of_memory(error):
                raise
            continue
        yield Remedy(words, correct, len(labels))


def _changes(images: Tensor) -> Sequence[tuple[str, Callable[[Tensor], Tensor]]]:
    changes: list[tuple[str, Callable[[Tensor], Tensor]]] = [
        ("with pixels from 0 to 255", lambda x: 255 * x),
        ("with the colors inverted", lambda x: 1 - x),
        ("with rows and columns exchanged", lambda x: x.transpose(2, 3)),
    ]
    constants: list[tuple[str, Any]] = [("0.5 0.5", _HALVES)]
    if images.shape[1] == 3:
        changes.append(("in BGR in place of RGB", lambda x: x.flip(1)))
        constants += [("CIFAR-10's mean and std", _CIFAR10), ("ImageNet's mean and std", _IMAGENET)]
    own = images.mean((0, 2, 3)).tolist(), images.std((0, 2, 3)).clamp_min(1e-3).tolist()
    constants.append(("the images' own mean and std", own))
    for name, (mean, std) in constants:
        numbers = " ".join(",".join(f"{value:.4g}" for value in part) for part in (mean, std))
        changes.append((f"normalized by {name} (--normalize {numbers})", _normalizing(mean, std)))
    return changes


def _normalizing(mean: Sequence[float], std: Sequence[float]) -> Callable[[Tensor], Tensor]:
    def change(x: Tensor) -> Tensor:
        middle, scale = (x.new_tensor(part).view(-1, 1, 1) for part in (mean, std))
        return (x - middle) / scale

    return change


def to_note(best: Remedy | None) -> dict[str, Any]:
    """Return the note that is kept beside the outcomes."""
    return {"remedy": None if best is None else asdict(best)}


def from_note(note: Any) -> Remedy | None:
    """Return the remedy of a note by :func:`to_note`."""
    return None if note["remedy"] is None else Remedy(**note["remedy"])
