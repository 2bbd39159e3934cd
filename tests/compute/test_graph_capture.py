"""Recording of CUDA graphs, as far as it goes without a GPU."""

from __future__ import annotations

import gc
import weakref

import pytest

from dentbench.compute.graph_capture import _no_collection


class Cycle:
    """Garbage that only a collection finds."""

    def __init__(self) -> None:
        self.itself = self


@pytest.mark.parametrize("enabled", [True, False])
def test_nothing_is_collected_while_a_graph_is_recorded(enabled: bool) -> None:
    before = gc.isenabled()
    (gc.enable if enabled else gc.disable)()
    try:
        garbage = weakref.ref(Cycle())
        with _no_collection():
            assert garbage() is None and not gc.isenabled()
            later = weakref.ref(Cycle())
            for _ in range(10_000):
                Cycle()
            assert later() is not None
        assert gc.isenabled() == enabled
    finally:
        (gc.enable if before else gc.disable)()
