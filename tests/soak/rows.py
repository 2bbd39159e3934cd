"""Processes that append to one results file while others read it: every row whole, and once."""

from __future__ import annotations

import multiprocessing
from dataclasses import replace
from pathlib import Path
from typing import Any

from dentbench.records import results_csv
from dentbench.records.outcome import Record


def _write(folder: Path, record: Record, start: int, count: int, barrier: Any) -> None:
    barrier.wait()
    for number in range(start, start + count):
        assert results_csv.append(folder, replace(record, key=f"{number:016x}"))


def _read(folder: Path, record: Record, barrier: Any, stop: Any, seen: Any) -> None:
    barrier.wait()
    last = 0
    while not stop.wait(0.1):
        result = results_csv.read(folder)
        assert len(result) >= last
        assert all(replace(item, key=record.key) == record for item in result)
        last = len(result)
        seen.value += 1


def soak(folder: Path, record: Record, writers: int, count: int) -> dict[str, Any]:
    """Let ``writers`` processes append ``count`` rows each, beside two readers."""
    folder.mkdir(parents=True)
    context = multiprocessing.get_context("fork")
    barrier, stop = context.Barrier(writers + 2), context.Event()
    seen = [context.Value("i", 0) for _ in range(2)]
    writing = [
        context.Process(target=_write, args=(folder, record, 1000 * n, count, barrier))
        for n in range(writers)
    ]
    reading = [context.Process(target=_read, args=(folder, record, barrier, stop, s)) for s in seen]
    for process in (*writing, *reading):
        process.start()
    for process in writing:
        process.join()
    stop.set()
    for process in reading:
        process.join()
    assert all(process.exitcode == 0 for process in (*writing, *reading))
    keys = [int(item.key, 16) for item in results_csv.read(folder)]
    expected = [1000 * n + number for n in range(writers) for number in range(count)]
    assert sorted(keys) == expected
    assert not (folder / "results.csv.torn").exists()
    reads = sum(value.value for value in seen)
    return {"writers": writers, "rows written": len(keys), "reads meanwhile": reads}
