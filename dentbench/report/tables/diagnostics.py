"""The table of diagnostics: the effect of the adaptations of one record."""

from __future__ import annotations

import json
from typing import Any, Final

from dentbench.records.outcome import Record
from dentbench.report.numbers import Share
from dentbench.report.table import Column, Table

MEASURES: Final = (
    ("loss_before", "loss before"),
    ("loss_after", "loss after"),
    ("entropy_before", "entropy before"),
    ("entropy_after", "entropy after"),
    ("sigma", "sigma"),
    ("gamma_moved", "scales moved"),
    ("beta_moved", "shifts moved"),
    ("label_balance", "balance of labels"),
    ("predicted_balance", "balance of predictions"),
)
"""The numbers of a stage's summary (see ``evaluation/measurements.py``) and their names."""


def diagnostics(record: Record) -> Table:
    """Return the diagnostics of a record, a column for each kind of images; it must have some."""
    stages: dict[str, dict[str, Any]] = json.loads(record.diagnostics or "{}")
    rows: list[list[object]] = [
        [title, *(_text(summary[name]) for summary in stages.values())]
        for name, title in MEASURES
        if any(summary[name] is not None for summary in stages.values())
    ]
    flips = [Share(summary["flips"], summary["images"]) for summary in stages.values()]
    rows.append(["predictions not the static model's", *flips])
    return Table.of(
        "Effect of the adaptation",
        (Column(""), *(Column(f"{stage} images", "right") for stage in stages)),
        rows,
        caption=(
            "Means over the images; entropy in nats, sigma in pixels. Before: the start "
            "parameters with the defense's blur and statistics. Balance: 1 is all classes "
            "evenly in a batch, 0 a single class."
        ),
    )


def _text(value: float | None) -> str | None:
    return None if value is None else f"{value:.4g}"
