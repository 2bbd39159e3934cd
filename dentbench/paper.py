"""The published numbers of dent, in percent, as frozen data with their sources."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Final


@dataclass(frozen=True)
class PairedRow:
    """A model's published accuracies in percent, static and under dent.

    ``natural`` without an attack, ``adversarial`` under AutoAttack; ``mode`` and ``steps`` are
    dent's. The model's name is RobustBench's id.
    """

    mode: str
    steps: int
    model: str
    natural_static: float
    natural_dent: float
    adversarial_static: float
    adversarial_dent: float


@dataclass(frozen=True)
class PairedTable:
    """A published table of static and defended models.

    ``name`` says which in few words, ``source`` in full; ``decimals``: as many as were printed.
    """

    name: str
    source: str
    decimals: int
    rows: tuple[PairedRow, ...]


@dataclass(frozen=True)
class AblationRow:
    """A published row of the ablation: what adapts, its cost and its accuracies in percent.

    ``delta``: dent adapts the model. ``sigma``: "none", "static" or "dynamic" blur. ``time``:
    inference time relative to the static model's. ``linf`` at 1.5/255, ``l2`` at 0.2.
    """

    delta: bool
    sigma: str
    steps: int
    time: float
    natural: float
    linf: float
    l2: float


PAPER: Final = "Wang et al., Fighting Gradients with Gradients, arXiv 2105.08714"

THREAT: Final = ("Linf", Fraction(8, 255))
"""The threat model of Table 1 and of the released README."""

ABLATION_THREATS: Final = (("Linf", Fraction(3, 510)), ("L2", Fraction(1, 5)))
"""The threat models of Table 2: Linf 1.5/255 and L2 0.2."""

TABLE1: Final = PairedTable(
    name="paper, Table 1",
    source=f"{PAPER}, Table 1: CIFAR-10, 10,000 test images, AutoAttack, Linf 8/255",
    decimals=1,
    rows=(
        PairedRow("batch", 30, "Carmon2019Unlabeled", 89.7, 90.8, 59.5, 74.7),
        PairedRow("batch", 30, "Ding2020MMA", 84.4, 87.6, 41.4, 47.6),
        PairedRow("instance", 6, "Carmon2019Unlabeled", 89.7, 89.3, 59.5, 82.3),
        PairedRow("instance", 6, "Ding2020MMA", 84.4, 84.7, 41.4, 64.4),
    ),
)

README: Final = PairedTable(
    name="released README",
    source=(
        "README of the released code (DequanWang/dent 263b6b1): CIFAR-10, 10,000 test images, "
        "AutoAttack, Linf 8/255, instance-wise, 6 steps"
    ),
    decimals=2,
    rows=(
        PairedRow("instance", 6, "Wu2020Adversarial_extra", 88.25, 87.65, 60.04, 80.33),
        PairedRow("instance", 6, "Carmon2019Unlabeled", 89.69, 89.32, 59.53, 82.28),
        PairedRow("instance", 6, "Sehwag2020Hydra", 88.98, 88.60, 57.14, 78.09),
        PairedRow("instance", 6, "Wang2020Improving", 87.50, 86.32, 56.29, 77.31),
        PairedRow("instance", 6, "Hendrycks2019Using", 87.11, 87.04, 54.92, 79.62),
        PairedRow("instance", 6, "Wong2020Fast", 83.34, 82.34, 43.21, 71.82),
        PairedRow("instance", 6, "Ding2020MMA", 84.36, 84.68, 41.44, 64.35),
    ),
)

TABLE2_SOURCE: Final = (
    f"{PAPER}, Table 2: CIFAR-10, 10,000 test images, AutoAttack, a nominal model whose "
    "architecture is not established, batch-wise"
)

TABLE2: Final = (
    AblationRow(False, "none", 0, 1.0, 95.6, 8.8, 9.2),
    AblationRow(True, "none", 1, 3.6, 95.6, 15.0, 13.5),
    AblationRow(False, "static", 0, 1.0, 86.2, 25.8, 23.6),
    AblationRow(True, "static", 1, 3.6, 86.3, 27.5, 24.4),
    AblationRow(True, "static", 10, 25.9, 86.3, 37.6, 30.9),
    AblationRow(True, "dynamic", 10, 26.1, 92.5, 45.4, 36.5),
)
