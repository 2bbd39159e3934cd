"""The inputs of a run, loaded: a network, and the images that it is evaluated on."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from dentbench.spec.evaluation import DataSpec


@dataclass(frozen=True, kw_only=True)
class RunInputs:
    """The network and the images that specs name.

    ``images`` (N, C, H, W) float32 in [0, 1]; ``labels`` (N,) int64. ``given``: where they are in
    another order than the data set's own, the same images in its order, and their spec.
    ``published_natural``: the natural accuracy, in percent, published of the network on this data
    set; ``expected_natural``: its owner's expectation, which counts instead.
    ``known_hard``: whether low natural accuracy is no mistake, as on corrupted images.
    ``class_folders``: how many folders of pictures the labels were inferred from, if any.
    ``available``: how many images the data set has from the first one on, None where unknown.
    """

    network: nn.Module
    images: Tensor
    labels: Tensor
    given: tuple[RunInputs, DataSpec] | None = None
    published_natural: float | None = None
    expected_natural: float | None = None
    published_robust: float | None = None
    known_hard: bool = False
    class_folders: int | None = None
    available: int | None = None
