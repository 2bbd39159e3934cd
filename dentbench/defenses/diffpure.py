"""DiffPure: an image is diffused a little and denoised again before it is classified.

Source: Nie et al., ICML 2022 (arXiv 2205.07460), and its code (NVlabs/DiffPure). Their protocol is
AutoAttack with the gradient through the whole process, both "rand" with 20 draws and "standard";
time 0.1 is theirs for Linf 8/255 on CIFAR-10.

Images in [-1, 1], beta from 0.1 to 20, new noise for every question and no clipping of the purified
image are those of the released code. It differs in these: the score model is a large one, ours a
small denoiser that the package trains; it solves the reverse SDE by 100 Euler-Maruyama steps of
0.001, ours takes few steps, those of Ho et al. 2020 (arXiv 2006.11239) between the times that are
used (Song et al. 2021, arXiv 2010.02502, eta 1), which tend to the same as they become many; its
last step adds noise, of 0.01, ours none; it diffuses by the product of the 100 discrete steps, ours
by the integral that the product tends to; and its gradient is by the adjoint method, ours exact.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dentbench.defenses.preprocessing import Preprocessing
from dentbench.errors import SpecError
from dentbench.zoo.denoisers import LATEST, Denoiser, load_denoiser, signal


class Purification(Preprocessing):
    """Diffuses images up to ``time`` at once, and back in ``steps`` equal steps of time.

    ``denoiser``: in place of the embedded one for the images' shape. Random numbers are torch's on
    the images' device; the purified image is not clipped. The gradient of :meth:`unroll` goes
    through the last so many steps, the others counting as the identity; its memory grows with them.
    Raises :class:`~dentbench.errors.ModelError` for images that there is no denoiser for.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        steps: int = 4,
        time: float = 0.1,
        denoiser: Denoiser | None = None,
    ) -> None:
        super().__init__(network)
        if time > LATEST:
            raise SpecError(f"time of diffpure is {time}; it must be at most {LATEST}")
        self.steps = steps
        self.time = time
        self.denoiser = denoiser

    def change(self, x: Tensor) -> Tensor:
        """Return purified images (B, C, H, W)."""
        return self._purified(x, self.steps)

    def adapt(self, x: Tensor) -> Tensor:
        """Return the change (B, C, H, W) of a batch of images (B, C, H, W) in [0, 1]."""
        with torch.no_grad():
            return self.change(x) - x

    def unroll(self, x: Tensor, last: int | None = None) -> Tensor:
        """Return the same as a function of ``x``, its gradient through the last so many steps."""
        with torch.inference_mode(False), torch.enable_grad():
            x = x.clone() if x.is_inference() else x
            return self._purified(x, self.steps if last is None else min(last, self.steps)) - x

    def _purified(self, x: Tensor, through: int) -> Tensor:
        predict = self._denoiser(x)
        times = torch.linspace(self.time, 0, self.steps + 1, dtype=x.dtype, device=x.device)
        left = signal(times)
        start = 2 * x - 1
        y = left[0].sqrt() * start + (1 - left[0]).sqrt() * torch.randn_like(x)
        for number in range(self.steps):
            if number == self.steps - through and number:
                y = y.detach() + start - start.detach()
            now, later = left[number], left[number + 1]
            with torch.set_grad_enabled(torch.is_grad_enabled() and number >= self.steps - through):
                noise = predict(y, times[number].expand(len(x)))
                clean = (y - (1 - now).sqrt() * noise) / now.sqrt()
                spread = (1 - later) / (1 - now) * (1 - now / later)
                y = later.sqrt() * clean + (1 - later - spread).clamp_min(0).sqrt() * noise
                y = y + spread.sqrt() * torch.randn_like(x)
        return (y + 1) / 2

    def _denoiser(self, x: Tensor) -> Denoiser:
        """Return the denoiser for images like ``x``, on their device and of their type."""
        if self.denoiser is None:
            self.denoiser = load_denoiser(tuple(x.shape[1:]))
        self.denoiser = self.denoiser.to(x)
        return self.denoiser
