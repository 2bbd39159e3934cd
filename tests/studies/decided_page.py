"""results/decided.md: runs that stopped when they were decided, beside the complete ones."""

from __future__ import annotations

import dataclasses
import json
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import pandas as pd

from dentbench.attacks.catalogue import PROTOCOLS
from dentbench.evaluation.estimates.duration import bound, stages_of
from dentbench.records.outcome import Record
from dentbench.records.results_csv import read
from dentbench.report.verdict import verdict
from dentbench.spec.evaluation import AttackSpec, DataSpec, DentSpec, EvalSpec, ModelSpec
from tests.studies.reading import of

NAME: Final = "decided.md"

PAIRS: Final = (("6c2bd01e", "6c2bd01e"), ("2887279e", "419c8c20"), ("b359fee1", "ed4951f8"))
"""A run until decided and the complete one, by the beginnings of their keys; one went on."""

STANDARD: Final = ("digits-robust", "cifar10-resnet20-robust")
"""The models that AutoAttack standard attacked until the verdict on dent was decided."""

CLASSES: Final = 10


def text(results: Path) -> str:
    """Return the page."""
    records = read(results)
    short = [_line(records, *pair) for pair in PAIRS]
    standard = [
        _standard(records, record.key[:8])
        for model in STANDARD
        for record in records
        if record.stopped
        and record.model == model
        and record.attack == "standard"
        and record.mode in ("instance", "batch")
    ]
    return PAGE.format(
        short=pd.DataFrame(short).to_markdown(index=False),
        standard=pd.DataFrame(standard).to_markdown(index=False),
    )


def _standard(records: list[Record], key: str) -> dict[str, Any]:
    static, defended = _pair(records, key, early=True)
    stopped = json.loads(defended.stopped or "{}")
    passes = sum(item.forwards + item.backwards for item in (static, defended))
    image = passes_of_a_survivor(defended)
    left = (defended.robust_correct or 0) / defended.n if defended.separable else 1
    some = round(image * stopped["of"] * left)
    judged = verdict(static, defended)
    return {
        "run": f"{defended.model}, {defended.mode}",
        "until decided": judged.kind,
        "images": f"{defended.n} of {stopped['of']}",
        "static": of(defended.static_correct or 0, defended.n),
        "dent's worst case": of(defended.robust_correct or 0, defended.n),
        "difference": f"{stopped['low']:+.1f} to {stopped['high']:+.1f}",
        "passes": f"{passes:,} (`{key}`)",
        "of a complete run": f"{100 * passes / some:.1f}% of {some:,}",
        "of its bound": f"{100 * passes / image / stopped['of']:.2f}%",
    }


def passes_of_a_survivor(record: Record) -> int:
    """Return the passes that every protocol and the static model's attacks cost on an image that
    survives all of them; dent's settings are those of the record."""
    names = [field.name for field in dataclasses.fields(DentSpec)]
    given = {name: getattr(record, name) for name in names if getattr(record, name) is not None}
    spec = EvalSpec(
        model=ModelSpec(name=record.model, sha256=record.model_sha256),
        data=DataSpec(name=record.dataset, sha256=record.data_sha256, first=0, count=record.n),
        defense=DentSpec(**given),
        attack=AttackSpec(name=record.attack, norm=record.norm, eps=Fraction(record.eps)),
    )
    protocols = [name for name in PROTOCOLS if name not in json.loads(record.skipped or "{}")]
    passes = [bound(owner, stage, CLASSES) for owner, stage in stages_of([spec], {spec: protocols})]
    return sum(pass_.forwards + pass_.backwards for pass_ in passes)


def _line(records: list[Record], stopped: str, complete: str) -> dict[str, Any]:
    until = _pair(records, stopped, early=True)
    whole = _pair(records, complete, early=False)
    passes = [sum(item.forwards + item.backwards for item in pair) for pair in (until, whole)]
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


def _pair(records: list[Record], key: str, *, early: bool) -> tuple[Record, Record]:
    """Return the static record that a defended one is compared with, and that one.

    ``early``: of the records of that key, one that stopped when its verdict was decided.
    """
    *_, defended = (
        record for record in records if record.key.startswith(key) and bool(record.stopped) == early
    )
    same = ("model", "data_sha256", "attack", "eps", "norm", "batch_size", "order", "count", "n")
    *_, static = (
        record
        for record in records
        if record.mode == "static"
        and all(getattr(record, name) == getattr(defended, name) for name in same)
    )
    return static, defended


PAGE: Final = """# The answer first

What `--until decided` saves: the verdict, and the single-image passes that it took, the static
model's among them. The runs look after every batch of 64 images. The data are UCI digits and
CIFAR-10 (JPEG copy). `python -m tests.studies --render` makes this page of `results.csv`.

## AutoAttack standard

Dent in both modes, `--protocol all`. No complete run was made. *Of its bound*: the passes of a
complete run if every image survived every attack, counted exactly. *Of a complete run*: if as large
a share survived as did here, and no other image cost anything, which is less than it would cost.
Where answers depend on batch mates, dent is asked about all images of a batch while one of them is
left, so there it is the bound. The passes are those on the images judged: on the ResNet-20,
batch-wise, the protocol that decided called for more images than it took, and those before it had
seen up to all 1,000. The difference is in points, in the interval that is valid where the run
stopped.

{standard}

    dentbench evaluate --config results/studies/digits-decided.toml
    dentbench evaluate --config results/studies/table1-decided.toml --data cifar10-jpeg-test.parquet

## Beside complete runs, under the short attack

`quick` is not AutoAttack. One of the complete runs is a stopped one that went on; two have batches
of 128, which are too few for a verdict where batches share answers.

{short}

    dentbench evaluate --attack quick --protocol all --until decided --batch-size 64
"""
