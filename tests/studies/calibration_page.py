"""results/blur-calibration.md: what the paper leaves open of the blur, on training images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import pandas as pd

from dentbench.stats import wilson
from tests.studies.reading import of, table_of

NAME: Final = "blur-calibration.md"

MODEL, DATA = "cifar10-resnet20-nominal", "CIFAR-10 (JPEG copy), training images 48,000-49,999"

SETTINGS: Final = ("blur", "delta", "loss", "statistics", "lr", "sigma", "sigma_lr")
"""The columns that the study varies."""


def rows(results: Path) -> pd.DataFrame:
    """Return the records of the study, a row each, the static model's first."""
    table = table_of(results)
    chosen = table["model"].eq(MODEL) & table["dataset"].eq(DATA) & table["attack"].eq("quick")
    # A later record of the same run stands for it.
    table = table[chosen].drop_duplicates("key", keep="last")
    for stage in ("natural", "transfer"):
        table[f"sigma on {stage}"] = [_width(row, stage) for _, row in table.iterrows()]
    order = ["mode", *SETTINGS]
    return table.sort_values(order, ascending=[False] + [True] * len(SETTINGS))


def text(results: Path) -> str:
    """Return the page."""
    table = rows(results)
    static = table[table["mode"].eq("static")].iloc[0]
    dynamic = table[table["blur"].eq("dynamic")]
    natural, adversarial = (dynamic[f"sigma on {stage}"] for stage in ("natural", "transfer"))
    fades = dynamic[natural.le(adversarial / 2)].sort_values("natural_correct", ascending=False)
    best = dynamic.loc[dynamic["natural_correct"].idxmax()]
    sharp = table[table["blur"].eq("none")].iloc[0]
    return PAGE.format(
        model=MODEL,
        data=DATA,
        count=static["n"],
        table=pd.DataFrame([_line(row) for _, row in table.iterrows()]).to_markdown(index=False),
        static=_with_interval(static["natural_correct"], static["n"]),
        dynamic=len(dynamic),
        sharp=_with_interval(sharp["natural_correct"], sharp["n"]),
        best=_described(best),
        best_natural=_with_interval(best["natural_correct"], best["n"]),
        narrower=int((natural < adversarial).sum()),
        fading=len(fades),
        shapes="\n".join(f"  * {_shape(row)}" for _, row in fades.iterrows()),
    )


def _width(row: Any, stage: str) -> float:
    """Return the mean width that a dynamic sigma ends at on the images of a stage, else NaN."""
    told = json.loads(row["diagnostics"]) if isinstance(row["diagnostics"], str) else {}
    moving = row["blur"] == "dynamic"
    return float(told.get(stage, {}).get("sigma", "nan")) if moving else float("nan")


def _line(row: Any) -> dict[str, str]:
    count = row["n"]
    if row["mode"] == "static":
        line = {name.replace("_", " "): "" for name in SETTINGS} | {"blur": "the network alone"}
    else:
        line = {name.replace("_", " "): _told(row[name]) for name in SETTINGS}
    line["natural"] = _with_interval(row["natural_correct"], count)
    counts = json.loads(row["by_protocol"])
    line["transfer"] = _with_interval(counts["transfer"], count) if "transfer" in counts else ""
    for stage in ("natural", "transfer"):
        width = row[f"sigma on {stage}"]
        line[f"sigma on {stage}"] = "" if pd.isna(width) else f"{width:.2f}"
    return line


def _shape(row: Any) -> str:
    counts = json.loads(row["by_protocol"])
    return (
        f"{_described(row)}: sigma {row['sigma on natural']:.2f} on natural images and "
        f"{row['sigma on transfer']:.2f} on adversarial ones; natural accuracy "
        f"{of(row['natural_correct'], row['n'])}, under transfer {of(counts['transfer'], row['n'])}"
    )


def _with_interval(count: float, n: int) -> str:
    low, high = wilson(count, n)
    return f"{of(count, n)}, {100 * low:.0f}-{100 * high:.0f}"


def _described(row: Any) -> str:
    told = {name.replace("_", " "): _told(row[name]) for name in SETTINGS[1:]}
    return ", ".join(f"{name} {value}" for name, value in told.items() if value)


def _told(value: object) -> str:
    if isinstance(value, float):
        return "" if pd.isna(value) else f"{value:g}"
    return str(value)


PAGE: Final = """# What the paper leaves open of the blur

Batch-wise dent of 10 steps on `{model}`, Linf 1.5/255, {count} images of
"{data}", which no other number is measured
on. *Transfer* are the static model's points under the short attack `quick` (not AutoAttack), judged
on the defense; it is the only protocol that was run, so no number here is a worst case. Intervals
are Wilson, 95%, of images on their own; those of a batch share its adaptation.
`python -m tests.studies --render` makes this page of `results.csv`; the study is
`studies/table2-calibration.toml`.

{table}

* **The paper's shape.** On natural images the learned sigma shrinks and "approximates the identity
  transformation", and natural accuracy is 92.5%, 3.1 points below the network alone (section 3.2).
* **Natural accuracy.** The network alone has {static}, dent without a blur
  {sharp}: so much of the loss is not the blur's. Of {dynamic} settings of
  a dynamic blur the best one ({best})
  has {best_natural}.
* **Where sigma ends.** In {narrower} of the {dynamic} it is narrower on natural images than on the
  static model's adversarial ones. In {fading} it is less than half as wide there:
{shapes}
"""
