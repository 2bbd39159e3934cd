"""Tell the ways to name a model apart: a name of a card, code of a user, or a file. Torch-free."""

from __future__ import annotations

from typing import Final

from dentbench.paths import expanded
from dentbench.zoo.cards.model_cards import MODELS

SUFFIXES: Final = frozenset(
    {
        *(".pt", ".pth", ".safetensors", ".ckpt", ".tar", ".bin", ".pkl", ".pickle"),
        *(".weights", ".t7", ".model", ".pyth"),
    }
)
"""How checkpoint files end, in lower case."""


def is_checkpoint(text: str) -> bool:
    """Return whether a model is named by a checkpoint file, which need not be there."""
    if text in MODELS:
        return False
    path = expanded(text)
    if path.suffix.lower() in SUFFIXES:
        return True
    return ":" not in path.name and path.suffix != ".py" and (path.exists() or "/" in text)
