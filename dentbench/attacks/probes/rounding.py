"""How far rounding alone can move an answer: sums are computed anew with errors of their size.

In a batch of another size a library adds in another order. Most answers hardly move, but where a
defense rounds, as JPEG and few levels do, a value between two levels may end on either of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from dentbench.attacks.base import Classifier

ULPS: Final = 4
"""How many roundings of its largest number a sum may be off by."""

TF32: Final = 2.0**-11
"""The relative rounding of factors where products are computed in TF32."""

DRAWS: Final = 8
"""How often an answer is computed with other errors."""

_SUMS: Final = frozenset(
    {
        *("mm", "bmm", "addmm", "baddbmm", "mv", "addmv", "dot", "convolution", "sum", "mean"),
        *("cumsum", "linalg_vector_norm", "var", "std", "var_mean", "native_batch_norm"),
        *("native_group_norm", "native_layer_norm", "avg_pool2d", "_adaptive_avg_pool2d"),
        *("_softmax", "_log_softmax", "logsumexp", "_cdist_forward"),
    }
)
"""The operations that add many numbers."""


class OtherRounding(TorchDispatchMode):
    """Adds an error of rounding, drawn from ``seed``, to every sum inside the block."""

    def __init__(self, seed: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._generator = torch.Generator().manual_seed(seed)

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        del types
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket.__name__ not in _SUMS:
            return result
        if isinstance(result, tuple):
            return (self._off(result[0]), *result[1:])
        return self._off(result)

    def _off(self, value: Any) -> Any:
        if not isinstance(value, Tensor) or not value.is_floating_point() or not value.numel():
            return value
        size = ULPS * torch.finfo(value.dtype).eps
        if value.is_cuda and torch.backends.cuda.matmul.allow_tf32:
            size = max(size, TF32)
        noise = 2 * torch.rand(value.shape, generator=self._generator) - 1
        return value + size * value.abs().amax() * noise.to(value)


@torch.no_grad()
def changes_by_rounding(defense: Classifier, points: Tensor, usual: Tensor) -> list[Tensor]:
    """Return, draw by draw, how much each image's logits (B,) change by rounding alone.

    ``usual`` (B, classes): the answers to ``points`` (B, C, H, W). Empty where the defense cannot
    be asked so.
    """
    changes = []
    for seed in range(DRAWS):
        try:
            with OtherRounding(seed):
                changes.append((defense(points) - usual).abs().amax(1))
        except (RuntimeError, NotImplementedError, TypeError):  # it takes no such mode
            return []
    return changes
