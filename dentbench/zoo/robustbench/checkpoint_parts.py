"""RobustBench's checkpoints and the parts of a network that each of them fills."""

from __future__ import annotations

import contextlib
import importlib
from pathlib import Path
from typing import Any, Final

from torch import nn

from dentbench.zoo.cards.model_cards import ModelCard
from dentbench.zoo.checkpoints import StateDict, read_checkpoint, state_dict_of
from dentbench.zoo.weights import load_state

# Ensembles: for each checkpoint file, the part of the network and the key of its state dict.
_PARTS: Final = {
    "Bai2023Improving": (
        (("comp_model.models.0", None),),
        (("comp_model.models.1", None),),
        (("comp_model.policy_net", "model"), ("comp_model.bn", "bn")),
    ),
    "Bai2024MixedNUTS": ((("std_model", None),), (("rob_model", None),)),
}

# Checkpoints that hold several states; RobustBench's choice among them.
_CHOSEN_STATE: Final = {"Andriushchenko2020Understanding": "last"}

# Checkpoints that RobustBench loads although they hold more than the network has places for.
_SURPLUS: Final = frozenset(
    {
        "Andriushchenko2020Understanding",
        "Augustin2020Adversarial",
        "Augustin2020Adversarial_34_10",
        "Augustin2020Adversarial_34_10_extra",
        "Bai2024MixedNUTS",
        "Chen2020Efficient",
        "Engstrom2019Robustness",
        "Huang2022Revisiting_WRN-A4",
        "Pang2020Boosting",
        "Rice2020Overfitting",
        "Rony2019Decoupling",
        "Wong2020Fast",
        "Wu2020Adversarial",
    }
)


def load_part(network: nn.Module, card: ModelCard, index: int, path: Path) -> None:
    """Load checkpoint number ``index`` into the part of the network that it belongs to."""
    checkpoint = read_checkpoint(path)
    name = f"the checkpoint of {card.id}"
    for part, key in _parts(card, index):
        target = network.get_submodule(part)
        chosen = checkpoint[key] if key is not None and key in checkpoint else checkpoint
        state = _restructured(card, state_dict_of(chosen, name), target)
        load_state(target, state, name, surplus_allowed=card.source_id in _SURPLUS)


def _parts(card: ModelCard, index: int) -> tuple[tuple[str, str | None], ...]:
    """The (submodule, key) pairs that a model's checkpoint number ``index`` fills."""
    for prefix, parts in _PARTS.items():
        if card.source_id.startswith(prefix):
            return parts[index]
    if len(card.weights) > 1:
        return ((f"models.{index}", None),)
    return (("", _CHOSEN_STATE.get(card.source_id)),)


def _restructured(card: ModelCard, state: StateDict, network: nn.Module) -> StateDict:
    """Old timm names of Swin transformers in today's; every other state dict as it is."""
    if card.dataset != "imagenet" or "Swin" not in card.architecture:
        return state
    inner: Any = getattr(network, "model", network)
    with contextlib.suppress(ImportError, AttributeError, KeyError, RuntimeError):
        swin = importlib.import_module("timm.models.swin_transformer")
        renamed: StateDict = swin.checkpoint_filter_fn(dict(state), inner)
        return renamed
    return state
