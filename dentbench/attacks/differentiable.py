"""Answers that attacks can use: floating logits, with an input gradient, zero where there is none.

A network or a defense may answer inside ``torch.no_grad``, with an argmax, from a detached copy of
the images, with whole numbers, or with a graph that it has used up itself. An attack then finds a
gradient of zero, which the check "gradient" reports, instead of an error from inside autograd.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
from torch import Tensor

from dentbench.attacks.base import Classifier
from dentbench.attacks.no_answer import mentions_memory
from dentbench.containment import torch_settings_kept

Path: TypeAlias = Literal["whole", "missing", "broken"]
"""Whether logits lead back to the images: they do, they do not, or asking for it raises."""


def gradient_path(forward: Classifier, images: Tensor) -> Path:
    """Return whether the logits (B, classes) of images (B, C, H, W) have an input gradient.

    Torch's random numbers are kept. Where memory runs out it is taken to be whole.
    """
    devices = [images.device] if images.is_cuda else []
    leaf = images.detach().clone().requires_grad_()
    try:
        with torch_settings_kept(), torch.random.fork_rng(devices), torch.enable_grad():
            logits = forward(leaf.clone())  # as in attacks, a copy: it may write into that
            if not logits.requires_grad:
                return "missing"
            (gradient,) = torch.autograd.grad(logits.float().sum(), leaf, allow_unused=True)
    except Exception as error:  # its type depends on the network's own code
        # Out of memory says nothing of the graph: the next larger request reports it.
        return "whole" if mentions_memory(error) else "broken"
    return "missing" if gradient is None else "whole"


def attackable(forward: Classifier, x: Tensor, path: Path) -> Tensor:
    """Return the logits of images in their floating type, with a gradient where it is asked for.

    ``path``: of ``forward``, by :func:`gradient_path`; where it is not "whole" the gradient
    of the images is zero.
    """
    wanted = x.requires_grad and torch.is_grad_enabled()
    logits = forward(x.detach() if path == "broken" else x)
    if logits.is_inference() and not torch.is_inference_mode_enabled():
        logits = logits.clone()
    if logits.dtype != x.dtype:
        logits = logits.to(x.dtype)
    if path == "broken":
        logits = logits.detach()
    if wanted and (path != "whole" or not logits.requires_grad):
        logits = logits + 0 * x.flatten(1).sum(1, keepdim=True)
    return logits
