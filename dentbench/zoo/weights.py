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
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from dentbench.errors import ModelError

StateDict = dict[str, Tensor]

WRAPPERS: Final = ("state_dict", "model_state_dict", "net", "model", "last", "ema", "network")
"""Keys under which checkpoints keep the state dict beside other things, in order of preference."""

CONSTANTS: Final = frozenset({"mu", "sigma", "mean", "std"})
"""Last parts of the names of normalization constants, which the network's constructor sets."""

_PREFIXES: Final = ("module.", "model.", "_orig_mod.")


def _harmless() -> list[Any]:
    """Classes that old checkpoints hold beside tensors: argparse's Namespace, NumPy's scalars."""
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
        named = re.search(r"(?:GLOBAL|Unsupported global:?)\s+`?([\w.]+)`?", str(error))
        what = f"asks for {named[1]}" if named else "is damaged or asks for code"
        raise ModelError(
            f"{name} {what}, which a checkpoint of weights has no need for; "
            "it was refused and nothing in it was executed"
        ) from error
    except Exception as error:  # torch and zipfile raise many kinds for damaged files
        words = re.sub(r"\s+", " ", str(error)).strip()[:160] or type(error).__name__
        raise ModelError(f"{name} is not a checkpoint that can be read ({words})") from error


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
    # Some state dicts keep a stray setting beside their tensors.
    tensors = {key: item for key, item in value.items() if isinstance(item, Tensor)}
    return tensors if tensors and len(tensors) * 2 > len(value) else None


def fit_names(state: StateDict, wanted: Collection[str]) -> StateDict:
    """Return the state dict under the prefix rule that makes most of its names wanted ones.

    Rules: the names as they are; leading ``module.``, ``model.`` and ``_orig_mod.`` removed;
    ``model.`` put in front after that. The first of the best wins.
    """
    plain = {_bare(name): tensor for name, tensor in state.items()}
    unwrapped = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    inside = {f"model.{name}": tensor for name, tensor in plain.items()}
    candidates = [state, unwrapped, plain, inside]
    return max(candidates, key=lambda named: len(named.keys() & wanted))


def _bare(name: str) -> str:
    for _ in range(4):
        for prefix in _PREFIXES:
            name = name.removeprefix(prefix)
    return name


def load_state(
    network: nn.Module,
    state: StateDict,
    name: str,
    *,
    constants_may_lack: bool = True,
    surplus_allowed: bool = False,
) -> None:
    """Load a state dict into a network, naming whatever does not fit.

    Normalization constants may be missing (the constructor sets them); ``surplus_allowed`` accepts
    tensors that the network has no place for. Raises :class:`~dentbench.errors.ModelError` for
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
    if constants_may_lack:
        missing = [key for key in missing if key.rpartition(".")[2] not in CONSTANTS]
    if surplus_allowed:
        unexpected = []
    problems = [
        f"{len(keys)} {what} ({_some(keys)})"
        for what, keys in (("missing", missing), ("unexpected", unexpected))
        if keys
    ]
    if problems:
        raise ModelError(f"{name} does not fit the network: {', '.join(problems)}")


def _some(names: Iterable[str], limit: int = 4) -> str:
    listed = list(names)
    return ", ".join(listed[:limit]) + (", ..." if len(listed) > limit else "")


def _refuse_shapes(state: StateDict, own: Mapping[str, Tensor], name: str) -> None:
    """Refuse other shapes before any value is looked at: a shape can be huge and its file tiny."""
    wrong = [
        f"{key} of shape {tuple(tensor.shape)}, not {tuple(own[key].shape)}"
        for key, tensor in state.items()
        if key in own
        and tensor.shape != own[key].shape
        and not (own[key].ndim == 0 and tensor.shape == (1,))  # as torch 0.3 saved single numbers
    ]
    if wrong:
        raise ModelError(f"{name} does not fit the network: it has {_some(wrong, 3)}")


def _refuse_values(state: StateDict, own: Mapping[str, Tensor], name: str) -> None:
    for key, tensor in state.items():
        if key not in own:
            continue
        if tensor.is_floating_point() != own[key].is_floating_point():
            raise ModelError(f"{name} has {key} as {tensor.dtype}, not {own[key].dtype}")
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ModelError(f"{name} has values in {key} that are not finite")


def weights_sha256(network: nn.Module) -> str:
    """Return the SHA-256 of a network's state dict: names, types, shapes and bytes, by name."""
    total = hashlib.sha256()
    for key, tensor in sorted(network.state_dict().items()):
        total.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        total.update(memoryview(flat.view(torch.uint8).numpy()))
    return total.hexdigest()
