"""The features that a network classifies by: the inputs of its last linear layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from dentbench.errors import ModelError


class Classified:
    """A network seen as features and a linear layer of them, its last ``nn.Linear``.

    ``network`` maps images (B, C, H, W) to logits (B, classes); it is used as it is, hooked while
    it is called. ``wanted_by``: the defense, named in errors. Raises
    :class:`~dentbench.errors.ModelError` for a network without such a layer.
    """

    def __init__(self, network: nn.Module, wanted_by: str) -> None:
        layers = [module for module in network.modules() if isinstance(module, nn.Linear)]
        if not layers:
            raise ModelError(
                f"{wanted_by} needs the features that a linear layer classifies, but this network "
                "has no nn.Linear; choose a network that ends in nn.Linear, or another defense"
            )
        self.network = network
        self.layer = layers[-1]
        self.wanted_by = wanted_by

    def require_logits(self, logits: Tensor) -> None:
        """Raise :class:`~dentbench.errors.ModelError` for logits that the layer cannot give."""
        outputs = self.layer.out_features
        if outputs != logits.shape[1]:
            raise ModelError(
                f"{self.wanted_by} needs the features that a linear layer classifies, but the last "
                f"nn.Linear has {outputs} outputs for {logits.shape[1]} classes; choose a network "
                "that ends in nn.Linear, or another defense"
            )

    def features(self, x: Tensor) -> Tensor:
        """Return the features (B, D) of images (B, C, H, W)."""
        seen: list[Tensor] = []

        def keep(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
            del layer
            seen.append(inputs[0])

        with self._hooked(keep):
            logits = self.network(x)
        return self._checked(seen, logits)

    def masked(self, x: Tensor, mask: Tensor) -> Tensor:
        """Return the logits (B, classes) of images whose features are times ``mask`` (B, D)."""
        seen: list[Tensor] = []

        def multiply(layer: nn.Module, inputs: tuple[Any, ...]) -> tuple[Tensor, ...]:
            del layer
            seen.append(inputs[0])
            fits = inputs[0].shape == mask.shape  # else it is refused below
            return (inputs[0] * mask if fits else inputs[0], *inputs[1:])

        with self._hooked(multiply):
            logits: Tensor = self.network(x)
        self._checked(seen, logits)
        return logits

    @contextmanager
    def _hooked(self, hook: Callable[..., Any]) -> Iterator[None]:
        handle = self.layer.register_forward_pre_hook(hook)
        try:
            yield
        finally:
            handle.remove()

    def _checked(self, seen: list[Tensor], logits: Tensor) -> Tensor:
        images = len(logits)
        if len(seen) != 1 or seen[0].ndim != 2 or len(seen[0]) != images:
            shapes = ", ".join(str(tuple(tensor.shape)) for tensor in seen) or "nothing"
            raise ModelError(
                f"{self.wanted_by} needs one row of features an image, but the last nn.Linear is "
                f"shown {shapes} for {images} images; choose another network or defense"
            )
        self.require_logits(logits)
        return seen[0]
