"""Garbage stays where it is while a CUDA graph is recorded or a report is written."""

from __future__ import annotations

import gc
import weakref

import pytest

from dentbench.compute.garbage import no_collection


class Cycle:
    """Garbage that only a collection finds."""

    def __init__(self) -> None:
        self.itself = self


@pytest.mark.parametrize("enabled", [True, False])
def test_nothing_is_collected_in_a_block(enabled: bool) -> None:
    before = gc.isenabled()
    (gc.enable if enabled else gc.disable)()
    try:
        with no_collection():
            assert not gc.isenabled()
            garbage = weakref.ref(Cycle())
            for _ in range(10_000):
                Cycle()
            assert garbage() is not None
        assert gc.isenabled() == enabled
    finally:
        (gc.enable if before else gc.disable)()
