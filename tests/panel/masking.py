"""Planted defenses whose labels are the static model's, or nearly, but whose gradient misleads."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.panel.memory import Around
from tests.panel.subjects import STEP, class_means, reach_of, stored_images


def other_network(x: Tensor, classes: int) -> Tensor:
    """Logits (B, classes) of another network: a random linear model, always the same."""
    generator = torch.Generator().manual_seed(7)
    weight = torch.randn(classes, x[0].numel(), generator=generator)
    logits: Tensor = F.linear(x.flatten(1), weight)
    return logits


def with_gradient_of(value: Tensor, other: Tensor) -> Tensor:
    """``value``, whose gradient is that of ``other``."""
    return value.detach() + other - other.detach()


class NoAnswerNearby(Around):
    """The static model, which divides zero by zero near its boundary: there is no answer."""

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x)
        best = logits.detach().topk(2, 1).values
        near = (best[:, 0] - best[:, 1]) < 0.05
        return logits + (0.0 / (~near).to(logits))[:, None]


class NoAnswerToAttacks(Around):
    """The static model, which answers no image off the grid of the natural images."""

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x)
        off = ((x / STEP) - (x / STEP).round()).abs().flatten(1).amax(1) > 1e-3
        return torch.where(off[:, None], torch.nan, logits)


class ErrorNearby(Around):
    """The static model, which raises an error about an image near its boundary."""

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x)
        best = logits.detach().topk(2, 1).values
        if bool(((best[:, 0] - best[:, 1]) < 0.05).any()):
            raise RuntimeError("the matrix is singular")
        return logits


class RowsMissing(Around):
    """The static model, which leaves out the answers to images off the grid of natural images."""

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x)
        return logits[((x / STEP) - (x / STEP).round()).abs().flatten(1).amax(1) <= 1e-3]


class NoAdaptationNearby(ErrorNearby):
    """In parts, of which it is the adaptation that fails."""

    def adapt(self, x: Tensor) -> Tensor:
        return 0 * super().forward(x).detach()

    def predict(self, x: Tensor, adaptation: Tensor) -> Tensor:
        logits: Tensor = self.network(x)
        return logits + adaptation

    def forward(self, x: Tensor) -> Tensor:
        return self.predict(x, self.adapt(x))


class OtherPlateau(Around):
    """Honest near its boundary; flat beyond a small margin, with another network's gradient."""

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x)
        return torch.where(self.near(logits)[:, None], logits, self.plateau(x, logits))

    def near(self, logits: Tensor) -> Tensor:
        best = logits.detach().topk(2, 1).values
        span = logits.detach().amax(1) - logits.detach().amin(1)
        return (best[:, 0] - best[:, 1]) < 0.05 * span

    def flat(self, logits: Tensor) -> Tensor:
        labels = F.one_hot(logits.argmax(1), logits.shape[1])
        return logits.detach().std() * labels

    def plateau(self, x: Tensor, logits: Tensor) -> Tensor:
        return with_gradient_of(self.flat(logits), other_network(x, logits.shape[1]))


class ZeroPlateau(OtherPlateau):
    """Flat beyond the small margin, with no gradient there."""

    def plateau(self, x: Tensor, logits: Tensor) -> Tensor:
        return self.flat(logits)


class ReversedPlateau(OtherPlateau):
    """Flat beyond the small margin, with the static model's gradient reversed."""

    def plateau(self, x: Tensor, logits: Tensor) -> Tensor:
        return with_gradient_of(self.flat(logits), -logits)


class HardLabels(Around):
    """Shows its label only."""

    def forward(self, x: Tensor) -> Tensor:
        logits = self.network(x)
        return F.one_hot(logits.argmax(1), logits.shape[1]).float()


class HardLabelsOfOthers(Around):
    """Shows its label only, and hands out another network's gradient for it."""

    def forward(self, x: Tensor) -> Tensor:
        logits = self.network(x)
        labels = F.one_hot(logits.argmax(1), logits.shape[1]).float()
        return with_gradient_of(labels, other_network(x, logits.shape[1]))


class Saturated(Around):
    """Logits times 1,000: the cross-entropy has no gradient in float32."""

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = 1000 * self.network(x)
        return logits


class Probabilities(Around):
    """Saturated probabilities in place of logits."""

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x)
        return (200 * logits).softmax(1)


class Cooled(Around):
    """Logits by 1,000: every softmax is nearly uniform."""

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x) / 1000
        return logits


class Scaled(Around):
    """The static model with a scale, and a constant for each image: no label changes."""

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = 0.1 * self.network(x) + 5
        return logits


class Quantised(Around):
    """The network is shown the nearest multiple of the step: no gradient passes."""

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(STEP * (x / STEP).round())
        return logits


class QuantisedLogits(Around):
    """Logits rounded to steps: flat almost everywhere, with a sure winner."""

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x)
        step = logits.detach().std()
        rounded = step * (logits / step).round()
        sure = F.one_hot(logits.argmax(1), logits.shape[1])
        return rounded.detach() + 0.1 * step * sure


class NearestPrototype(Around):
    """The nearest class mean, as a hard label: a linear model in truth."""

    def forward(self, x: Tensor) -> Tensor:
        nearest = torch.cdist(x.flatten(1), class_means().to(x)).argmin(1)
        return F.one_hot(nearest, len(class_means())).float()


class NearestStored(Around):
    """Purifies: the network is shown the nearest stored image in place of the one it is asked."""

    def forward(self, x: Tensor) -> Tensor:
        stored = stored_images().to(x)
        nearest = torch.cdist(x.flatten(1), stored.flatten(1)).argmin(1)
        logits: Tensor = self.network(stored[nearest])
        return logits


class CounterStep(Around):
    """Steps against the attacker by the sign of its own gradient, and answers from there.

    The step raises the class that it would answer anyway: on a linear model no label changes.
    """

    def forward(self, x: Tensor) -> Tensor:
        moved = x.detach().requires_grad_()
        with torch.enable_grad():
            logits = self.network(moved)
            loss = F.cross_entropy(logits, logits.argmax(1), reduction="sum")
            (gradient,) = torch.autograd.grad(loss, moved)
        answer: Tensor = self.network(x - reach_of(x) * gradient.sign())
        return answer


class Shattered(Around):
    """A fine wave on every pixel shatters the gradient, and moves none by more than 0.001."""

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x + 0.001 * torch.sin(1e5 * x))
        return logits


class _TurnedOffTheGrid(torch.autograd.Function):
    """The identity, its gradient right on the grid of natural images and reversed elsewhere."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        off = ((x / STEP) - (x / STEP).round()).abs().flatten(1).amax(1) > 1e-3
        ctx.save_for_backward(off[:, None, None, None])
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (off,) = ctx.saved_tensors
        return torch.where(off, -gradient, gradient)


class ReversedOffTheGrid(Around):
    """Its gradient is right at natural images, where it is looked at, and wrong on the way."""

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(_TurnedOffTheGrid.apply(x))
        return logits


class Reversed(Around):
    """Undoes by what autograd takes for a constant what it reverses: the logits are the same."""

    def adapt(self, x: Tensor) -> Tensor:
        return self.unroll(x).detach()

    def unroll(self, x: Tensor, last: int | None = None) -> Tensor:
        twice: Tensor = 2 * self.network(x)
        return twice

    def predict(self, x: Tensor, adaptation: Tensor) -> Tensor:
        logits: Tensor = adaptation - self.network(x)
        return logits

    def forward(self, x: Tensor) -> Tensor:
        return self.predict(x, self.adapt(x))
