"""Tell the ways to name a model apart: a name of a card, code of a user, or a file. Torch-free."""

from __future__ import annotations

from typing import Final

from dentbench.errors import UnknownNameError
from dentbench.paths import expanded
from dentbench.zoo.cards.model_cards import MODELS, ModelCard

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


def card_named(name: str) -> ModelCard:
    """Return a model's card by its name or alias.

    Raises :class:`~dentbench.errors.UnknownNameError`, with the nearest names, and how to name the
    code of the user's where a file of that name is there.
    """
    try:
        return MODELS[name]
    except UnknownNameError as error:
        stem = name.removesuffix(".py")
        for file in (f"{stem}.py", f"{stem.rpartition('.')[0]}.py"):
            if expanded(file).is_file():
                raise UnknownNameError(
                    f"{name} is no model's name; for a network that {file} makes write "
                    f"{file}:CALLABLE"
                ) from None
        if name.endswith(".py"):
            raise UnknownNameError(f"there is no file {name}") from None
        raise UnknownNameError(f"{error} (all of them: dentbench fetch --list)") from None
