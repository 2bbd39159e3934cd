"""results/blur.md: what the blur does on a nominal network, from the records of ``table2``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import pandas as pd

from tests.studies.reading import of, table_of

NAME: Final = "blur.md"

MODEL, COUNT = "cifar10-resnet20-nominal", 512
LATER: Final = "affine-after:6"
"""The setting of ``table2-shape``: sigma moves first, scales and shifts later."""

THREATS: Final = {"Linf": "1.5/255", "L2": "0.2"}


def text(results: Path) -> str:
    """Return the page."""
    table = table_of(results)
    chosen = table["model"].eq(MODEL) & table["first"].eq(0) & table["count"].eq(COUNT)
    table = table[chosen & table["attack"].eq("quick")]
    later = table[table["delta"].eq(LATER) & table["norm"].eq("Linf")].iloc[-1]
    sigma_later = json.loads(later["diagnostics"])
    table = table[table["delta"].ne(LATER)]
    worst = {norm: _worst(table, norm, eps) for norm, eps in THREATS.items()}
    linf = _of_threat(table, "Linf", THREATS["Linf"])
    dynamic, fixed = linf["dynamic", 10], linf["static", 10]
    diagnostics = json.loads(dynamic["diagnostics"])
    return PAGE.format(
        model=MODEL,
        count=COUNT,
        natural=of(linf["static model"]["natural_correct"], COUNT),
        natural_sharp=of(linf["none", 1]["natural_correct"], COUNT),
        natural_blurred=of(linf["static", 0]["natural_correct"], COUNT),
        natural_fixed=of(fixed["natural_correct"], COUNT),
        natural_dynamic=of(dynamic["natural_correct"], COUNT),
        sigma=f"{dynamic['sigma']:g}",
        sigma_natural=f"{diagnostics['natural']['sigma']:.2f}",
        sigma_adversarial=f"{diagnostics['transfer']['sigma']:.2f}",
        natural_later=of(later["natural_correct"], COUNT),
        sigma_later=f"{sigma_later['natural']['sigma']:.2f}",
        sigma_later_adversarial=f"{sigma_later['transfer']['sigma']:.2f}",
        transfer=json.loads(dynamic["by_protocol"])["transfer"],
        transfer_later=json.loads(later["by_protocol"])["transfer"],
        none=worst["Linf"]["static model"],
        one=worst["Linf"]["static", 1],
        ten=worst["Linf"]["static", 10],
        one_l2=worst["L2"]["static", 1],
        ten_l2=worst["L2"]["static", 10],
        dynamic=worst["Linf"]["dynamic", 10],
        dynamic_l2=worst["L2"]["dynamic", 10],
        alone=worst["Linf"]["none", 1],
        alone_l2=worst["L2"]["none", 1],
        none_l2=worst["L2"]["static model"],
    )


def _of_threat(table: pd.DataFrame, norm: str, eps: str) -> dict[Any, Any]:
    """Return the records of one threat by (blur, steps), and the static model's."""
    result: dict[Any, Any] = {}
    for _, row in table[table["norm"].eq(norm) & table["eps"].eq(eps)].iterrows():
        static = row["mode"] == "static"
        result["static model" if static else (row["blur"], int(row["steps"]))] = row
    return result


def _worst(table: pd.DataFrame, norm: str, eps: str) -> dict[Any, int]:
    return {key: int(row["robust_correct"]) for key, row in _of_threat(table, norm, eps).items()}


PAGE: Final = """# What the blur does on a nominal network

The paper's Table 2 on `{model}`, a nominal network trained on the same kind of images: the six
rows, batch-wise, the first {count} test images of "CIFAR-10 (JPEG copy)", Linf 1.5/255 and L2 0.2,
under the short attack `quick` (not AutoAttack) by the protocols `published` and `transfer`.
`python -m tests.studies --render` makes this page of `results.csv`; the study is
`studies/table2.toml`, the table with intervals `tables/table2.md`.

* **Does dynamic blur keep natural accuracy?** Not by default; where sigma moves first, as much as
  dent has without a blur. The network alone has {natural}, and dent without a blur {natural_sharp}
  after one step. Static blur without adaptation has {natural_blurred}, with ten
  steps {natural_fixed}, dynamic blur {natural_dynamic}, and where sigma moves alone for six of the
  ten steps (`--delta affine-after:6`, chosen on [training images](blur-calibration.md))
  {natural_later}.
* **Does sigma shrink on natural images and not on adversarial ones?** Yes. It starts at {sigma} and
  ends at {sigma_natural} on natural images, at {sigma_adversarial} on the static model's
  adversarial ones; where it moves first at {sigma_later} and at {sigma_later_adversarial}, with
  {transfer_later} images right at these points instead of {transfer}.
* **Do ten steps beat one?** Yes, with static blur: {ten} against {one} images in the worst case in
  Linf, {ten_l2} against {one_l2} in L2. One step without blur is worse than none: {alone} against
  {none} in Linf, {alone_l2} against {none_l2} in L2.
* **Does dynamic blur beat static blur?** By a little: {dynamic} against {ten} in Linf, {dynamic_l2}
  against {ten_l2} in L2, at ten steps.
* **Is it a gain?** Not decided. Two protocols of a short attack were run, in four batches whose
  images are coupled; `holds` wants the others, with AutoAttack's budget, and more batches.
"""
