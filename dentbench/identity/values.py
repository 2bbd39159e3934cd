"""Write plain values as hashes; and the error for values without a stable writing."""

from __future__ import annotations

import hashlib
import io
import re
import zipfile
from typing import Any, Final

import torch
from torch import Tensor, nn

from dentbench.errors import ModelError

PLAIN: Final = (
    *(bool, int, float, complex, str, bytes, range, slice, type(None), type(...)),
    *(torch.dtype, torch.device, torch.Size, torch.memory_format, torch.layout),
)
"""Types whose values ``repr`` writes in full and always in the same way."""


def is_a(value: Any, kinds: Any) -> bool:
    """Return whether a value is of some types, also if it refuses to say its class."""
    try:
        return isinstance(value, kinds)
    except Exception:  # whatever a class of a user raises
        return issubclass(type(value), kinds)


def hash_of(*parts: str | bytes | memoryview) -> bytes:
    """Return the SHA-256 of several texts or bytes, each with its length."""
    whole = hashlib.sha256()
    for part in parts:
        data = part.encode(errors="surrogatepass") if isinstance(part, str) else part
        whole.update(f"{len(data)}:".encode())
        whole.update(data)
    return whole.digest()


def tensor_hash(value: Tensor) -> bytes:
    """Return the hash of a tensor: of its type, shape and contents."""
    if value.is_meta or isinstance(value, nn.parameter.UninitializedTensorMixin):  # type: ignore[attr-defined]
        return hash_of("tensor", str(value.dtype), str(value.device))
    if value.is_quantized:
        plain = value.detach().cpu()
        return hash_of("quantized", *_quantizer(plain), tensor_hash(plain.int_repr()))
    return hash_of("tensor", str(value.dtype), str(tuple(value.shape)), raw_bytes(value))


def raw_bytes(value: Tensor) -> memoryview:
    """Return the contents of a tensor, row after row, whatever its layout, strides and views.

    A quantized tensor has none: see :func:`tensor_hash`.
    """
    plain = value.detach().resolve_conj().resolve_neg().cpu()
    if plain.layout is not torch.strided:
        plain = plain.to_dense()
    flat = plain.contiguous().reshape(-1)
    if flat.stride() != (1,):  # a single number counts as contiguous whatever its stride
        flat = torch.empty(flat.shape, dtype=flat.dtype).copy_(flat)
    raw: Any = flat.view(torch.uint8).numpy()
    return memoryview(raw)


def _quantizer(value: Tensor) -> list[str | bytes]:
    """Return the scales and zero points of a quantized tensor."""
    if value.qscheme() == torch.per_tensor_affine:
        return [repr(value.q_scale()), repr(value.q_zero_point())]
    scales, zeros = value.q_per_channel_scales(), value.q_per_channel_zero_points()
    return [repr(value.q_per_channel_axis()), tensor_hash(scales), tensor_hash(zeros)]


def order_of(value: Any) -> tuple[str, str]:
    """Return the sort key of a member of a set or a key of a dictionary."""
    name = getattr(value, "__qualname__", "")
    return type(value).__qualname__, name or (repr(value) if type(value) in PLAIN else "")


_MANGLED: Final = r"\.?___torch_mangle_\d+"
"""The numbers that TorchScript puts into names, counting the networks of the process."""


def script_hash(module: Any) -> bytes:
    """Return the hash of a network or function in TorchScript by its graph and its file's contents.

    Where its source was, and how many others there were before, is left out.
    """
    graph = re.sub(_MANGLED, "", re.sub(r"#.*", "", str(module.inlined_graph)))
    file = io.BytesIO(module.save_to_buffer())
    parts: list[str | bytes] = []
    with zipfile.ZipFile(file) as archive:
        for name in sorted(archive.namelist()):
            if re.search(r"^[^/]*/(data|constants)(/|\.pkl)", name):
                parts += [name, re.sub(_MANGLED.encode(), b"", archive.read(name))]
    return hash_of("script", graph, *parts)


def unwritable(value: Any, where: str) -> ModelError:
    """Return the error for a value, at ``where``, that has no stable writing."""
    return ModelError(
        f"{where or 'it'} is a {type(value).__module__}.{type(value).__qualname__}, whose settings "
        "cannot be written down, so results with other settings would look the same; "
        "take it out, make it where it is used, or give its class a __getstate__ that returns its "
        "settings"
    )
