"""Keep adaptations to recent images, and hand them out again for the same images.

Attacks ask about the same points more than once: each of APGD's targets begins with the natural
images, FAB asks for labels and then for gradients, Square goes back to where it was, and the points
that an attack returns are judged afresh. On 64 of the embedded digits these were one adaptation in
six to eight in runs of all protocols, and one in nine to eleven in the published protocol (the
quick attack, and AutoAttack standard with 20 iterations).
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from dentbench.compute.cuda_graphs import Counts, Work, counted
from dentbench.compute.precision import arithmetic

_log = logging.getLogger(__name__)

ROOM: Final = 2**27
"""How many bytes of images and results are kept; the last of them always are."""


@dataclass(frozen=True)
class _Entry:
    images: Tensor
    results: tuple[Tensor, ...]
    passes: tuple[int, int]

    @property
    def size(self) -> int:
        return sum(tensor.nbytes for tensor in (self.images, *self.results))


class AdaptationCache:
    """Recent results, least recently asked for first; inside its ``with`` block alone.

    Outside, as where something is timed, measured or probed, all work is done.
    """

    def __init__(self) -> None:
        self.active = False
        self._entries: OrderedDict[tuple[object, ...], _Entry] = OrderedDict()
        self._size = 0  # of all entries, in bytes

    def __enter__(self) -> None:
        self.active = True

    def __exit__(self, *error: object) -> None:
        self.active = False
        if error[0] is not None:  # it may be that memory ran out
            self._entries.clear()
            self._size = 0

    def get(self, key: tuple[object, ...], images: Tensor) -> _Entry | None:
        """Return the result kept under a key, if it is of these very images."""
        entry = self._entries.get(key)
        if entry is None or not torch.equal(entry.images, images):
            return None
        self._entries.move_to_end(key)
        return entry

    def keep(self, key: tuple[object, ...], entry: _Entry) -> None:
        """Keep an entry, and forget the oldest ones where there is no room."""
        replaced = self._entries.pop(key, None)
        self._entries[key] = entry
        self._size += entry.size - (replaced.size if replaced else 0)
        while self._size > ROOM and len(self._entries) > 1:
            self._size -= self._entries.popitem(last=False)[1].size


class CachedAdaptation:
    """Does ``work``; for images that it was shown before it returns the result of that time.

    Passes are counted as if it were done again: the cost of an attack does not depend on the cache.
    The first repetition is done nonetheless: work with another result then, as that of a network
    that draws random numbers, is always done.
    """

    def __init__(self, work: Work, counter: Counts, adaptations: AdaptationCache) -> None:
        self.work = work
        self.counter = counter
        self.adaptations = adaptations
        self._repeatable: bool | None = None

    def __call__(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the result of the work for images (B, C, H, W)."""
        if not self.adaptations.active or self._repeatable is False:
            return self.work(x)
        # The sum is there to tell images apart quickly; those kept are compared as a whole.
        key = (self, tuple(x.shape), x.dtype, x.stride(), arithmetic(), float(x.sum()))
        known = self.adaptations.get(key, x)
        if known is not None and self._repeatable:
            self.counter.forward(known.passes[0])
            self.counter.backward(known.passes[1])
            return known.results
        results, passes = counted(self.work, x, self.counter)
        if known is not None:
            self._repeatable = all(map(_is_same, results, known.results))
            if not self._repeatable:
                _log.debug("adaptations are always done: the same images gave another adaptation")
        self.adaptations.keep(key, _Entry(x.detach().clone(), results, passes))
        return results

    def __getstate__(self) -> dict[str, Any]:
        """Leave the kept results behind: they belong to this work."""
        return {**self.__dict__, "adaptations": AdaptationCache()}


def _is_same(ours: Tensor, theirs: Tensor) -> bool:
    """Return whether two tensors are equal, NaN in the same places included."""
    return torch.equal(ours.isnan(), theirs.isnan()) and torch.equal(
        ours.nan_to_num(), theirs.nan_to_num()
    )
