"""Smooth stand-ins for steps of no gradient, so that an attack can see through them."""

from __future__ import annotations

from typing import Final

from torch import Tensor

WIDTH: Final = 0.1
"""The width of the slope of a stand-in for the sign, in mean absolute values of its argument.

Of 0.1 to 10, this left the fewest images right when anti-adversary was attacked from random starts.
"""


def smooth_sign(values: Tensor, width: float = WIDTH) -> Tensor:
    """Return the signs of ``values`` (B, ...), with the gradient of a smooth stand-in.

    Forward it is the sign to the last bit; backward it is tanh(values / scale), the scale being
    ``width`` times the mean absolute value of each image's values. For the ``unroll`` of a
    defense whose steps are signs: the sign's own gradient is zero almost everywhere, and an
    attack that follows it sees nothing of the adaptation.
    """
    size = values.detach().flatten(1).abs().mean(1).clamp_min(1e-30) * width
    soft = (values / size.view(-1, *[1] * (values.ndim - 1))).tanh()
    return soft + (values.sign() - soft).detach()


def rounded(values: Tensor) -> Tensor:
    """Return ``values`` rounded to whole numbers, with the gradient of the identity.

    For the ``unroll`` of a defense that quantizes. Source: Bengio et al. 2013 (arXiv 1308.3432),
    as BPDA (Athalye et al. 2018, arXiv 1802.00420) uses it.
    """
    return values + (values.round() - values).detach()
