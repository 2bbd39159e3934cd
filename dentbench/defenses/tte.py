"""TTE, test-time ensembling: the logits of an image, its mirror image and crops are averaged.

Source: Perez et al., ICCVW 2021 (arXiv 2107.14110), and its code (juancprzs/TTE). Their protocol is
AutoAttack on the whole ensemble.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dentbench.defenses.fixed import Fixed

SIDE = 32
"""The size at which images are padded by 4 pixels before they are cropped."""


class Ensembling(Fixed):
    """Averages the logits of the image, its mirror image, crops, and the mirror images' crops.

    ``crops``: how many windows of the image's size, at places drawn once, of the image padded with
    zeros: by 4 pixels at 32, at other sizes in proportion. ``flip``: whether mirror images take
    part.

    Views, zeros around the pixels (before normalization) and the mean of logits are those of the
    released code. It differs in three things: by a slip of its loop it crops all at the last place
    drawn, where every crop of ours has a place of its own, as the paper has it; it draws from 8 of
    the 9 places along a side, ours from all; and it pads by 4 pixels at any size.
    """

    def __init__(self, network: nn.Module, *, crops: int = 4, flip: bool = True) -> None:
        super().__init__(network)
        self.flip = flip
        generator = torch.Generator().manual_seed(0)
        self.places = torch.rand(crops, 2, generator=generator).tolist()

    def views(self, x: Tensor) -> list[Tensor]:
        """Return the network's inputs for images (B, C, H, W), each of their shape."""
        whole = [x, x.flip(3)] if self.flip else [x]
        return whole + [crop for image in whole for crop in self._crops(image)]

    def answer(self, x: Tensor) -> Tensor:
        """Return the mean logits (B, classes) of the views of images (B, C, H, W)."""
        views = self.views(x)
        logits: Tensor = self.network(torch.cat(views))
        return logits.view(len(views), len(x), -1).mean(0)

    def _crops(self, x: Tensor) -> list[Tensor]:
        height, width = x.shape[2:]
        pads = [max(1, round(4 * size / SIDE)) for size in (height, width)]
        padded = F.pad(x, (pads[1], pads[1], pads[0], pads[0]))
        crops = []
        for place in self.places:
            top, left = (
                int(offset * (2 * pad + 1)) for offset, pad in zip(place, pads, strict=True)
            )
            crops.append(padded[:, :, top : top + height, left : left + width])
        return crops
