"""An attack and a protocol of one's own."""

import torch
from torch.nn.functional import cross_entropy


def fgsm(classify, images, labels, threat):
    """Go one step along the sign of the gradient."""
    leaf = images.clone().requires_grad_()
    loss = cross_entropy(classify(leaf), labels, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, leaf)
    return images + threat.eps * gradient.sign()


def halfway(context):
    """Return points halfway to the static model's adversarial ones."""
    return (context.images + context.static_points) / 2
