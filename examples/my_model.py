"""A network of one's own and data for it: ``python my_model.py`` writes my_data.npz."""

import numpy as np
import torch
from torch import nn


def make() -> nn.Module:
    """Return a network that maps images (B, 3, 8, 8) in [0, 1] to ten logits."""
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10)
    return nn.Sequential(*layers).eval()


if __name__ == "__main__":
    images = np.random.default_rng(0).random((16, 3, 8, 8), dtype=np.float32)
    labels = make()(torch.from_numpy(images)).argmax(1).numpy()
    np.savez("my_data.npz", images=images, labels=labels)
