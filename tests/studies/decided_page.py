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

PAIRS: Final = (("6c2bd01e", "6c2bd01e"), ("2887279e", "419c8c20"), ("b359fee1", "ed4951f8"))
"""A run until decided and the complete one, by the beginnings of their keys; one went on."""


def text(results: Path) -> str:
    """Return the page."""
    records = read(results)
    lines = [_line(records, *pair) for pair in PAIRS]
    return PAGE.format(table=pd.DataFrame(lines).to_markdown(index=False))


def _line(records: list[Record], stopped: str, complete: str) -> dict[str, Any]:
    until = _pair([one for one in records if one.stopped], stopped)
    whole = _pair([one for one in records if not one.stopped], complete)
    passes = [sum(one.forwards + one.backwards for one in pair) for pair in (until, whole)]
    defended = until[1]
    return {
        "run": f"{defended.model}, {defended.mode}",
        "until decided": verdict(*until).kind,
        "images": f"{defended.n} of {json.loads(defended.stopped or '{}')['of']}",
        "passes": f"{passes[0]:,} (`{stopped}`)",
        "complete": verdict(*whole).kind,
        "all images": f"{whole[1].n} in {-(-whole[1].n // whole[1].batch_size)} batches",
        "all passes": f"{passes[1]:,} (`{complete}`)",
        "share": f"{100 * passes[0] / passes[1]:.1f}%",
    }


def _pair(records: list[Record], key: str) -> tuple[Record, Record]:
    """Return the static record that a defended one is compared with, and that one."""
    *_, defended = (record for record in records if record.key.startswith(key))
    same = ("model", "data_sha256", "attack", "eps", "norm", "batch_size", "order", "count", "n")
    *_, static = (
        record
        for record in records
        if record.mode == "static"
        and all(getattr(record, name) == getattr(defended, name) for name in same)
    )
    return static, defended


PAGE: Final = """# The answer first

`--until decided` against complete runs of the same defenses under every protocol, all under the
short attack `quick` (not AutoAttack): the verdict, and the single-image passes that it took, the
static model's among them. The stopped runs look after every batch of 64 images; the complete ones
are one that went on, and two with batches of 128, which are too few for a verdict where batches
share answers. The data are UCI digits and CIFAR-10 (JPEG copy). `python -m tests.studies --render`
makes this page of `results.csv`.

{table}

    dentbench evaluate --attack quick --protocol all --until decided --batch-size 64
"""
