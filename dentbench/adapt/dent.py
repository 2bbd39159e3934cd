"""Dent: defensive entropy minimization, as two functions, adapt and predict."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from dentbench.adapt import batchnorm, prefix_cache
from dentbench.adapt.blur import gaussian_blur
from dentbench.adapt.checkpointed_unroll import unrolled
from dentbench.adapt.layers import affine_of, convert
from dentbench.adapt.losses import Loss, load_loss, with_gradient
from dentbench.adapt.optimizers import OPTIMIZERS, OptimizerState, initial_state
from dentbench.compute.answer_graphs import Answer
from dentbench.compute.cuda_graphs import Work
from dentbench.errors import ModelError
from dentbench.spec.evaluation import DentSpec


@dataclass(frozen=True)
class Adaptation:
    """What dent found for one batch: a value, handed to :meth:`Dent.predict`.

    ``affine``: scale and shift of all layers in one tensor, (P,) batch-wise or where only the
    blur adapts, (B, P) instance-wise; None after 0 steps, when the layers are the model's own.
    ``losses`` (steps,): the loss before each update. ``sigma`` >= 0, in pixels, of the blur: () or
    instance-wise (B,); None without a blur.
    """

    affine: Tensor | None
    losses: Tensor
    sigma: Tensor | None = None


Memory: TypeAlias = tuple[Tensor, OptimizerState]
"""What goes on from batch to batch: the parameters that adapt, and the optimizer's state."""


class Dent(nn.Module):
    """A classifier that adapts to every batch by minimizing the entropy of its predictions.

    ``model`` maps images (B, C, H, W) to logits (B, classes); it is copied, and never touched.
    It runs in eval mode always. ``batch_size``: the number of images that the mean of a separable
    loss is over, when an image is to get the same answer in batches of any size; by default, as
    in the released code, the images given. ``loss``: one in place of the
    spec's. ``recorded`` and ``answered``: what makes something faster of the work of :meth:`adapt`
    and of :meth:`predict` in this module, such as
    :class:`~dentbench.compute.cuda_graphs.Captured` and
    :class:`~dentbench.compute.answer_graphs.CapturedAnswer`. Raises
    :class:`~dentbench.errors.ModelError` for a model without the layers that it is to adapt.
    Source: the paper (arXiv 2105.08714) and its released code, which has no blur and knows
    BatchNorm2d alone; see :mod:`dentbench.adapt.blur` for where the blur is from.

    >>> network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(),
    ...                         nn.LazyLinear(10)).eval()
    >>> images = torch.rand(2, 3, 8, 8)
    >>> _ = network(images)
    >>> dent = Dent(network, DentSpec(steps=2))
    >>> adaptation = dent.adapt(images)
    >>> tuple(adaptation.affine.shape), tuple(adaptation.losses.shape)
    ((2, 8), (2,))
    >>> torch.equal(dent.predict(images, adaptation), dent(images))
    True
    """

    def __init__(
        self,
        model: nn.Module,
        spec: DentSpec | None = None,
        *,
        batch_size: int | None = None,
        loss: Loss | None = None,
        recorded: Callable[[Work, nn.Module], Work] | None = None,
        answered: Callable[[Answer, nn.Module], Answer] | None = None,
    ) -> None:
        super().__init__()
        self.spec = DentSpec() if spec is None else spec
        self.batch_size = batch_size
        try:
            network = copy.deepcopy(model)
        except Exception as error:
            raise ModelError(f"the model cannot be copied ({error}); Dent needs a copy") from error
        self.network = network.requires_grad_(False).eval()
        self.calls = batchnorm.Calls()
        layers = convert(self.network, self.spec, self.calls)
        prefix_cache.convert(self.network)
        self.layer_names = tuple(name for name, _ in layers)
        scales, shifts = affine_of(layers)
        self._sizes = [len(scale) for scale in scales]
        self._loss = load_loss(self.spec.loss) if loss is None else loss
        self._loss_and_gradient = with_gradient(self._loss)
        self._update = OPTIMIZERS[self.spec.optimizer]
        self._descent = self._descend if recorded is None else recorded(self._descend, self)
        self._answer = self._predict if answered is None else answered(self._predict, self)
        initial = torch.cat([*scales, *shifts])
        sigma = None if self.spec.blur == "none" else initial.new_tensor(self.spec.sigma)
        norms = [layer for _, layer in layers if isinstance(layer, nn.BatchNorm2d)]
        running = None
        if not self.spec.batch_share and len(norms) == len(layers):
            running = batchnorm.running_statistics(norms)
        self._initial: Tensor
        self._running: Tensor | None
        self._sigma: Tensor | None
        self._rates: Tensor
        self.register_buffer("_initial", initial, persistent=False)
        self.register_buffer("_running", running, persistent=False)
        self.register_buffer("_sigma", sigma, persistent=False)
        self.register_buffer("_rates", self._learning_rates(), persistent=False)

    def train(self, mode: bool = True) -> Dent:
        """Stay in eval mode: dropout at test time is no part of the defense."""
        del mode
        return super().train(False)

    def start(self) -> Adaptation:
        """Return the adaptation before the first update: the same for every batch."""
        flat = None if self.spec.steps == 0 else self._initial
        return Adaptation(affine=flat, losses=self._initial.new_zeros(0), sigma=self._sigma)

    def adapt(self, x: Tensor) -> Adaptation:
        """Return the adaptation to a batch of images (B, C, H, W) in [0, 1], without a graph."""
        with torch.inference_mode(False), torch.enable_grad():
            return self._adapt(x.clone() if x.is_inference() else x.detach(), differentiable=False)

    def unroll(self, x: Tensor, last: int | None = None) -> Adaptation:
        """Return the same adaptation as :meth:`adapt`, as a differentiable function of ``x``.

        Its tensors carry the graph of all updates, gradients of gradients included, so
        ``predict(x, unroll(x))`` has the exact gradient of the whole defense. The memory grows
        with the number of steps. With ``last`` >= 1 the gradient goes through the last so many
        updates only (all, if there are no more), has no gradient itself, and takes the memory of
        one update; the losses then carry no graph and are empty.
        """
        with torch.inference_mode(False), torch.enable_grad():
            x = x.clone() if x.is_inference() else x
            if last is None or self.spec.steps == 0:
                return self._adapt(x, differentiable=True)
            start = self._start(len(x))
            count = self.spec.steps
            parameters = unrolled(
                self._step, self._shown(x), start, initial_state(start), count, min(last, count)
            )
        flat, sigma = self._parts(parameters)
        return Adaptation(affine=flat, losses=start.new_zeros(0), sigma=sigma)

    def trajectory(self, x: Tensor) -> list[Adaptation]:
        """Return the adaptations before every update and after the last, without a graph.

        Those to a batch of images (B, C, H, W) in [0, 1]; the last is that of :meth:`adapt`.
        """
        if self.spec.steps == 0:
            return [self.start()]
        with torch.inference_mode(False), torch.enable_grad():
            visited, losses = self._walk(x.clone() if x.is_inference() else x.detach())
        _require_finite(losses)
        states = enumerate(map(self._parts, visited))
        return [Adaptation(flat, losses[:count], sigma) for count, (flat, sigma) in states]

    def carry(
        self, x: Tensor, memory: Memory | None = None, *, differentiable: bool = False
    ) -> Memory:
        """Return what one update on images ``x`` (B, C, H, W) makes of what earlier ones left.

        ``differentiable``: with a graph to ``x``.
        """
        with torch.inference_mode(False), torch.enable_grad():
            if memory is None:
                start = self._start(len(x))
                memory = start, initial_state(start)
            parameters = memory[0].detach().requires_grad_()
            seen = self._shown(x if differentiable else x.detach())
            parameters, state, _ = self._step(seen, parameters, memory[1], differentiable)
        return parameters if differentiable else parameters.detach(), state

    def _adapt(self, x: Tensor, *, differentiable: bool) -> Adaptation:
        if self.spec.steps == 0:
            return self.start()
        work = self._unrolled if differentiable else self._descent
        parameters, losses = work(x)
        flat, sigma = self._parts(parameters)
        _require_finite(losses.detach())
        return Adaptation(affine=flat, losses=losses, sigma=sigma)

    def _descend(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the parameters after the last update, and the loss before each, with no graph."""
        visited, losses = self._walk(x)
        return visited[-1], losses

    def _walk(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return the parameters before every update and after the last, and the loss before each.

        Without a graph.
        """
        parameters = self._start(len(x))
        state = initial_state(parameters)
        visited, losses = [parameters], []
        shown = self._shown(x)
        with prefix_cache.remembered():
            for _ in range(self.spec.steps):
                parameters = parameters.detach().requires_grad_()
                parameters, state, loss = self._step(shown, parameters, state, False)
                visited.append(parameters.detach())
                losses.append(loss.detach())
        return visited, torch.stack(losses)

    def _unrolled(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the same, with the graph of all updates."""
        parameters = self._start(len(x)).requires_grad_()
        state = initial_state(parameters)
        losses = []
        shown = self._shown(x)
        for _ in range(self.spec.steps):
            parameters, state, loss = self._step(shown, parameters, state, True)
            losses.append(loss)
        return parameters, torch.stack(losses)

    def _step(
        self, x: Tensor, parameters: Tensor, state: OptimizerState, differentiable: bool
    ) -> tuple[Tensor, OptimizerState, Tensor]:
        """Make one update; return the parameters and the state after it, and the loss before.

        ``x``: the images as :meth:`_shown` gives them.
        """
        flat, sigma = self._parts(parameters)
        logits = self._forward(x, flat, sigma if self.spec.blur == "dynamic" else None)
        if not logits.requires_grad:
            raise ModelError(
                "dent cannot adapt: the model's logits have no gradient in what it adapts; let "
                "the model answer without torch.no_grad, argmax and detached values"
            )
        if differentiable:
            loss = self.loss(logits)
            (grad,) = torch.autograd.grad(loss, parameters, create_graph=True)
        else:
            with torch.no_grad():
                loss, of_logits = self._loss_and_gradient(logits, self._counted(logits))
            (grad,) = torch.autograd.grad(logits, parameters, of_logits)
        with torch.set_grad_enabled(differentiable):
            change, state = self._update(grad, state, self.spec, self._rates)
            return parameters + change, state, loss

    def loss(self, logits: Tensor) -> Tensor:
        """Return the scalar that adaptation minimizes, for a batch's logits (B, classes)."""
        return self._loss(logits, self._counted(logits))

    def _counted(self, images: Tensor) -> int:
        """Return how many images the mean of a separable loss is over."""
        return len(images) if self.batch_size is None else self.batch_size

    def predict(self, x: Tensor, adaptation: Adaptation) -> Tensor:
        """Return the logits (B, classes) of images (B, C, H, W) under a given adaptation.

        Differentiable in ``x``, through the blur too, and in an adaptation that carries a graph.
        An instance-wise adaptation fits only a batch of its own size.
        """
        for tensor, shared in ((adaptation.affine, 1), (adaptation.sigma, 0)):
            if tensor is not None and tensor.ndim > shared and len(tensor) != len(x):
                raise ValueError(f"{len(x)} images, but {len(tensor)} images' adaptation")
        return self._answer(x, adaptation.affine, adaptation.sigma)

    def _predict(self, x: Tensor, flat: Tensor | None, sigma: Tensor | None) -> Tensor:
        return self._forward(_ContiguousGradient.apply(x), flat, sigma)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (B, classes) after adapting to ``x`` itself (B, C, H, W).

        The adaptation is a constant to autograd: the gradient is the last forward's only, as in
        the released code.
        """
        return self.predict(x, self.adapt(x))

    def preprocess(self, x: Tensor, adaptation: Adaptation) -> Tensor:
        """Return what the network is shown of images (B, C, H, W): them, blurred as adapted."""
        return self._blurred(x, adaptation.sigma)

    def affine_parameters(self, adaptation: Adaptation) -> dict[str, tuple[Tensor, Tensor]]:
        """Return each layer's scale and shift, (C,) or (B, C), by layer name."""
        flat = self._initial if adaptation.affine is None else adaptation.affine
        return dict(zip(self.layer_names, self._pairs(flat), strict=True))

    def _learning_rates(self) -> Tensor:
        """Return the learning rate of every parameter, in the order of :meth:`_start`."""
        spec = self.spec
        rates = [self._initial.new_zeros(0)]
        if spec.delta == "affine":
            half = len(self._initial) // 2
            pair = (spec.lr if lr is None else lr for lr in (spec.gamma_lr, spec.beta_lr))
            rates += [self._initial.new_full((half,), lr) for lr in pair]
        if spec.blur == "dynamic":
            rates.append(self._initial.new_tensor([spec.sigma_lr]))
        return torch.cat(rates)

    def _start(self, images: int) -> Tensor:
        """Return the parameters to adapt in one tensor, one row per image where each has its own.

        The scales and shifts come first, if they adapt; sigma comes last, if it does.
        """
        parts = [self._initial] if self.spec.delta == "affine" else []
        if self.spec.blur == "dynamic":
            assert self._sigma is not None
            parts.append(self._sigma[None])
        start = torch.cat(parts)
        return start.repeat(images, 1) if self.spec.mode == "instance" else start

    def _parts(self, parameters: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the scales and shifts, and sigma, for parameters laid out as by :meth:`_start`."""
        flat, sigma = self._initial, self._sigma
        if self.spec.blur == "dynamic":
            parameters, sigma = parameters[..., :-1], parameters[..., -1].abs()
        if self.spec.delta == "affine":
            flat = parameters
        return flat, sigma

    def _pairs(self, flat: Tensor, *, folded: bool = False) -> batchnorm.AffinePairs:
        """Return the scales and the shifts, layer by layer.

        ``folded``: such that they normalize by the running statistics too, each (B, C, 1, 1).
        """
        if folded:
            assert self._running is not None
            return batchnorm.folded(flat, self._running, self._sizes)
        parts = (one.split(self._sizes, -1) for one in flat.chunk(2, -1))
        return list(zip(*parts, strict=True))

    def _shown(self, x: Tensor) -> Tensor:
        """Return images as every step begins with them: under a static blur, blurred already."""
        return self._blurred(x, self._sigma) if self.spec.blur == "static" else x

    def _blurred(self, x: Tensor, sigma: Tensor | None) -> Tensor:
        if sigma is None:
            return x
        assert self.spec.padding is not None
        return gaussian_blur(x, sigma, self.spec.padding)

    def _forward(self, x: Tensor, flat: Tensor | None, sigma: Tensor | None) -> Tensor:
        x = self._blurred(x, sigma)
        prefix_cache.begin()
        with self._active(flat):
            logits: Tensor = self.network(x)
        return logits

    def _active(self, flat: Tensor | None) -> AbstractContextManager[None]:
        if flat is None:
            return batchnorm.active(None, self.calls)
        folded = self._running is not None and flat.ndim > 1
        return batchnorm.active(self._pairs(flat, folded=folded), self.calls, folded=folded)


def _require_finite(losses: Tensor) -> None:
    """Raise for an adaptation that diverged; once at its end, for asking makes a GPU wait."""
    bad = torch.isfinite(losses).logical_not().nonzero()
    if len(bad):
        step = int(bad[0])
        raise ModelError(
            f"dent diverges: its loss is {float(losses[step])} before update {step + 1} of "
            f"{len(losses)}; try a lower learning rate (--lr), unless the model's own logits are "
            "not finite"
        )


class _ContiguousGradient(torch.autograd.Function):
    """Identity whose gradient is contiguous: the attacks call ``grad.view(n, -1)``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0].contiguous()
