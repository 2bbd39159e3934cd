"""Ask a network and a defense once, on two images, for all that an attack will ask for.

That is an answer, a gradient, and an adaptation with its update. A failure is reported in one
sentence now, not after hours in the words of a library.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import Tensor, nn

from dentbench.adapt.adaptation import divergence
from dentbench.adapt.dent import Dent
from dentbench.attacks.base import Classifier, answered
from dentbench.compute.backend import in_eval_mode
from dentbench.containment import torch_settings_kept
from dentbench.errors import DentBenchError, ModelError, first_line
from dentbench.evaluation.memory.out_of_memory import is_out_of_memory
from dentbench.spec.dent import ALTERNATIVES

FEW: Final = 2
"""The number of images on which a network and a defense are tried."""


def require_network(network: nn.Module, images: Tensor, device: str = "cpu") -> nn.Module:
    """Return a copy on ``device``; raise ModelError for a network that attacks could not use.

    ``images`` (N, C, H, W) in [0, 1]. The copy is asked about two images and about one alone, for
    attacks go on with the images that are left, with and without gradients. Where there is no
    memory for two images it is asked about a single image.
    """
    images = images[:FEW].to(device)
    try:
        tried = copy.deepcopy(network)
    except Exception as error:  # a network may raise anything
        raise ModelError(f"the model cannot be copied: {first_line(error)}") from error
    tried.to(device)
    in_eval_mode(tried)

    def ask(images: Tensor) -> None:
        few = images.clone()
        whole = logits_of(tried, few)
        _require_images_kept(few, images)
        logits_of(tried, few[:1], classes=whole.shape[1])
        with torch.enable_grad():
            logits_of(tried, few.clone(), classes=whole.shape[1])

    with _as_before(images):
        _with_room(ask, images)
    return tried


def _with_room(ask: Callable[[Tensor], None], images: Tensor) -> None:
    """Ask about images, or about the first alone where there is no room for all of them.

    Where the evaluation shows more at a time, it cuts the batch, or reports the memory needed.
    """
    try:
        ask(images)
    except Exception as error:  # that of a CPU's allocator is a plain RuntimeError
        if not is_out_of_memory(error) or len(images) == 1:
            raise
    else:
        return
    # Out here, where the error no longer holds the tensors that filled the memory.
    ask(images[:1])


def logits_of(network: Classifier, images: Tensor, *, classes: int | None = None) -> Tensor:
    """Return the logits (B, classes) of images (B, C, H, W), checked, without a gradient.

    Raises :class:`~dentbench.errors.ModelError` for a network that fails, or answers with anything
    else: another type or shape, one class, NaN, complex numbers.
    """
    try:
        with torch_settings_kept():
            enabled = torch.is_grad_enabled()
            logits: Any = network(images)
            left = torch.is_grad_enabled()
    except DentBenchError:
        raise
    except Exception as error:  # a network may raise anything
        if is_out_of_memory(error):
            raise
        text = f"the model does not take {_images(images)}: {first_line(error)}"
        raise ModelError(text + advice(network, error)) from error
    if left != enabled:
        raise ModelError(
            "the model switches gradients off, or on, and leaves them so; write a block, "
            "with torch.no_grad(), in place of torch.set_grad_enabled"
        )
    return _checked(logits, images, classes).detach()


def _checked(logits: Any, images: Tensor, classes: int | None) -> Tensor:
    if not isinstance(logits, Tensor):
        raise ModelError(
            f"the model does not answer with logits of shape (images, classes) but with a "
            f"{type(logits).__name__}{_held(logits)}; return its logits alone"
        )
    shape = tuple(logits.shape)
    if logits.ndim != 2 or len(logits) != len(images) or 0 in shape:
        raise ModelError(
            f"the model does not answer with logits of shape (images, classes): its answer to "
            f"{_images(images)} has the shape {shape}"
        )
    if classes is not None and logits.shape[1] != classes:
        raise ModelError(
            f"the model answers {_images(images)} with {logits.shape[1]} logits each, and others "
            f"with {classes}"
        )
    if logits.shape[1] < 2:
        raise ModelError("the model has 1 class; give each of two classes a logit, such as (-z, z)")
    if logits.is_complex() or logits.is_quantized:
        raise ModelError(f"the model answers with numbers of type {logits.dtype}, not with logits")
    if bool(logits.isnan().any()):
        raise ModelError("the model answers with NaN logits; look at its weights and its divisions")
    return logits


def _held(answer: object) -> str:
    """Describe the contents of a container, or ""."""
    if isinstance(answer, dict):
        return f" with {', '.join(map(str, list(answer)[:4]))}" if answer else ""
    if isinstance(answer, tuple | list):
        return f" of {', '.join(type(part).__name__ for part in answer[:4])}" if answer else ""
    return ""


def _images(images: Tensor) -> str:
    plural = "" if len(images) == 1 else "s"
    return f"{len(images)} image{plural} of shape {tuple(images.shape[1:])}"


def _require_images_kept(shown: Tensor, given: Tensor) -> None:
    if not torch.equal(shown, given):
        raise ModelError(
            "the model changes the images that it is shown; write x = x - mean and the like, not "
            "x -= mean or x.sub_(mean)"
        )


def advice(network: object, error: BaseException) -> str:
    """Return advice on a network's error, after a semicolon, or ""."""
    said = str(error).lower()
    kinds = {p.dtype for p in getattr(network, "parameters", list)() if p.is_floating_point()}
    other = sorted(str(kind).removeprefix("torch.") for kind in kinds - {torch.float32})
    if "same device" in said or "cuda" in said:
        return (
            "; it holds tensors that stay on another device: register them as buffers or "
            "parameters, and name no device in its code"
        )
    if other and ("dtype" in said or "type" in said):
        return f"; its weights are {', '.join(other)} and images are float32: call .float() on it"
    if "dtype" in said:
        return "; images are float32, so let its layers and their inputs be float32 too"
    if "invalid for input of size" in said:
        return "; attacks ask about any number of images at a time, so let it answer any"
    if "channels" in said:
        return "; the data have another number of channels than it was made for"
    if "cannot be multiplied" in said or "kernel size" in said or "output size" in said:
        return "; the images have another size than it was made for (see --preprocess)"
    return ""


def require_defense(name: str, make: Callable[[], Any], images: Tensor, classes: int) -> None:
    """Raise :class:`~dentbench.errors.ModelError` for a defense that fails.

    ``make()`` returns it, new. ``images`` (N, C, H, W) in [0, 1]. It answers two of them, adapts
    and updates on the way, and the gradient of its answer is taken. Where memory is too small for
    two it answers a single image.
    """

    def ask(images: Tensor) -> None:
        few = images.clone()
        defense = make()
        _require_shape(name, defense(few), (len(few), classes))
        with torch.enable_grad():
            leaf = few.clone().requires_grad_()
            logits = defense(leaf.view_as(leaf))
            _require_shape(name, logits, (len(few), classes))
            if logits.requires_grad:
                torch.autograd.grad(logits.float().sum(), leaf, allow_unused=True)

    with _as_before(images), _reported(name):
        _with_room(ask, images[:FEW])


def require_adaptation(dent: Dent, images: Tensor) -> None:
    """Raise :class:`~dentbench.errors.ModelError` where dent diverges on every natural image.

    ``images`` (N, C, H, W) in [0, 1]: a few. Where memory is too small for all of them it adapts
    to one.
    """

    def ask(images: Tensor) -> None:
        adaptation = dent.adapt(images.clone())
        said = divergence(adaptation)
        if said and not bool(answered(dent.predict(images, adaptation)).any()):
            raise ModelError(said)

    with _as_before(images), _reported("dent"):
        _with_room(ask, images)


def _require_shape(name: str, logits: Any, shape: tuple[int, int]) -> None:
    actual = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    if actual != shape:
        raise ModelError(
            f"{name} answers {shape[0]} images with {actual}, not with logits of shape {shape}"
            f"{_CUT}; {ALTERNATIVES}"
        )


_CUT: Final = (
    "; instance-wise each image has parameters of its own, so let the model keep its batch whole: "
    "neither cut nor multiplied"
)


@contextmanager
def _reported(name: str) -> Iterator[None]:
    """Report a failure inside the block in one sentence, out of memory excepted."""
    try:
        yield
    except DentBenchError:
        raise
    except Exception as error:  # a network or a defense may raise anything
        if is_out_of_memory(error):
            raise
        reason = first_line(error)
        cut = _CUT if "must match the size of tensor" in reason else ""
        raise ModelError(
            f"{name} cannot be run around this model: {reason}{cut}; {ALTERNATIVES}"
        ) from error


@contextmanager
def _as_before(images: Tensor) -> Iterator[None]:
    """Run without gradients, and leave the random numbers as they were."""
    devices = [images.device] if images.is_cuda else []
    with torch.random.fork_rng(devices), torch.no_grad():
        yield
