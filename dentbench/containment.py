"""Keep code of a user from changing or ending the process: settings, output, ``sys.exit``."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

from dentbench.errors import UserExitError


@contextlib.contextmanager
def contained() -> Iterator[None]:
    """Run code of a user as :func:`staying` does; its printed text goes to standard error.

    Settings of the whole process that it changes are set back: the working folder, filters of
    warnings, the handler of Ctrl-C, and torch's gradient mode, default type and device, anomaly
    detection, deterministic algorithms, count of threads and arithmetic of GPUs.
    """
    with contextlib.redirect_stdout(sys.stderr), staying(), settings_kept():
        yield


@contextlib.contextmanager
def staying() -> Iterator[None]:
    """Turn ``sys.exit`` in code of a user into :class:`UserExitError`."""
    try:
        yield
    except SystemExit as stopped:
        code = "" if stopped.code is None else repr(stopped.code)
        raise UserExitError(
            f"code of the model, the defense or the attack ends the process by sys.exit({code})"
        ) from stopped


@contextlib.contextmanager
def settings_kept() -> Iterator[None]:
    """Set back the settings of the whole process that the block changes."""
    folder, filters = os.getcwd(), warnings.filters[:]  # noqa: PTH109 (a text is enough)
    stop = signal.getsignal(signal.SIGINT)
    before = _torch_settings(_TORCH)
    try:
        yield
    finally:
        os.chdir(folder)
        warnings.filters[:] = filters  # type: ignore[index]  # it is a list
        if signal.getsignal(signal.SIGINT) is not stop and stop is not None:
            with contextlib.suppress(ValueError):  # in another thread than the main thread
                signal.signal(signal.SIGINT, stop)
        _set_torch_back(before, _TORCH)


@contextlib.contextmanager
def torch_settings_kept() -> Iterator[None]:
    """Set back the settings of torch that code of a user changes while it answers.

    Gradient mode, default type, anomaly detection, deterministic algorithms and the number of
    threads; the other settings take longer to ask for than a short answer.
    """
    before = _torch_settings(_QUICK)
    try:
        yield
    finally:
        _set_torch_back(before, _QUICK)


def own_copy(images: Any) -> Any:
    """Return a copy of a tensor for code of a user, which may write into it."""
    copy = images.clone()
    copy.copied_from = images
    return copy


def original(copy: Any) -> Any:
    """Return the tensor of which :func:`own_copy` made a copy; any other is its own original.

    So is a copy that was written into.
    """
    return copy if copy._version else getattr(copy, "copied_from", copy)


_AS_TORCH_BEGINS: Final[dict[str, Any]] = {
    "gradients": True,
    "anomaly": False,
    "deterministic": False,
}
"""Torch's settings where code of a user is the first to import it."""

_TORCH: Final[dict[str, tuple[Callable[[Any], Any], Callable[[Any, Any], None]]]] = {
    "gradients": (
        lambda torch: torch.is_grad_enabled(),
        lambda torch, value: torch._C._set_grad_enabled(value),
    ),
    "dtype": (
        lambda torch: torch.get_default_dtype(),
        lambda torch, value: torch.set_default_dtype(value),
    ),
    "anomaly": (
        lambda torch: torch.is_anomaly_enabled(),
        lambda torch, value: torch.autograd.set_detect_anomaly(value),
    ),
    "deterministic": (
        lambda torch: torch.are_deterministic_algorithms_enabled(),
        lambda torch, value: torch.use_deterministic_algorithms(value),
    ),
    "threads": (
        lambda torch: torch.get_num_threads(),
        lambda torch, value: torch.set_num_threads(value),
    ),
    "device": (
        lambda torch: torch.get_default_device(),
        lambda torch, value: torch.set_default_device(value),
    ),
    "arithmetic": (
        lambda torch: _arithmetic(torch.backends),
        lambda torch, value: _set_arithmetic(torch.backends, value),
    ),
}
"""How each of torch's settings for the whole process is read, and how it is set."""

_QUICK: Final = ("gradients", "dtype", "anomaly", "deterministic", "threads")
"""The settings that are read at once."""


def _torch_settings(names: Iterable[str]) -> dict[str, Any]:
    """Return settings of torch by name; none where it is not imported."""
    torch: Any = sys.modules.get("torch")
    if not hasattr(torch, "use_deterministic_algorithms"):  # not, or not wholly, imported
        return {}
    return {name: _TORCH[name][0](torch) for name in names}


def _set_torch_back(before: Mapping[str, Any], names: Iterable[str]) -> None:
    for name, value in _torch_settings(names).items():
        was = before.get(name, _AS_TORCH_BEGINS.get(name, value))
        if value != was:
            _TORCH[name][1](sys.modules["torch"], was)


def _arithmetic(backends: Any) -> tuple[bool, bool, bool]:
    cudnn, matmul = backends.cudnn, backends.cuda.matmul
    return cudnn.allow_tf32, matmul.allow_tf32, cudnn.deterministic


def _set_arithmetic(backends: Any, value: tuple[bool, bool, bool]) -> None:
    backends.cudnn.allow_tf32, backends.cuda.matmul.allow_tf32 = value[:2]
    backends.cudnn.deterministic = value[2]
