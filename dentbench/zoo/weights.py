"""Checkpoints read safely: no file ever runs code, and what does not fit is named.

Torch's ``weights_only`` unpickler with a short list of harmless classes, then rules (not cases) for
the ways in which checkpoints wrap and prefix a state dict.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import importlib.util
import pickle
import re
import zipfile
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from dentbench.errors import ModelError
from dentbench.identity.fingerprint import fingerprint

StateDict = dict[str, Tensor]

WRAPPERS: Final = (
    *("state_dict", "model_state_dict", "model_state", "net", "model", "network", "last"),
    *("net_state_dict", "params", "weights", "parameters", "module", "classifier", "backbone"),
    *("ema", "ema_state_dict", "state_dict_ema", "params_ema", "model_ema"),
)
"""Keys under which checkpoints keep the state dict beside other things, in order of preference."""

CONSTANTS: Final = frozenset({"mu", "sigma", "mean", "std", "new_mean", "new_std"})
"""Last parts of the names of normalization constants, which the network's constructor sets."""

_COUNTERS: Final = frozenset(
    {"total_ops", "total_params", "n_averaged", "num_updates", "num_averaged", "decay"}
)
"""Last parts of the names of numbers that profilers and averages of weights leave behind."""

_MANY: Final = 0.25
"""The least share of the names that begin with what is taken for a prefix of them."""


SAVE: Final = (
    "save the weights alone where they were made: torch.save(model.state_dict(), FILE), or as "
    "safetensors"
)
"""What to do about a file that cannot be read."""


def _harmless() -> list[Any]:
    """What checkpoints hold beside tensors: argparse's Namespace, NumPy's scalars and arrays."""
    import numpy as np

    new = importlib.util.find_spec("numpy._core") is not None  # since NumPy 2
    core = importlib.import_module("numpy._core.multiarray" if new else "numpy.core.multiarray")
    scalars = (np.float64, np.float32, np.int64, np.int32, np.bool_)
    return [
        argparse.Namespace,
        np.dtype,
        *(type(np.dtype(scalar)) for scalar in scalars),
        (core.scalar, "numpy.core.multiarray.scalar"),
        (core.scalar, "numpy._core.multiarray.scalar"),
        np.ndarray,
        (core._reconstruct, "numpy.core.multiarray._reconstruct"),
        (core._reconstruct, "numpy._core.multiarray._reconstruct"),
    ]


def read_checkpoint(path: Path) -> Any:
    """Return what a ``.pt``/``.pth`` or ``.safetensors`` file holds, tensors on the CPU.

    Nothing in the file is executed. Raises :class:`~dentbench.errors.ModelError` for a file that is
    missing, damaged, foreign, or asks for a class that is not on the list of harmless ones.
    """
    if not path.is_file():
        raise ModelError(f"there is no file {path}")
    name = path.name.removesuffix(".part")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        _refuse_compressed(path)
        with torch.serialization.safe_globals(_harmless()):
            found = torch.load(path, map_location="cpu", weights_only=True)
        _refuse_undersized(found, path)
        return found
    except pickle.UnpicklingError as error:
        raise ModelError(_refused(name, str(error))) from error
    except Exception as error:  # torch and zipfile raise many kinds for damaged files
        words = re.sub(r"\s+", " ", str(error)).strip()[:160] or type(error).__name__
        raise ModelError(
            f"{name} is not a checkpoint that can be read ({words}); {SAVE}"
        ) from error


def _refused(name: str, said: str) -> str:
    """Return what to say of a file that torch's safe unpickler refuses with some words."""
    named = re.search(r"(?:GLOBAL|Unsupported class|global:?)\s+[`']?([\w]+(?:\.[\w]+)+)", said)
    what = f"asks for {named[1]}" if named else "is damaged or asks for code"
    return (
        f"{name} {what}, which a checkpoint of weights has no need for; it was refused and nothing "
        f"in it was executed; {SAVE}"
    )


def _refuse_compressed(path: Path) -> None:
    """Torch stores tensors uncompressed; a compressed member is foreign and may be a bomb."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
                raise ValueError("its members are compressed, which torch never does")


def _refuse_undersized(found: object, path: Path) -> None:
    """Refuse storages that declare more bytes than the file has, before any of them is read.

    Recent versions of torch refuse them on loading; older ones hand out memory that is not theirs.
    """
    storages = {
        storage.data_ptr(): storage.nbytes()
        for storage in (tensor.untyped_storage() for tensor in _tensors(found))
    }
    size = path.stat().st_size
    if sum(storages.values()) > size:
        raise ValueError(f"it declares {sum(storages.values()):,} bytes of tensors in {size:,}")


def _tensors(value: object) -> Iterator[Tensor]:
    """Yield every tensor in nested mappings and sequences, each container once."""
    waiting, seen = [value], set()
    while waiting:
        held = waiting.pop()
        if isinstance(held, Tensor):
            yield held
        elif isinstance(held, Mapping | list | tuple) and id(held) not in seen:
            seen.add(id(held))
            waiting += held.values() if isinstance(held, Mapping) else held


def _is_state(value: object) -> bool:
    return (
        isinstance(value, Mapping)
        and len(value) > 0
        and all(isinstance(key, str) for key in value)
        and all(isinstance(item, Tensor) for item in value.values())
    )


def state_dict_of(checkpoint: Any, name: str, wrappers: Sequence[str] = WRAPPERS) -> StateDict:
    """Return the state dict in a checkpoint: itself, or what a known key wraps, at any depth.

    Raises :class:`~dentbench.errors.ModelError` where there is none.
    """
    seen = checkpoint
    for _ in range(4):
        if _is_state(seen):
            return dict(seen)
        inner = _unwrap(seen, wrappers)
        if inner is None:
            break
        seen = inner
    held = ", ".join(map(str, list(checkpoint)[:6])) if isinstance(checkpoint, Mapping) else ""
    raise ModelError(
        f"{name} holds no state dict; found {type(checkpoint).__name__}"
        + (f" with {held}" if held else "")
    )


def _unwrap(value: object, wrappers: Sequence[str]) -> object | None:
    if not isinstance(value, Mapping):
        return None
    for key in wrappers:
        if isinstance(value.get(key), Mapping):
            inner: object = value[key]
            return inner
    states = [item for item in value.values() if _is_state(item)]
    if len(states) == 1:  # under whatever name
        state: object = states[0]
        return state
    # Some state dicts keep a stray setting beside their tensors.
    tensors = {key: item for key, item in value.items() if isinstance(item, Tensor)}
    return tensors if tensors and len(tensors) * 2 > len(value) else None


def fit_names(state: StateDict, wanted: Collection[str]) -> StateDict:
    """Return the state dict under the prefix rule that makes most of its names wanted ones.

    One prefix is removed from the names that have it ("module.", "model.", "net.", "backbone.",
    "attacker.model." or any other), or one of the wanted names' is put in front of all. The first
    of the best wins, which is the names as they are. Counters of profilers and averages go, and so
    do tensors that the chosen names have already, under another prefix.
    """
    state = {
        name: tensor
        for name, tensor in state.items()
        if name in wanted or name.rpartition(".")[2] not in _COUNTERS
    }
    candidates = [
        {f"{front}{name}": tensor for name, tensor in named.items()}
        for named in (_without(state, prefix) for prefix in ("", *_prefixes(state)))
        for front in ("", *_prefixes(wanted))
    ]
    return max(candidates, key=lambda named: len(named.keys() & wanted))


def _prefixes(names: Collection[str]) -> list[str]:
    """Return the prefixes that many of some names have, shorter ones first."""
    found: Counter[str] = Counter()
    for name in names:
        parts = name.split(".")[:-1]
        found.update(".".join(parts[:count]) + "." for count in range(1, len(parts) + 1))
    usual = [one for one, count in found.items() if count >= _MANY * len(names)]
    return sorted(usual, key=lambda one: one.count("."))


def _without(state: StateDict, prefix: str) -> StateDict:
    """Return the tensors with a prefix, without it, and the others that are no second copy."""
    inside = {name[len(prefix) :]: one for name, one in state.items() if name.startswith(prefix)}
    if not prefix:
        return inside
    others = {name: one for name, one in state.items() if not name.startswith(prefix)}
    return inside | {name: one for name, one in others.items() if not _is_copy(name, one, inside)}


def _is_copy(name: str, tensor: Tensor, others: StateDict) -> bool:
    """Return whether a tensor is among others under the end of its name, with equal values."""
    parts = name.split(".")
    ends = (".".join(parts[count:]) for count in range(len(parts)))
    return any(end in others and _equal(tensor, others[end]) for end in ends)


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one, other)


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
    constants = [key for key in unexpected if key.rpartition(".")[2] in CONSTANTS]
    if constants_elsewhere:
        unexpected = [key for key in unexpected if key not in constants]
    if surplus_allowed:
        unexpected = []
    problems = [
        f"{len(keys)} {what} ({_some(keys)})"
        for what, keys in (("missing", missing), ("unexpected", unexpected))
        if keys
    ]
    if problems:
        text = f"{name} does not fit the network: {', '.join(problems)}"
        if unexpected and unexpected == constants:
            text += "; give the normalization with --normalize MEAN STD"
        raise ModelError(text)


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
                f"the model's {key} has no size yet, for its layer is a lazy one that has seen no "
                "image; show it one before it is handed in, or name the sizes"
            )
        if isinstance(tensor, Tensor) and tensor.is_meta:
            raise ModelError(
                f"the model's {key} is on the meta device, without values; make the model on the "
                "cpu, or load its weights before it is handed in"
            )


def weights_sha256(network: nn.Module) -> str:
    """Return the SHA-256 of a network's state dict: names, types, shapes and bytes, by name.

    What a layer keeps there beside tensors (``get_extra_state``) counts by its fingerprint. Raises
    :class:`~dentbench.errors.ModelError` for tensors without values.
    """
    require_values(network)
    total = hashlib.sha256()
    for key, tensor in sorted(network.state_dict().items()):
        if not isinstance(tensor, Tensor):
            total.update(f"{key} {fingerprint(tensor)}\n".encode())
            continue
        total.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        raw: Any = flat.view(torch.uint8).numpy()
        total.update(memoryview(raw))
    return total.hexdigest()
