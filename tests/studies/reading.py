"""Helpers of the pages in words: the records as a table, and a count beside its percentage."""

from __future__ import annotations

from pathlib import Path

import pandas as pd


def table_of(results: Path) -> pd.DataFrame:
    """Return the records of a results folder as they are stored, a row each."""
    return pd.read_csv(results / "results.csv", low_memory=False)


def of(count: float, n: int) -> str:
    """Return a count beside its percentage."""
    return f"{100 * count / n:.1f}% ({int(count)}/{n})"
