"""Freed memory is used again without fresh pages."""

from __future__ import annotations

import platform
import resource
import subprocess
import sys

import pytest

from dentbench.compute.malloc import hand_back_memory, keep_freed_memory

FRESH_PAGES = """
import os, resource
import torch
from dentbench.compute.malloc import hand_back_memory, keep_freed_memory

def fresh_pages(how):
    if how != "given back":
        assert keep_freed_memory()
    if how == "both":
        assert hand_back_memory()
    for _ in range(40 if how == "kept" else 1):  # it settles within about a dozen
        torch.ones(2**24)  # 64 MiB
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        torch.ones(2**24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

for how in ("kept", "given back", "both"):
    if child := os.fork():
        os.waitpid(child, 0)
    else:
        print(fresh_pages(how), flush=True)
        os._exit(0)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting is glibc's")
def test_memory_that_was_freed_is_used_again_without_fresh_pages() -> None:
    done = subprocess.run([sys.executable, "-c", FRESH_PAGES], check=True, capture_output=True)
    kept, given_back, both = map(int, done.stdout.split())
    few = 5 * 2**26 / resource.getpagesize() / 100
    assert kept < few < given_back
    assert both > few  # undone again, as where memory ran out


def test_without_glibc_memory_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert not keep_freed_memory()
    assert not hand_back_memory()
