"""JPEG compression: the cosine transform of each block of an image is quantized.

Source: the tables and the scaling by quality are those of the standard (ITU-T T.81, annex K) and of
libjpeg; as a defense, quality 75 and the protocol of transfer are those of Guo et al., ICLR 2018
(arXiv 1711.00117). Broken by Athalye et al. 2018 (arXiv 1802.00420).
"""

from __future__ import annotations

import math
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dentbench.defenses.preprocessing import Preprocessing
from dentbench.defenses.stand_ins import rounded
from dentbench.errors import ModelError, SpecError

BLOCK: Final = 8

_LUMA: Final = """
16 11 10 16 24 40 51 61  12 12 14 19 26 58 60 55  14 13 16 24 40 57 69 56
14 17 22 29 51 87 80 62  18 22 37 56 68 109 103 77  24 35 55 64 81 104 113 92
49 64 78 87 103 121 120 101  72 92 95 98 112 100 103 99"""
_CHROMA: Final = (
    """
17 18 24 47 99 99 99 99  18 21 26 66 99 99 99 99  24 26 56 99 99 99 99 99
47 66 99 99 99 99 99 99"""
    + " 99" * 32
)

_YCBCR: Final = (
    (0.299, 0.587, 0.114),
    (-0.168735892, -0.331264108, 0.5),
    (0.5, -0.418687589, -0.081312411),
)


class Jpeg(Preprocessing):
    """Compresses and decompresses images of one or three channels, at ``quality`` in 1..100.

    Colours are not subsampled, so that an image of any size keeps its own. Rounding has the
    identity as its stand-in. Raises :class:`~dentbench.errors.ModelError` for other channels.
    """

    def __init__(self, network: nn.Module, *, quality: int = 75) -> None:
        super().__init__(network)
        if quality > 100:
            raise SpecError(f"quality of jpeg is {quality}; it must be at most 100")
        self.quality = quality

    def change(self, x: Tensor) -> Tensor:
        """Return images (B, C, H, W) in [0, 1] as they come back from compression."""
        channels = x.shape[1]
        if channels not in (1, 3):
            raise ModelError(f"jpeg knows images of 1 or 3 channels, and these have {channels}")
        pixels = rounded(255 * x)
        if channels == 3:
            forward = x.new_tensor(_YCBCR)
            pixels = rounded(torch.einsum("dc,bchw->bdhw", forward, pixels))
        shift = x.new_tensor([128.0, 0.0, 0.0][:channels]).view(-1, 1, 1)
        pixels = self._quantized(pixels - shift) + shift
        if channels == 3:
            back = torch.linalg.inv(torch.tensor(_YCBCR, dtype=torch.float64)).to(x)
            pixels = torch.einsum("dc,bchw->bdhw", back, rounded(pixels))
        return rounded(pixels).clamp(0, 255) / 255

    def _quantized(self, planes: Tensor) -> Tensor:
        """Return planes (B, C, H, W) with the spectrum of each block of 8 x 8 quantized."""
        height, width = planes.shape[2:]
        spare = (-width % BLOCK, -height % BLOCK)
        padded = F.pad(planes, (0, spare[0], 0, spare[1]), mode="replicate")
        rows, columns = (size // BLOCK for size in padded.shape[2:])
        blocks = padded.view(*planes.shape[:2], rows, BLOCK, columns, BLOCK).transpose(3, 4)
        cosines = _cosines().to(planes)
        tables = self._tables(planes.shape[1]).to(planes)[:, None, None]
        spectrum = cosines @ blocks @ cosines.mT
        blocks = cosines.mT @ (rounded(spectrum / tables) * tables) @ cosines
        whole = blocks.transpose(3, 4).reshape(padded.shape)
        return whole[:, :, :height, :width]

    def _tables(self, channels: int) -> Tensor:
        """Return the divisors (C, 8, 8) of the spectrum, as libjpeg scales them."""
        scale = 5000 // self.quality if self.quality < 50 else 200 - 2 * self.quality
        names = (_LUMA, _CHROMA, _CHROMA)[:channels]
        tables = [
            [min(max((int(value) * scale + 50) // 100, 1), 255) for value in name.split()]
            for name in names
        ]
        return torch.tensor(tables, dtype=torch.float64).view(-1, BLOCK, BLOCK)


def _cosines() -> Tensor:
    """Return the matrix (8, 8) of the orthonormal cosine transform (DCT-II)."""
    steps = torch.arange(BLOCK, dtype=torch.float64)
    matrix = torch.cos(math.pi * (2 * steps + 1) * steps[:, None] / (2 * BLOCK))
    matrix[0] /= math.sqrt(2)
    return matrix * math.sqrt(2 / BLOCK)
