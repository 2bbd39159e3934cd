"""results/gain.md: what makes dent's published gain, from the records of the study ``gain``."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import pandas as pd

from tests.studies.reading import of, table_of

NAME: Final = "gain.md"

SIZE: Final = 128
"""The batches of the rows that do not vary it."""

SIZES: Final = (16, 32, SIZE)
"""The sizes of batches that are compared, under dent's own settings."""

MODEL, DATA, COUNT = "cifar10-resnet20-robust", "CIFAR-10 (JPEG copy)", 256

SETTINGS: Final = ("loss", "statistics", "order", "batch_size")
"""The columns that the study varies."""


def rows(results: Path) -> pd.DataFrame:
    """Return the records of the study, a row each, the static ones first."""
    table = table_of(results)
    chosen = table["model"].eq(MODEL) & table["dataset"].eq(DATA) & table["count"].eq(COUNT)
    chosen &= table["attack"].eq("quick") & table["eps"].eq("8/255")
    chosen &= table["mode"].isin(["static", "instance"])
    # A later record of the same run stands for it.
    return table[chosen].drop_duplicates("key", keep="last").reset_index(drop=True)


def text(results: Path) -> str:
    """Return the page."""
    table = rows(results)
    static = table[table["mode"].eq("static")].set_index(["order", "batch_size"])
    dents = table[table["mode"].eq("instance")]
    lines = [
        _line(row, static.loc[(row["order"], row["batch_size"])]) for _, row in dents.iterrows()
    ]
    shown = pd.DataFrame(lines).to_markdown(index=False)
    alone = static.loc[("given", SIZE)]
    base = _chosen(dents, loss="shot", statistics="running", order="given")
    sorted_ = _chosen(dents, loss="shot", statistics="running", order="label-windows:256")
    batch = _chosen(dents, loss="shot", statistics="batch", order="given")
    entropy = _chosen(dents, loss="entropy", statistics="running", order="given")
    return PAGE.format(
        model=MODEL,
        data=DATA,
        count=COUNT,
        table=shown,
        static=of(alone["robust_correct"], COUNT),
        published=of(_under(base, "published"), COUNT),
        gained=_under(base, "published") - int(alone["robust_correct"]),
        stale=_under(base, "published") - _under(base, "transfer"),
        left=_under(base, "unrolled") - int(alone["robust_correct"]),
        transfer=of(_under(base, "transfer"), COUNT),
        entropy=_under(entropy, "published"),
        shot=_under(base, "published"),
        entropy_worst=int(entropy["robust_correct"]),
        natural=int(base["natural_correct"]),
        natural_sorted=int(sorted_["natural_correct"]),
        worst_sorted=int(sorted_["robust_correct"]),
        static_sorted=int(static.loc[("label-windows:256", SIZE), "robust_correct"]),
        transfer_batch=_under(batch, "transfer"),
        unrolled_batch=_under(batch, "unrolled"),
        natural_batch=int(batch["natural_correct"]),
        mates=_mates(base),
        sizes=_sizes(dents),
    )


def _chosen(table: pd.DataFrame, *, batch_size: int = SIZE, **settings: str) -> Any:
    table = table[table["batch_size"].eq(batch_size)]
    for name, value in settings.items():
        table = table[table[name].eq(value)]
    (row,) = (row for _, row in table.iterrows())
    return row


def _under(row: Any, protocol: str) -> int:
    return int(json.loads(row["by_protocol"])[protocol])


def _sizes(dents: pd.DataFrame) -> str:
    rows = [
        _chosen(dents, batch_size=size, loss="shot", statistics="running", order="given")
        for size in SIZES
    ]
    natural, published, unrolled = (
        _listed(int(count) for count in counts)
        for counts in (
            (row["natural_correct"] for row in rows),
            (_under(row, "published") for row in rows),
            (_under(row, "unrolled") for row in rows),
        )
    )
    return (
        f"In batches of {_listed(SIZES)} dent is right about {natural} natural\n"
        f"  images, {published} under `published`, and {unrolled} under the protocols\n"
        f"  up to `unrolled`, of which more were run in batches of {SIZE}."
    )


def _listed(values: Iterable[int]) -> str:
    *first, last = map(str, values)
    return f"{', '.join(first)} and {last}"


def _mates(row: Any) -> str:
    counts = json.loads(row["by_protocol"])
    if "batch-mates" not in counts:
        return ""
    return (
        f"\n  Judged among other mates (`batch-mates`), {counts['batch-mates']} of the "
        f"{counts['unrolled']} are left."
    )


def _line(row: Any, static: Any) -> dict[str, str]:
    counts = json.loads(row["by_protocol"])
    line = {name.replace("_", " "): str(row[name]) for name in SETTINGS}
    line["natural"] = of(row["natural_correct"], COUNT)
    for name in ("published", "transfer", "warm", "unrolled"):
        line[name] = of(counts[name], COUNT)
    line["worst case"] = of(row["robust_correct"], COUNT)
    line["static alone"] = of(static["robust_correct"], COUNT)
    return line


PAGE: Final = """# What makes dent's published gain

Instance-wise dent of 6 steps on `{model}`, Linf 8/255, the first {count} test images of "{data}",
under the short attack `quick` (not AutoAttack). `python -m tests.studies --render` makes this page
of `results.csv`; the study is `studies/gain.toml`.

{table}

* **The stale gradient makes it.** The static model has {static}, dent under its published protocol
  {published}: {gained} images more. The static model's own adversarial points, shown to dent as
  they are (`transfer`), break {stale} of dent's {shot}: {transfer} are left. Through all steps
  (`unrolled`) dent has {left:+d} against the static model.{mates}
* **The loss does not.** Entropy has {entropy} under published and {entropy_worst} in the worst
  case, shot {shot}.
* **Statistics of the batch** give natural images away ({natural_batch} right after {natural}), and
  the points found on the static model lose some of their force ({transfer_batch} survive
  `transfer`), but none of it lasts: {unrolled_batch} survive the gradient through all steps.
* **Composition of batches.** Where each batch holds few classes (sorted by label in windows of
  256), dent is right about {natural_sorted} natural images in place of {natural}, and in the worst
  case about {worst_sorted}; the static model, which knows no batches, about {static_sorted}.
* **The size of a batch.** {sizes}
"""
