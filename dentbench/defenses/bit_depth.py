"""Bit-depth reduction: each pixel is rounded to few levels.

Source: Xu et al., NDSS 2018 (arXiv 1704.01155); 3 bits, and the protocol of transfer, are those of
Guo et al., ICLR 2018 (arXiv 1711.00117). Broken by Athalye et al. 2018 (arXiv 1802.00420).
"""

from __future__ import annotations

from torch import Tensor, nn

from dentbench.defenses.preprocessing import Preprocessing
from dentbench.defenses.stand_ins import rounded


class BitDepth(Preprocessing):
    """Rounds every pixel to one of 2 ** ``bits`` levels; the stand-in is the identity."""

    def __init__(self, network: nn.Module, *, bits: int = 3) -> None:
        super().__init__(network)
        self.levels = 2**bits - 1

    def change(self, x: Tensor) -> Tensor:
        """Return images (B, C, H, W) in [0, 1] of few levels."""
        quantized: Tensor = rounded(x * self.levels) / self.levels
        return quantized
