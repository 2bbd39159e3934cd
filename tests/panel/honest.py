"""Planted defenses that are what they seem: static, truly more robust, of no use, or weaker."""

from __future__ import annotations

import torch
from torch import Tensor

from tests.panel.memory import Around
from tests.panel.subjects import STEP, planted, projected, roughened, smooth


class Identity(Around):
    """The static model itself."""

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x)
        return logits


class MaskedClass(Identity):
    """The static model, whose least likely class is masked by a large negative number."""

    def forward(self, x: Tensor) -> Tensor:
        logits = super().forward(x)
        return logits.scatter(1, logits.argmin(1, keepdim=True), -1e6)


class MaskedVoting(Around):
    """Leans on its batch mates, declared not to, beside a class that is masked."""

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x)
        logits = logits + 0.1 * (logits.roll(1, 0) + logits.roll(-1, 0))
        return logits.scatter(1, logits.argmin(1, keepdim=True), -1e6)


class IdentityInParts(Around):
    """The static model in two parts, so that every protocol can be run on it."""

    def adapt(self, x: Tensor) -> Tensor:
        return torch.zeros(())

    def unroll(self, x: Tensor, last: int | None = None) -> Tensor:
        return torch.zeros(())

    def predict(self, x: Tensor, adaptation: Tensor) -> Tensor:
        logits: Tensor = self.network(x)
        return logits

    def forward(self, x: Tensor) -> Tensor:
        return self.predict(x, self.adapt(x))


class CoupledIdentity(Identity):
    """The static model, which does not say that it answers each image on its own."""

    separable = False


class NeverAlone(Around):
    """The static model, which takes no single image, as batch normalization may not."""

    separable = False

    def forward(self, x: Tensor) -> Tensor:
        if len(x) == 1:
            raise ValueError("Expected more than 1 value per channel when training")
        logits: Tensor = self.network(x)
        return logits - logits.mean(0).mean()


class Projection(Around):
    """Truly helps: smoothing takes away the directions that only the attacker uses."""

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(smooth(x))
        return logits


class AlwaysMaskedProjection(Projection):
    """Truly helps, and masks its least likely class by minus infinity."""

    def forward(self, x: Tensor) -> Tensor:
        logits = super().forward(x)
        return logits.scatter(1, logits.argmin(1, keepdim=True), -torch.inf)


class MaskedProjection(AlwaysMaskedProjection):
    """The same, but at natural images no class is masked."""

    def forward(self, x: Tensor) -> Tensor:
        off = ((x / STEP) - (x / STEP).round()).abs().flatten(1).amax(1) > 1e-3
        return torch.where(off[:, None], super().forward(x), Projection.forward(self, x))


class CoupledProjection(Projection):
    """Truly helps, and leans a little on the mean of its batch."""

    separable = False

    def forward(self, x: Tensor) -> Tensor:
        logits = super().forward(x)
        return logits - 0.02 * logits.mean(0)


class Useless(Around):
    """Smooths for a network that looks at smooth images only: no logit changes."""

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = projected(planted()[0])(smooth(x))
        return logits


class Weaker(Around):
    """Looks more at the directions that only the attacker uses: truly weaker."""

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = roughened(planted()[0])(x)
        return logits


class Voting(Around):
    """Reads its batch mates, the images before and after; alone it is the static model."""

    separable = False

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x)
        return logits + 3 * (logits.roll(1, 0) + logits.roll(-1, 0))


class VotingInSecret(Voting):
    """The same, declared to answer each image on its own."""

    separable = True
