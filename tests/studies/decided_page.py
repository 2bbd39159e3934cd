"""results/decided.md: runs that stopped when they were decided, beside the complete ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import pandas as pd

from dentbench.records.outcome import Record
from dentbench.records.results_csv import read
from dentbench.report.verdict import verdict

NAME: Final = "decided.md"

PAIRS: Final = (("6c2bd01e", "713b33a9"), ("2887279e", "419c8c20"), ("b359fee1", "ed4951f8"))
"""A run until decided and the complete one, by the beginnings of their keys."""


def text(results: Path) -> str:
    """Return the page."""
    records = read(results)
    lines = [_line(records, *pair) for pair in PAIRS]
    return PAGE.format(table=pd.DataFrame(lines).to_markdown(index=False))


def _line(records: list[Record], stopped: str, complete: str) -> dict[str, Any]:
    (_, until), (base, whole) = (_pair(records, key) for key in (stopped, complete))
    passes = [_passes(records, key) for key in (stopped, complete)]
    return {
        "run": f"{until.model}, {until.mode}",
        "until decided": _said(*_pair(records, stopped)),
        "images": f"{until.n} of {json.loads(until.stopped or '{}')['of']}",
        "passes": f"{passes[0]:,} (`{stopped}`)",
        "complete": _said(base, whole),
        "all images": whole.n,
        "all passes": f"{passes[1]:,} (`{complete}`)",
        "share": f"{100 * passes[0] / passes[1]:.1f}%",
    }


def _pair(records: list[Record], key: str) -> tuple[Record, Record]:
    """Return the static record that a defended one is compared with, and that one."""
    (defended,) = (record for record in records if record.key.startswith(key))
    same = ("model", "data_sha256", "attack", "eps", "norm", "batch_size", "order", "count")
    static = [
        record
        for record in records
        if record.mode == "static"
        and all(getattr(record, name) == getattr(defended, name) for name in same)
    ]
    return static[-1], defended


def _said(static: Record, defended: Record) -> str:
    return verdict(static, defended).kind


def _passes(records: list[Record], key: str) -> int:
    return sum(record.forwards + record.backwards for record in _pair(records, key))


PAGE: Final = """# The answer first

`--until decided` against complete runs of the same defenses under every protocol, all under the
short attack `quick` (not AutoAttack): the verdict, and the single-image passes that it took, the
static model's among them. The stopped runs look after every batch of 64 images; the complete ones
have batches of 128, and on CIFAR-10 (JPEG copy) 256 images. `python -m tests.studies --render`
makes this page of `results.csv`.

{table}

    dentbench evaluate --attack quick --protocol all --until decided --batch-size 64
"""
