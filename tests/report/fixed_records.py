"""Records made by hand, which the golden files of the report were made from, and the check."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dentbench.records.outcome import Record
from dentbench.spec.dent import BLUR_DEFAULTS, MODE_DEFAULTS

GOLDEN = Path(__file__).parents[1] / "golden" / "report"

CIFAR = {"dataset": "CIFAR-10 (test)", "data_sha256": "c" * 64, "count": 10_000, "n": 10_000}
FULL = {"attack": "standard", "attack_label": "AutoAttack standard"}
QUICK = {
    "attack": "quick",
    "attack_label": "quick: APGD-CE and APGD-T with 3 targets, 10 iterations each (not AutoAttack)",
    "norm": "Linf",
    "eps": "0.15",
}
DIGITS: dict[str, Any] = {
    "dataset": "UCI digits (test)",
    "data_sha256": "d" * 64,
    "count": 512,
    "n": 512,
    "batch_size": 64,
}
DENT = {
    "mode": "instance",
    "steps": 6,
    "delta": "affine",
    "layers": "batchnorm",
    "blur": "none",
    "loss": "shot",
    "statistics": "running",
    "optimizer": "adamod",
    "lr": 6e-3,
    "beta1": 0.99,
    "beta2": 0.999,
    "beta3": 0.6,
    "optimizer_eps": 1e-8,
    "momentum": 0.9,
    "nesterov": True,
    "separable": False,
}
BATCH = {"mode": "batch", **MODE_DEFAULTS["batch"]}
STATIC_BLUR = {"blur": "static", **BLUR_DEFAULTS["static"]}
DYNAMIC_BLUR = {"blur": "dynamic", **BLUR_DEFAULTS["dynamic"]}


def make(number: int, natural: int, counts: dict[str, int], **changes: Any) -> Record:
    """Return a record; ``counts`` are the images right under each protocol."""
    worst = min(counts, key=lambda name: counts[name])
    values = {
        "key": f"{number:016x}",
        "time": f"2026-11-22T08:{number:02d}:00Z",
        "model": "Carmon2019Unlabeled",
        "model_sha256": "a" * 64,
        **CIFAR,
        **FULL,
        "first": 0,
        "mode": "static",
        "separable": True,
        "norm": "Linf",
        "eps": "8/255",
        "batch_size": 128,
        "batching": "declared",
        "protocol": " ".join(counts),
        "seed": 0,
        "natural_correct": natural,
        "robust_correct": counts[worst],
        "worst_protocol": worst,
        "by_protocol": json.dumps(counts),
        "broken_by": "{}",
        "forwards": 1000,
        "backwards": 900,
        "seconds": 12.5,
        "device": "cpu",
        "versions": "{}",
        "git_revision": "",
    }
    values |= changes
    if not values["separable"] and "gained" in values and "by_batch" not in values:
        sizes = range(0, values["n"], values["batch_size"])
        spread = {side: evenly(values[side], len(sizes)) for side in ("gained", "lost")}
        values["by_batch"] = json.dumps(spread)
    return Record(**values)


def evenly(count: int, parts: int) -> list[int]:
    """Return a count in so many parts that differ by one at most."""
    return [count * (at + 1) // parts - count * at // parts for at in range(parts)]


def fixed_records() -> list[Record]:
    """Return records of many kinds: full, short, quick, other data, ablation, hostile names."""
    digits = {**DIGITS, **QUICK, "model": "digits-robust", "model_sha256": "e" * 64}
    ding = {"model": "Ding2020MMA", "model_sha256": "9" * 64, "count": 128, "n": 128}
    jpeg = {"dataset": "CIFAR-10 (JPEG copy)", "data_sha256": "f" * 64, "count": 256, "n": 256}
    nominal = {"model": "AutoAttackResNet18", "model_sha256": "7" * 64, "count": 64, "n": 64}
    hostile = {"model": r"=x_1&50%$#{~^\end", "model_sha256": "6" * 64, **DIGITS, **QUICK}
    both = {"gained": 33, "lost": 20}
    return [
        make(1, 8969, {"published": 5950}),
        make(2, 8931, {"published": 8230, "transfer": 5963}, **DENT, **both),
        make(3, 9085, {"published": 7470}, **{**DENT, **BATCH}, gained=1600, lost=80),
        make(4, 108, {"published": 53}, **ding),
        make(5, 109, {"published": 82, "transfer": 54}, **ding, **DENT, gained=2, lost=1),
        make(6, 505, {"published": 347}, **digits),
        make(
            7,
            505,
            {"published": 402, "transfer": 349},
            **{**digits, **DENT, "lr": 0.02},
            gained=6,
            lost=4,
        ),
        make(8, 200, {"published": 90}, **jpeg),
        make(9, 199, {"published": 160, "transfer": 91}, **jpeg, **DENT, gained=3, lost=2),
        make(10, 60, {"published": 3}, **nominal, eps="1.5/255"),
        make(11, 60, {"published": 5}, **nominal, norm="L2", eps="0.2"),
        make(
            12,
            59,
            {"published": 10, "transfer": 4},
            **{**nominal, **DENT, **BATCH, "steps": 1},
            eps="1.5/255",
            gained=2,
            lost=1,
        ),
        make(13, 500, {"published": 300}, **hostile),
        make(14, 499, {"published": 400, "transfer": 250}, **hostile, **DENT, gained=10, lost=60),
        *ablation_records({**nominal, **DENT, **BATCH}),
    ]


def ablation_records(batch: dict[str, Any]) -> list[Record]:
    """Return rows of Table 2 beside the one above, another sigma, and another model's row."""
    linf, ten = {"eps": "1.5/255"}, {"steps": 10, "time_ratio": 25.87}
    nothing = {"steps": 0, "delta": "none", "separable": True, "time_ratio": 1.04}
    digits = {**DIGITS, **QUICK, "model": "digits-nominal", "model_sha256": "5" * 64}
    both = {"published": 30, "transfer": 12}
    return [
        make(15, 52, {"published": 20}, **{**batch, **STATIC_BLUR, **nothing, **linf}),
        make(16, 58, both, **{**batch, **DYNAMIC_BLUR, **ten, **linf}, gained=9, lost=1),
        make(17, 57, both, **{**batch, **DYNAMIC_BLUR, **ten, **linf, "sigma": 2.0}),
        make(18, 500, {"published": 50}, **digits),
        make(19, 500, {"published": 60}, **{**digits, **DENT, **BATCH, **QUICK, "steps": 1}),
    ]


def long_named() -> list[Record]:
    """Return a static and a defended record of long names, on many images."""
    name, n = "Gowal2021Improving_R18_ddpm_100m_and_a_very_long_name_of_my_own", 50_000
    own = {"defense": "my_very_long_module_name:make_the_defense", "mode": "other"}
    names = {"model": name, "dataset": name, "n": n, "count": n}
    static = make(61, n, {"published": n - 1}, **names)
    return [static, make(62, n, {"published": n - 1}, gained=0, lost=0, **names, **own)]


FOUND: dict[str, Any] = {
    "compositions": {
        "declared": {"natural": 98, "attacked": 60},
        "shuffled": {"natural": 97, "attacked": 55, "lost": 2, "broken": 4},
        "alone": {"natural": 10, "attacked": 9, "lost": 88, "broken": 1},
    },
    "invading": {
        "5%": {"malicious": 5, "unperturbed": 95, "right_before": 94, "right_after": 19},
    },
}
COUNTS = {"published": 80, "batch-mates": 52}


def coupled(make_record: Callable[..., Record], **changes: Any) -> Record:
    mates = {"batch_mates": json.dumps(FOUND), "batch_worst_correct": 56, "n": 100, "count": 100}
    return make_record(2, 98, COUNTS, **{**DENT, **mates, **changes})


def grid(records: list[Record]) -> list[Record]:
    """The sixth and seventh record at three eps, and the latter at two more numbers of steps."""
    static, dent = records[5], records[6]
    result = []
    for number, (eps, lost) in enumerate((("0", 0), ("0.1", 100), ("0.15", 158))):
        right = 505 - lost
        counts = {"robust_correct": right, "by_protocol": f'{{"published": {right}}}', "eps": eps}
        result.append(replace(static, key=f"a{number:015}", **counts))
        for steps in (6, 1, 3) if eps == "0.15" else (6,):
            own = {
                "robust_correct": right + 2,
                "by_protocol": f'{{"published": {right + steps}, "transfer": {right + 2}}}',
            }
            key = f"b{number:010}{steps:05}"
            own |= {"forwards": number + steps, "seconds": steps, "device": key}
            result.append(replace(dent, key=key, steps=steps, gained=6, lost=4, eps=eps, **own))
    return result


def check(name: str, text: str) -> None:
    path = GOLDEN / name
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())
        pytest.fail(f"{path} was missing and has been written: read it, then run again")
    assert text.encode() == path.read_bytes()
