"""A disk that fills up during a run: told, nothing torn, and resumed once there is room."""

from __future__ import annotations

import resource
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dentbench.attacks.catalogue import PROTOCOLS
from dentbench.errors import StoreError
from tests.soak.kills import evaluate, left


@contextmanager
def small_disk(folder: Path, kib: int) -> Iterator[str]:
    """Let writes in ``folder`` fail: by a small file system where one may be mounted, else by size.

    Yields how. Without a file system of its own no file may grow beyond so many KiB.
    """
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    if mounted:
        try:
            yield f"tmpfs of {kib} KiB"
        finally:
            subprocess.run(["umount", "-l", str(folder)], check=True)
        return
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # the write then fails by itself
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, before[1]))
    try:
        yield "files limited to 1 KiB"
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def soak(
    folder: Path, sizes: tuple[int, ...], names: Sequence[str] = tuple(PROTOCOLS)
) -> dict[str, Any]:
    """Fill disks of some sizes (KiB); each run says so, and goes on elsewhere to the same end."""
    evaluate(folder / "whole", names)
    expected, kinds, refusals = left(folder / "whole"), set(), 0
    for number, kib in enumerate(sizes):
        small, kept = folder / f"small{number}", folder / f"kept{number}"
        with small_disk(small, kib) as how:
            kinds.add(how)
            try:
                evaluate(small, names)
            except StoreError as error:
                assert str(small) in str(error)
                refusals += 1
            subprocess.run(["cp", "-r", str(small), str(kept)], check=True)
        evaluate(kept, names)
        assert left(kept) == expected, kib
    return {
        "disks": ", ".join(sorted(kinds)),
        "runs that filled one": refusals,
        "resumed to the same end": len(sizes),
    }
