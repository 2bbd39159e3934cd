"""results/blur-calibration.md: what the paper leaves open of the blur, on training images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import pandas as pd

from tests.studies.reading import of, table_of

NAME: Final = "blur-calibration.md"

MODEL, DATA = "cifar10-resnet20-nominal", "CIFAR-10 (JPEG copy), training images 48,000-49,999"

SETTINGS: Final = ("blur", "loss", "statistics", "delta", "lr", "sigma", "sigma_lr")
"""The columns that the study varies."""


def rows(results: Path) -> pd.DataFrame:
    """Return the records of the study, a row each, the static model's first."""
    table = table_of(results)
    chosen = table["model"].eq(MODEL) & table["dataset"].eq(DATA) & table["attack"].eq("quick")
    # A later record of the same run stands for it.
    table = table[chosen].drop_duplicates("key", keep="last")
    order = ["mode", *SETTINGS]
    return table.sort_values(order, ascending=[False] + [True] * len(SETTINGS))


def text(results: Path) -> str:
    """Return the page."""
    table = rows(results)
    static = table[table["mode"].eq("static")].iloc[0]
    dents = table[table["mode"].eq("batch")]
    dynamic = dents[dents["blur"].eq("dynamic")]
    natural, transfer = (_width(dynamic, stage) for stage in ("natural", "transfer"))
    kept = dynamic[dynamic["natural_correct"].ge(static["natural_correct"])]
    fading, best = dynamic.loc[natural.idxmin()], dynamic.loc[dynamic["natural_correct"].idxmax()]
    return PAGE.format(
        model=MODEL,
        data=DATA,
        count=static["n"],
        table=pd.DataFrame([_line(row) for _, row in table.iterrows()]).to_markdown(index=False),
        static=of(static["natural_correct"], static["n"]),
        dynamic=len(dynamic),
        kept=len(kept),
        best=_described(best),
        best_natural=of(best["natural_correct"], best["n"]),
        fading=_described(fading),
        least=f"{natural.min():.2f}",
        least_adversarial=f"{transfer[fading.name]:.2f}",
        fading_natural=of(fading["natural_correct"], fading["n"]),
        shaped=int((natural < transfer).sum()),
    )


def _width(table: pd.DataFrame, stage: str) -> pd.Series[float]:
    """Return the mean width that sigma ends at on the images of a stage."""
    return table["diagnostics"].map(lambda told: json.loads(told)[stage].get("sigma", float("nan")))


def _line(row: Any) -> dict[str, str]:
    count = row["n"]
    if row["mode"] == "static":
        line = {name.replace("_", " "): "" for name in SETTINGS} | {"blur": "the network alone"}
    else:
        line = {name.replace("_", " "): _told(row[name]) for name in SETTINGS}
    line["natural"] = of(row["natural_correct"], count)
    counts = json.loads(row["by_protocol"])
    line["transfer"] = of(counts["transfer"], count) if "transfer" in counts else ""
    told = json.loads(row["diagnostics"]) if isinstance(row["diagnostics"], str) else {}
    for stage in ("natural", "transfer"):
        width = told.get(stage, {}).get("sigma")
        moving = row["blur"] == "dynamic" and width is not None
        line[f"sigma on {stage}"] = f"{width:.2f}" if moving else ""
    return line


def _described(row: Any) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {_told(row[name])}" for name in SETTINGS[1:])


def _told(value: object) -> str:
    if isinstance(value, float):
        return "" if pd.isna(value) else f"{value:g}"
    return str(value)


PAGE: Final = """# What the paper leaves open of the blur

Batch-wise dent of 10 steps on `{model}`, Linf 1.5/255, {count} images of
"{data}", which no other number is measured
on. *Transfer* are the static model's points under the short attack `quick` (not AutoAttack), judged
on the defense; it is the only protocol that was run, so no number here is a worst case.
`python -m tests.studies --render` makes this page of `results.csv`; the study is
`studies/table2-calibration.toml`.

{table}

* **Natural accuracy.** The network alone has {static}. Of {dynamic} settings of a dynamic blur
  {kept} keep that; the best one ({best}) has {best_natural}.
* **Where sigma ends.** In {shaped} of the {dynamic} it is narrower on natural images than on the
  static model's adversarial ones. It goes down furthest with {fading}:
  to {least} on natural images, {least_adversarial} on adversarial ones, with {fading_natural}
  natural images right.
"""
