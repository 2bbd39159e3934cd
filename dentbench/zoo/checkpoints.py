"""Read checkpoint files safely: no file ever runs code; find the state dict in them.

Torch's ``weights_only`` unpickler with a short list of harmless classes, then rules (not cases) for
the ways in which checkpoints wrap a state dict.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import pickle
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from dentbench.errors import ModelError
from dentbench.zoo.file_kinds import (
    TORCH,
    ZIP_OF,
    is_plain_pickle,
    is_safetensors,
    kind_of,
)

StateDict = dict[str, Tensor]

WRAPPERS: Final = (
    *("state_dict", "model_state_dict", "model_state", "net", "model", "network", "last"),
    *("net_state_dict", "params", "weights", "parameters", "module", "classifier", "backbone"),
    *("ema", "ema_state_dict", "state_dict_ema", "params_ema", "model_ema"),
)
"""Keys under which checkpoints keep the state dict, in order of preference."""

SAVE: Final = (
    "save the weights alone where they were made: torch.save(model.state_dict(), FILE), or as "
    "safetensors"
)
"""Advice about a file that cannot be read."""


def _harmless() -> list[Any]:
    """Return the harmless classes: argparse's Namespace, NumPy's scalars and arrays."""
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
    """Return the content of a ``.pt``/``.pth`` or ``.safetensors`` file, tensors on the CPU.

    Nothing in the file is executed. Raises :class:`~dentbench.errors.ModelError` for a file that is
    missing, damaged, foreign, or asks for a class that is not on the list of harmless classes.
    """
    require_file(path)
    name = path.name.removesuffix(".part")
    try:
        if is_safetensors(path):
            from safetensors.torch import load_file

            return load_file(path)
        _refuse_compressed(path)
        with torch.serialization.safe_globals(_harmless()), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Detected pickle protocol")  # a plain pickle
            content = torch.load(path, map_location="cpu", weights_only=True)
        _refuse_undersized(content, path)
        return content
    except Exception as error:  # torch and zipfile raise many kinds for damaged files
        raise ModelError(f"{name} {_refused(path, error)}; {SAVE}") from error


def require_file(path: Path) -> None:
    """Raise :class:`~dentbench.errors.ModelError` where a path is no file."""
    if path.is_dir():
        files = sorted(file.name for file in path.iterdir() if file.is_file())
        held = f", such as {path / files[0]}" if files else ""
        raise ModelError(f"{path} is a folder; name the checkpoint file in it{held}")
    if not path.is_file():
        raise ModelError(f"there is no file {path}; name one with --model")


def _refused(path: Path, error: Exception) -> str:
    """Return the fault of a file that cannot be read, or must not be."""
    said = re.sub(r"\s+", " ", str(error)).strip()
    named = re.search(r"(?:GLOBAL|Unsupported class|global:?)\s+[`']?([\w]+(?:\.[\w]+)+)", said)
    if named:
        return (
            f"asks for {named[1]}, which a checkpoint of weights has no need for; it was refused "
            "and nothing in it was executed"
        )
    if is_safetensors(path):
        return "is a safetensors file that is damaged or cut off"
    if path.suffix.lower() == ".safetensors" and kind_of(path) == TORCH:
        return "is a file of torch.save, not of safetensors; call it .pt"
    kind, ours = kind_of(path), isinstance(error, ValueError | MemoryError)
    if kind and kind != TORCH and not (ours and kind.startswith(ZIP_OF)):
        return f"is not a checkpoint that can be read: it is {kind}"
    if isinstance(error, pickle.UnpicklingError) and is_plain_pickle(path):
        return "is a plain pickle, not a file of torch.save, and was not unpickled"
    if isinstance(error, pickle.UnpicklingError):
        return (
            "is damaged or asks for code, which a checkpoint of weights has no need for; it was "
            "refused and nothing in it was executed"
        )
    words = f" ({said[:160]})" if ours else ""
    return f"is not a checkpoint that can be read{words}"


def _refuse_compressed(path: Path) -> None:
    """Torch stores tensors uncompressed; a compressed member is foreign and may be a bomb."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
                raise ValueError("its members are compressed, which torch never does")


def _refuse_undersized(content: object, path: Path) -> None:
    """Refuse storages that declare more bytes than the file has, before any of them is read.

    Recent versions of torch refuse them on loading; older ones hand out memory that is not theirs.
    """
    storages = {
        storage.data_ptr(): storage.nbytes()
        for storage in (tensor.untyped_storage() for tensor in _tensors(content))
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
        and all(isinstance(item, Tensor | np.ndarray) for item in value.values())
    )


def state_dict_of(checkpoint: Any, name: str, wrappers: Sequence[str] = WRAPPERS) -> StateDict:
    """Return the state dict in a checkpoint: itself, or the value under a usual key, at any depth.

    Raises :class:`~dentbench.errors.ModelError` where there is none.
    """
    seen = checkpoint
    for _ in range(4):
        if _is_state(seen):
            return {name: torch.as_tensor(item) for name, item in seen.items()}
        inner = _unwrap(seen, wrappers)
        if inner is None:
            break
        seen = inner
    raise ModelError(f"{name} {_no_state(seen)}; {SAVE}")


def _no_state(value: object) -> str:
    """Describe the content of a value that holds no state dict, or several state dicts."""
    if not isinstance(value, Mapping):
        return f"holds no state dict but a {type(value).__name__}"
    states = [str(key) for key, item in value.items() if _holds_state(item)]
    if len(states) > 1:
        return f"holds several state dicts, and none has a usual name: {', '.join(states)}"
    held = ", ".join(map(str, list(value)[:6]))
    return f"holds no state dict but a {type(value).__name__}" + (f" with {held}" if held else "")


def _holds_state(value: object, depth: int = 3) -> bool:
    """Return whether a value is a state dict, or mappings down to some depth hold one."""
    if _is_state(value):
        return True
    below = value.values() if isinstance(value, Mapping) and depth else ()
    return any(_holds_state(item, depth - 1) for item in below)


def _unwrap(value: object, wrappers: Sequence[str]) -> object | None:
    if not isinstance(value, Mapping):
        return None
    for key in wrappers:
        if isinstance(value.get(key), Mapping):
            inner: object = value[key]
            return inner
    for holds in (_is_state, _holds_state):
        states = [item for item in value.values() if holds(item)]
        if len(states) == 1:  # under whatever name
            state: object = states[0]
            return state
    # Some state dicts keep a stray setting beside their tensors.
    tensors = {key: item for key, item in value.items() if isinstance(item, Tensor)}
    return tensors if tensors and len(tensors) * 2 > len(value) else None
