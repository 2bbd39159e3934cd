"""EATA: entropy minimization on reliable images alone, over the scales and shifts.

Source: Niu et al., ICML 2022 (arXiv 2204.02610), and its code (mr-eggplant/EATA): SGD with lr
2.5e-4 and momentum 0.9, reliable being an entropy below 0.4 ln(classes). Ours: made afresh for
every batch, in all normalization layers. Then nothing was seen before, so the filter of redundant
images lets all pass, as it does at their first batch; and the Fisher term, whose gradient is zero
where nothing has moved, is left out at later steps too.
"""

from __future__ import annotations

import math

from torch import Tensor, nn

from dentbench.adapt.dent import Dent
from dentbench.adapt.losses import Loss
from dentbench.spec.dent import DentSpec


def online_spec(network: nn.Module, steps: int, lr: float) -> DentSpec:
    """Return SGD over all normalization layers as a setting of dent's engine.

    BatchNorm layers, where there are some, take the statistics of the batch, as in the released
    codes.
    """
    batchnorm = any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    return DentSpec(
        mode="batch",
        steps=steps,
        layers="all",
        loss="entropy",
        statistics="batch" if batchnorm else "running",
        optimizer="sgd",
        lr=lr,
        momentum=0.9,
        nesterov=False,
    )


def entropies(logits: Tensor) -> Tensor:
    """Return each image's Shannon entropy (B,) in nats, for logits (B, classes)."""
    return -(logits.softmax(1) * logits.log_softmax(1)).sum(1)


def mean_over(values: Tensor, chosen: Tensor) -> Tensor:
    """Return the mean of the ``chosen`` among ``values``, both (B,); zero where none is chosen."""
    return (values * chosen).sum() / chosen.sum().clamp_min(1)


def reliable_loss(margin: float) -> Loss:
    """Return EATA's loss; ``margin``: reliable entropies are below so much of ln(classes).

    A step takes an image's weight, exp(limit - entropy), for a constant, which it is not for an
    attack: the weight follows the image. So the gradient is that of -weight, whose slope in the
    entropy is the weight, and a gradient of it is exact too; the value is weight times entropy.
    """

    def loss(logits: Tensor, count: int) -> Tensor:
        del count
        entropy = entropies(logits)
        limit = margin * math.log(logits.shape[1])
        reliable = entropy.detach() < limit
        weights = (limit - entropy).exp()
        slopes = mean_over(-weights, reliable)
        value = mean_over(weights * entropy, reliable).detach()
        return value + (slopes - slopes.detach())

    return loss


def eata(model: nn.Module, *, steps: int = 1, lr: float = 2.5e-4, margin: float = 0.4) -> Dent:
    """Return episodic EATA around a model with any normalization layers; the model is copied.

    Ours: the prediction is another forward, after the last update, as in dent. Raises
    :class:`~dentbench.errors.ModelError` for a model without such layers.
    """
    spec = online_spec(model, steps, lr)
    return Dent(model, spec, loss=reliable_loss(margin), prepare=False)
