"""Load a state dict into a network, whatever its prefixes; name misfits; hash weights."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from dentbench.errors import ModelError
from dentbench.identity.fingerprint import fingerprint
from dentbench.identity.values import raw_bytes, tensor_hash
from dentbench.zoo.checkpoints import StateDict

CONSTANTS: Final = frozenset({"mu", "sigma", "mean", "std", "new_mean", "new_std"})
"""Last parts of the names of normalization constants, which the network's constructor sets."""

_COUNTERS: Final = frozenset(
    {"total_ops", "total_params", "n_averaged", "num_updates", "num_averaged", "decay"}
    | {"step", "steps", "global_step", "epoch", "ema_decay", "initted"}
)
"""Last parts of the names of numbers that profilers and averages of weights leave behind."""

_OF_TRAINING: Final = re.compile(
    r"(criterion|loss|loss_\w+|\w+_loss|(\w+_)?(acc|accuracy|metrics?))\."
)
"""The beginnings of the names of losses and counts of correct images that Lightning keeps."""

_MANY: Final = 0.25
"""The least share of the names that begin with a prefix for it to be taken off."""


def fit_names(state: StateDict, wanted: Collection[str]) -> StateDict:
    """Return the state dict under the prefix rule that makes most of its names wanted names.

    One prefix is removed from the names that have it ("module.", "model.", "net.", "backbone.",
    "attacker.model." or any other), or a prefix of the wanted names is put in front of all. Of the
    best the first wins: the names as they are. Counters of profilers and averages and leftovers of
    the training are dropped, and so are tensors that the chosen names have already, under another
    prefix. A wanted name that is still missing is that of the only tensor whose name ends in it: a
    network may be in two parts, such as "backbone." and "head.".
    """
    state = {
        name: tensor
        for name, tensor in state.items()
        if name in wanted or not (name.rpartition(".")[2] in _COUNTERS or _OF_TRAINING.match(name))
    }
    candidates = [
        {f"{front}{name}": tensor for name, tensor in named.items()}
        for named in (_without(state, prefix) for prefix in ("", *_prefixes(state)))
        for front in ("", *_prefixes(wanted))
    ]
    best = max(candidates, key=lambda named: len(named.keys() & wanted))
    missing = [name for name in wanted if name not in best]
    for name in missing:
        ends = [known for known in best if known not in wanted and known.endswith(f".{name}")]
        if len(ends) == 1:
            best[name] = best.pop(ends[0])
    return best


def _prefixes(names: Collection[str]) -> list[str]:
    """Return the prefixes that many of some names have, shorter ones first."""
    prefixes: Counter[str] = Counter()
    for name in names:
        parts = name.split(".")[:-1]
        prefixes.update(".".join(parts[:count]) + "." for count in range(1, len(parts) + 1))
    usual = [prefix for prefix, count in prefixes.items() if count >= _MANY * len(names)]
    return sorted(usual, key=lambda prefix: prefix.count("."))


def _without(state: StateDict, prefix: str) -> StateDict:
    """Return the tensors with a prefix, without it, and the others that are no second copy."""
    inside = {
        name[len(prefix) :]: tensor for name, tensor in state.items() if name.startswith(prefix)
    }
    if not prefix:
        return inside
    others = {name: tensor for name, tensor in state.items() if not name.startswith(prefix)}
    return inside | {
        name: tensor for name, tensor in others.items() if not _is_copy(name, tensor, inside)
    }


def _is_copy(name: str, tensor: Tensor, others: StateDict) -> bool:
    """Return whether a tensor is among others under the end of its name, with equal values."""
    parts = name.split(".")
    ends = (".".join(parts[count:]) for count in range(len(parts)))
    return any(end in others and _equal(tensor, others[end]) for end in ends)


def _equal(left: Tensor, right: Tensor) -> bool:
    return left.shape == right.shape and torch.equal(left, right)


def load_state(
    network: nn.Module,
    state: StateDict,
    name: str,
    *,
    constants_may_lack: bool = True,
    constants_elsewhere: bool = False,
    surplus_allowed: bool = False,
) -> None:
    """Load a state dict into a network, naming whatever does not fit.

    Normalization constants may be missing (the constructor sets them); ``constants_elsewhere``:
    those that the network has no place for are in front of it. ``surplus_allowed`` accepts any
    tensors that it has no place for. Raises :class:`~dentbench.errors.ModelError` for
    missing or unexpected names, other shapes, weights that are not floating-point or not finite.
    """
    own = network.state_dict()
    state = fit_names(state, own.keys())
    _refuse_shapes(state, own, name)
    _refuse_values(state, own, name)
    try:
        missing, unexpected = network.load_state_dict(state, strict=False)
    except RuntimeError as error:
        reason = re.sub(r"\s+", " ", str(error)).strip()
        raise ModelError(f"{name} does not fit the network ({reason})") from error
    missing = [key for key in missing if not key.endswith("_extra_state")]
    if constants_may_lack:
        missing = [key for key in missing if key.rpartition(".")[2] not in CONSTANTS]
    constants = {key: state[key] for key in unexpected if key.rpartition(".")[2] in CONSTANTS}
    if constants_elsewhere:
        unexpected = [key for key in unexpected if key not in constants]
    if surplus_allowed:
        unexpected = []
    _refuse_names(missing, unexpected, constants, name)


def _refuse_names(
    missing: Sequence[str], unexpected: Sequence[str], constants: StateDict, name: str
) -> None:
    """Refuse tensors that the network lacks, or that the file does; ``constants``: to normalize."""
    kinds = (("missing", missing), ("unexpected", unexpected))
    problems = [f"{len(keys)} {kind} ({_some(keys)})" for kind, keys in kinds if keys]
    if problems:
        text = f"{name} does not fit the network: {', '.join(problems)}"
        if unexpected and unexpected == [*constants]:
            text += f"; give the normalization with --normalize {_normalization(constants)}"
        else:
            text += "; name the network that was trained, by --arch, or save its weights alone"
        raise ModelError(text)


def _normalization(constants: StateDict) -> str:
    """Return mean and standard deviation as --normalize takes them; words where not both are."""
    numbers = [
        ",".join(f"{float(value):.8g}" for value in tensor.flatten())
        for kinds in (("mean", "mu", "new_mean"), ("std", "sigma", "new_std"))
        for tensor in [*(constants[key] for key in constants if key.rpartition(".")[2] in kinds)][
            :1
        ]
    ]
    return " ".join(numbers) if len(numbers) == 2 else "MEAN STD"


def _some(names: Iterable[str], limit: int = 4) -> str:
    listed = list(names)
    return ", ".join(listed[:limit]) + (", ..." if len(listed) > limit else "")


def _refuse_shapes(state: StateDict, own: Mapping[str, Tensor], name: str) -> None:
    """Refuse other shapes before any value is looked at: a shape can be huge and its file tiny."""
    wrong = [
        f"{key} of shape {tuple(tensor.shape)}, not {tuple(own[key].shape)}"
        for key, tensor in state.items()
        if key in own
        and not is_lazy(own[key])
        and tensor.shape != own[key].shape
        and not (own[key].ndim == 0 and tensor.shape == (1,))  # as torch 0.3 saved single numbers
    ]
    if wrong:
        raise ModelError(f"{name} does not fit the network: it has {_some(wrong, 3)}")


def is_lazy(tensor: object) -> bool:
    """Return whether a parameter or buffer is that of a lazy layer that has seen no image."""
    return isinstance(tensor, UninitializedParameter | UninitializedBuffer)


def _refuse_values(state: StateDict, own: Mapping[str, Tensor], name: str) -> None:
    for key, tensor in state.items():
        if key not in own:
            continue
        if tensor.is_floating_point() != own[key].is_floating_point():
            raise ModelError(f"{name} has {key} as {tensor.dtype}, not {own[key].dtype}")
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ModelError(f"{name} has values in {key} that are not finite")


def require_values(network: nn.Module) -> None:
    """Raise :class:`~dentbench.errors.ModelError` for a network with tensors without values."""
    for key, tensor in network.state_dict().items():
        if is_lazy(tensor):
            raise ModelError(
                f"the model's {key} has no size yet, for its layer is lazy and has seen no "
                "image; show it an image before it is handed in, or name the sizes"
            )
        if isinstance(tensor, Tensor) and tensor.is_meta:
            raise ModelError(
                f"the model's {key} is on the meta device, without values; make the model on the "
                "cpu, or load its weights before it is handed in"
            )


def weights_sha256(network: nn.Module) -> str:
    """Return the SHA-256 of a network's state dict: names, types, shapes and bytes, by name.

    Extra state of a layer beside tensors (``get_extra_state``) counts by its fingerprint. Raises
    :class:`~dentbench.errors.ModelError` for tensors without values.
    """
    require_values(network)
    total = hashlib.sha256()
    for key, tensor in sorted(network.state_dict().items()):
        if not isinstance(tensor, Tensor):
            total.update(f"{key} {fingerprint(tensor)}\n".encode())
            continue
        total.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        total.update(tensor_hash(tensor) if tensor.is_quantized else raw_bytes(tensor))
    return total.hexdigest()


def told_by_state(network: nn.Module) -> list[str]:
    """Return the names of tensors that a network's state dict has as they are.

    A state dict of its own, as of averages, may hold others than the network computes with.
    """
    own: dict[str, Tensor] = {}
    own.update(network.named_parameters(remove_duplicate=False))
    own.update(network.named_buffers(remove_duplicate=False))
    return [
        name
        for name, value in network.state_dict().items()
        if isinstance(value, Tensor) and name in own and _is_same(value, own[name])
    ]


def _is_same(ours: Tensor, theirs: Tensor) -> bool:
    try:
        same = ours.data_ptr() == theirs.data_ptr() and ours.stride() == theirs.stride()
        return same and ours.shape == theirs.shape and ours.dtype == theirs.dtype
    except RuntimeError:  # of a kind that has no memory of its own
        return False
