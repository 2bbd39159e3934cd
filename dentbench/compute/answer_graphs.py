"""Answers of a network and their input gradients as CUDA graphs, one forward and one backward.

An attack asks for both at every iterate, and on a GPU it is their launches that take the time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor, nn

from dentbench.compute.cuda_graphs import Counts, Recordings, kind_of, require_close
from dentbench.compute.graph_capture import GraphCapture
from dentbench.compute.precision import arithmetic

Answer: TypeAlias = Callable[..., Tensor]
"""Maps images (B, C, H, W), and constants that are tensors or None, to logits (B, classes)."""

Inputs: TypeAlias = tuple[Tensor | None, ...]
"""The images, and the constants."""


class Replay(Protocol):
    """Repeats an answer and its gradient: each call of ``forward`` has a number of its own."""

    turn: int

    def forward(self, inputs: Inputs) -> Tensor:
        """Return the logits, in memory that is the caller's; count one up."""

    def backward(self, grad: Tensor) -> Tensor:
        """Return the images' gradient after the last ``forward``, in the caller's memory."""


class AnswerGraphs:
    """An answer and its gradient recorded for inputs of one kind.

    The backward keeps the results of the forward, so that it may be asked for more than once.
    """

    def __init__(self, answer: Answer, inputs: Inputs) -> None:
        x = inputs[0]
        assert x is not None
        self.turn = 0
        self._inputs = [None if tensor is None else tensor.detach().clone() for tensor in inputs]
        self._x = self._inputs[0] = x.detach().clone().requires_grad_()
        with torch.enable_grad(), GraphCapture(x.device) as capture:
            self._rehearse(capture, answer)
            self._forward, self._logits = capture.record(lambda: answer(*self._inputs))
            self._backward, self._found = capture.record(self._gradient)

    def _rehearse(self, capture: GraphCapture, answer: Answer) -> None:
        def both() -> None:
            self._logits = answer(*self._inputs)
            self._given = torch.zeros_like(self._logits)
            self._gradient()

        capture.rehearse(both)

    def _gradient(self) -> Tensor:
        (results,) = torch.autograd.grad(self._logits, self._x, self._given, retain_graph=True)
        return results

    @torch.no_grad()
    def forward(self, inputs: Inputs) -> Tensor:
        """Return the logits of other inputs of the same kind."""
        for kept, tensor in zip(self._inputs, inputs, strict=True):
            if kept is not None and tensor is not None:
                kept.copy_(tensor)
        self.turn += 1
        self._forward.replay()
        return self._logits.detach().clone()

    @torch.no_grad()
    def backward(self, grad: Tensor) -> Tensor:
        """Return the images' gradient after the last :meth:`forward`."""
        self._given.copy_(grad)
        self._backward.replay()
        return self._found.clone()


class CapturedAnswer:
    """Gives ``answer``, and from the third time on by recordings of it and of its gradient.

    ``module``: whose weights it computes with. Only the images get a gradient: where a constant
    needs one, the answer itself is given. Gradients of gradients are those of the answer itself.
    ``record``: makes of an answer and its inputs a graph that repeats it.
    """

    def __init__(
        self,
        answer: Answer,
        module: nn.Module,
        counter: Counts,
        record: Callable[[Answer, Inputs], Replay] | None = None,
    ) -> None:
        self.answer = answer
        self.counter = counter
        self.recordings: Recordings[Replay] = Recordings(module, counter, "an answer")
        self._record = record or AnswerGraphs

    def __call__(self, x: Tensor, *constants: Tensor | None) -> Tensor:
        """Return the logits of images (B, C, H, W)."""
        given = [tensor for tensor in constants if tensor is not None]
        as_it_is = any(tensor.requires_grad for tensor in given)
        as_it_is |= torch.is_inference_mode_enabled() or any(
            tensor.is_inference() for tensor in (x, *given)
        )
        if as_it_is:
            return self.answer(x, *constants)
        kind = (*map(kind_of, (x, *constants)), arithmetic())
        recorded = self.recordings.find(kind)
        if recorded is not None:
            replay, passes = recorded
            logits: Tensor = _Replayed.apply(self, replay, passes, x, *constants)
            return logits
        logits = self.answer(x, *constants)
        if self.recordings.due(kind):
            with self.recordings.attempt(x):
                self._try(kind, (x, *constants))
        return logits

    def _try(self, kind: tuple[object, ...], inputs: Inputs) -> None:
        """Record an answer and its gradient, and keep them if they are right."""
        assert inputs[0] is not None
        x = inputs[0].detach().clone().requires_grad_()
        before = self.counter.forwards, self.counter.backwards
        with torch.enable_grad():
            right = self.answer(x, *inputs[1:])
            (gradient,) = torch.autograd.grad(right.sum(), x)
        passes = self.counter.forwards - before[0], self.counter.backwards - before[1]
        replay = self._record(self.answer, inputs)
        results = replay.forward(inputs), replay.backward(torch.ones_like(right))
        require_close(results, (right.detach(), gradient))
        self.recordings.keep(kind, replay, passes)


class _Replayed(torch.autograd.Function):
    """The logits by a recording; their gradient by the other."""

    @staticmethod
    def forward(
        ctx: Any,
        captured: CapturedAnswer,
        replay: Replay,
        passes: tuple[int, int],
        *inputs: Tensor | None,
    ) -> Tensor:
        ctx.captured, ctx.replay, ctx.passes = captured, replay, passes
        ctx.constants = [None] * (len(inputs) - 1)
        ctx.save_for_backward(*inputs)
        logits = replay.forward(inputs)
        ctx.turn = replay.turn
        captured.counter.forward(passes[0])
        return logits

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        captured, (grad,) = ctx.captured, grads
        if torch.is_grad_enabled():  # a gradient of this gradient may be asked for
            results = _differentiable(captured, ctx.saved_tensors, grad)
        else:
            if ctx.replay.turn != ctx.turn:  # other images were shown since
                ctx.replay.forward(ctx.saved_tensors)
                ctx.turn = ctx.replay.turn
            results = ctx.replay.backward(grad)
            captured.counter.backward(ctx.passes[1])
        return None, None, None, results, *ctx.constants


def _differentiable(captured: CapturedAnswer, inputs: Inputs, grad: Tensor) -> Tensor:
    """Return the images' gradient with a graph, by giving the answer again."""
    assert inputs[0] is not None
    forwards = captured.counter.forwards
    logits = captured.answer(*inputs)
    captured.counter.forwards = forwards  # it was counted when the answer was given
    (results,) = torch.autograd.grad(logits, inputs[0], grad, create_graph=True)
    return results


class RecordedNetwork(nn.Module):
    """A network (B, C, H, W) -> (B, classes) whose answers and gradients are recorded."""

    def __init__(
        self,
        network: nn.Module,
        counter: Counts,
        record: Callable[[Answer, Inputs], Replay] | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self._answers = CapturedAnswer(network, network, counter, record)

    def forward(self, x: Tensor) -> Tensor:
        """Return the network's logits."""
        return self._answers(x)
