"""TTC, the test-time counterattack: an image is moved to change its features the most.

Source: Xing, Zhao, Sebe, CVPR 2025 (arXiv 2503.03613), and its code
(Sxing2/CLIP-Test-time-Counterattacks), from which the defaults are. Made for CLIP's image encoder;
here the features are those that the network's last linear layer classifies. Their protocol is
transfer from the undefended network.
"""

from __future__ import annotations

from fractions import Fraction

import torch
from torch import Tensor, nn

from dentbench.defenses.features import Classified
from dentbench.defenses.preprocessing import Preprocessing
from dentbench.defenses.stand_ins import smooth_sign


class Counterattack(Preprocessing):
    """Perturbs images to move the features away from those of the image, from a random start.

    ``steps`` signed gradient steps of ``step_size`` within Linf ``eps`` and within [0, 1]. The
    points on the way are averaged with weights exp(``beta`` k), k the step, where the random start
    changes the features by less than ``tau`` of their length ("falsely stable"); else only the
    random start is added. Random numbers are torch's on the images' device. Raises
    :class:`~dentbench.errors.ModelError` for a network without a linear layer.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        steps: int = 2,
        eps: Fraction = Fraction(4, 255),
        step_size: Fraction = Fraction(1, 255),
        tau: float = 0.2,
        beta: float = 2.0,
    ) -> None:
        super().__init__(network)
        self.classified = Classified(network, "ttc")
        self.steps = steps
        self.eps = float(eps)
        self.step_size = float(step_size)
        self.tau = tau
        self.beta = beta

    def adapt(self, x: Tensor) -> Tensor:
        """Return the perturbation (B, C, H, W) of a batch of images (B, C, H, W) in [0, 1]."""
        with torch.inference_mode(False), torch.enable_grad():
            x = x.clone() if x.is_inference() else x.detach()
            return self._counterattack(x, through=0).detach()

    def unroll(self, x: Tensor, last: int | None = None) -> Tensor:
        """Return the same as a function of ``x`` with a gradient, through the last so many steps.

        A smooth stand-in takes the place of each sign; whether an image is stable is a constant.
        The memory grows with the number of steps.
        """
        with torch.inference_mode(False), torch.enable_grad():
            x = x.clone() if x.is_inference() else x
            return self._counterattack(x, self.steps if last is None else min(last, self.steps))

    def _counterattack(self, x: Tensor, through: int) -> Tensor:
        """Return the perturbation, with a gradient through the last ``through`` steps."""
        with torch.set_grad_enabled(through > 0):
            origin = self.classified.features(x)
        added = (2 * torch.rand_like(x) - 1) * self.eps
        added = (x.detach() + added).clamp(0, 1) - x.detach()
        visited, stable = [added], torch.ones(len(x), dtype=torch.bool, device=x.device)
        for number in range(self.steps):
            live = number >= self.steps - through
            seen, base = (x, origin) if live else (x.detach(), origin.detach())
            if not (live and added.requires_grad):
                added = added.detach().requires_grad_()
            features = self.classified.features(seen + added)
            if number == 0:
                stable = self._stable(features.detach(), origin.detach())
            loss = (features - base).square().sum()
            (grad,) = torch.autograd.grad(loss, added, create_graph=live)
            with torch.set_grad_enabled(live):
                signs = smooth_sign(grad) if live else grad.sign()
                added = (added + self.step_size * signs).clamp(-self.eps, self.eps)
                added = (seen + added).clamp(0, 1) - seen
            visited.append(added)
        weights = torch.arange(len(visited), dtype=x.dtype, device=x.device).mul(self.beta)
        weights = weights.softmax(0).view(-1, 1, 1, 1, 1)
        mean = (weights * torch.stack(visited)).sum(0)
        return torch.where(stable.view(-1, 1, 1, 1), mean, visited[0])

    def _stable(self, features: Tensor, origin: Tensor) -> Tensor:
        """Return which images (B,) the random start changes by less than ``tau``."""
        lengths = torch.linalg.vector_norm(origin, dim=1)
        stable: Tensor = torch.linalg.vector_norm(features - origin, dim=1) < self.tau * lengths
        return stable
