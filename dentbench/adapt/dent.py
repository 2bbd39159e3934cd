"""Dent: defensive entropy minimization, as two functions, adapt and predict."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Final, TypeAlias

import torch
from torch import Tensor, nn

from dentbench.adapt import batchnorm, prefix_cache
from dentbench.adapt.adaptation import Adaptation
from dentbench.adapt.blur import gaussian_blur
from dentbench.adapt.checkpointed_unroll import unrolled
from dentbench.adapt.layers import convert
from dentbench.adapt.losses import Loss, load_loss, with_gradient
from dentbench.adapt.optimizers import OPTIMIZERS, OptimizerState, initial_state
from dentbench.adapt.parameters import AdaptedParameters
from dentbench.compute.answer_graphs import Answer
from dentbench.compute.backend import in_eval_mode, prepared_by_rule
from dentbench.compute.cuda_graphs import Work
from dentbench.errors import ModelError
from dentbench.spec.dent import ALTERNATIVES
from dentbench.spec.evaluation import DentSpec

TRIED: Final = 2
"""The number of images on which another way of computing the network is tried."""

Memory: TypeAlias = tuple[Tensor, OptimizerState]
"""The state carried from batch to batch: the parameters that adapt, and the optimizer's state."""


class Dent(nn.Module):
    """A classifier that adapts to every batch by minimizing the entropy of its predictions.

    ``model`` maps images (B, C, H, W) to logits (B, classes); it is copied, and never touched. It
    runs in eval mode always. ``batch_size``: the number of images that the mean of a separable loss
    is over, when an image is to get the same answer in batches of any size; by default, as in the
    released code, the images given. ``loss``: replaces the spec's. ``prepare``: the copy is
    computed as in an evaluation, from the first images on: faster, the same but for the last bits;
    on a CPU this process keeps the memory that it frees. ``recorded`` and ``answered``: these make
    faster functions of the work of :meth:`adapt` and of :meth:`predict`, such as
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
        prepare: bool = True,
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
        for parameter in network.parameters():  # a ScriptModule has no requires_grad_ of its own
            parameter.requires_grad_(False)
        self.network = in_eval_mode(network)
        done = any(getattr(part, "prepared", False) is True for part in network.modules())
        self._unprepared = prepare and not done
        self.calls = batchnorm.Calls()
        layers = convert(self.network, self.spec, self.calls)
        prefix_cache.convert(self.network)
        self.adapted = AdaptedParameters(self.spec, layers)
        self._loss = load_loss(self.spec.loss) if loss is None else loss
        self._loss_and_gradient = with_gradient(self._loss)
        self._update = OPTIMIZERS[self.spec.optimizer]
        self._descent = self._descend if recorded is None else recorded(self._descend, self)
        self._answer = self._predict if answered is None else answered(self._predict, self)

    def train(self, mode: bool = True) -> Dent:
        """Stay in eval mode: dropout at test time is no part of the defense."""
        del mode
        return super().train(False)

    def start(self) -> Adaptation:
        """Return the adaptation before the first update: the same for every batch."""
        flat = None if self.spec.steps == 0 else self.adapted.initial
        return Adaptation(
            affine=flat, losses=self.adapted.initial.new_zeros(0), sigma=self.adapted.sigma
        )

    def adapt(self, x: Tensor) -> Adaptation:
        """Return the adaptation to a batch of images (B, C, H, W) in [0, 1], without a graph.

        Where it diverges it has no numbers, and no answer: see
        :func:`~dentbench.adapt.adaptation.divergence`.
        """
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
            start = self.adapted.start(len(x))
            count = self.spec.steps
            parameters = unrolled(
                self._step, self._shown(x), start, initial_state(start), count, min(last, count)
            )
        flat, sigma = self.adapted.parts(parameters)
        return Adaptation(affine=flat, losses=start.new_zeros(0), sigma=sigma)

    def trajectory(self, x: Tensor) -> list[Adaptation]:
        """Return the adaptations before every update and after the last, without a graph.

        Those to a batch of images (B, C, H, W) in [0, 1]; the last is that of :meth:`adapt`.
        """
        if self.spec.steps == 0:
            return [self.start()]
        with torch.inference_mode(False), torch.enable_grad():
            visited, losses = self._walk(x.clone() if x.is_inference() else x.detach())
        states = enumerate(map(self.adapted.parts, visited))
        return [Adaptation(flat, losses[:count], sigma) for count, (flat, sigma) in states]

    def carry(
        self, x: Tensor, memory: Memory | None = None, *, differentiable: bool = False
    ) -> Memory:
        """Return the state after one more update, on images ``x`` (B, C, H, W).

        ``differentiable``: with a graph to ``x``.
        """
        with torch.inference_mode(False), torch.enable_grad():
            if memory is None:
                start = self.adapted.start(len(x))
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
        flat, sigma = self.adapted.parts(parameters)
        return Adaptation(affine=flat, losses=losses, sigma=sigma)

    def _descend(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the parameters after the last update, and the loss before each, with no graph."""
        visited, losses = self._walk(x)
        return visited[-1], losses

    def _walk(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return the parameters before every update and after the last, and the loss before each.

        Without a graph.
        """
        parameters = self.adapted.start(len(x))
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
        parameters = self.adapted.start(len(x)).requires_grad_()
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
        flat, sigma = self.adapted.parts(parameters)
        logits = self._forward(x, flat, sigma if self.spec.blur == "dynamic" else None)
        if not logits.requires_grad:
            raise ModelError(
                "dent cannot adapt: the model's logits have no gradient in what it adapts; let "
                "the model answer without torch.no_grad, argmax, detached values and checkpointing "
                f"(use_reentrant=True), or {ALTERNATIVES}"
            )
        if differentiable:
            loss = self.loss(logits)
            (grad,) = torch.autograd.grad(loss, parameters, create_graph=True)
        else:
            with torch.no_grad():
                loss, of_logits = self._loss_and_gradient(logits, self._counted(logits))
            (grad,) = torch.autograd.grad(logits, parameters, of_logits)
        with torch.set_grad_enabled(differentiable):
            change, state = self._update(grad, state, self.spec, self.adapted.rates(state.step))
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
        self._prepare(x)
        return self._forward(_ContiguousGradient.apply(x), flat, sigma)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (B, classes) after adapting to ``x`` itself (B, C, H, W).

        The adaptation is a constant to autograd: the gradient is the last forward's only, as in
        the released code.
        """
        return self.predict(x, self.adapt(x))

    def preprocess(self, x: Tensor, adaptation: Adaptation) -> Tensor:
        """Return the images (B, C, H, W) as the network is shown them: blurred as adapted."""
        return self._blurred(x, adaptation.sigma)

    def affine_parameters(self, adaptation: Adaptation) -> dict[str, tuple[Tensor, Tensor]]:
        """Return each layer's scale and shift, (C,) or (B, C), by layer name."""
        flat = self.adapted.initial if adaptation.affine is None else adaptation.affine
        return dict(zip(self.adapted.layer_names, self.adapted.pairs(flat), strict=True))

    def _prepare(self, x: Tensor) -> None:
        """Compute the network faster from now on; images ``x`` (B, C, H, W) to try it on."""
        if self._unprepared:
            self._unprepared = False
            with torch.inference_mode(False), torch.enable_grad():
                self.network = prepared_by_rule(self.network, x[:TRIED].detach().clone())

    def _shown(self, x: Tensor) -> Tensor:
        """Return images as every step begins with them: under a static blur, blurred already."""
        self._prepare(x)
        return self._blurred(x, self.adapted.sigma) if self.spec.blur == "static" else x

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
        folded = self.adapted.folded_pairs(flat)
        if folded is not None:
            return batchnorm.active(folded, self.calls, folded=True)
        return batchnorm.active(self.adapted.pairs(flat), self.calls)


class _ContiguousGradient(torch.autograd.Function):
    """Identity whose gradient is contiguous: the attacks call ``grad.view(n, -1)``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0].contiguous()
