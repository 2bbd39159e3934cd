"""results/claims.md: the paper's claims, the runs for each, their results, and the verdict."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pandas as pd

from tests.studies.reading import of, table_of

NAME: Final = "claims.md"

STATIC, SHOT, ENTROPY = "6aed2b8e", "ed4951f8", "e5fa9231"
"""The robust ResNet-20: alone, with instance-wise dent and with entropy as its loss."""

DIGITS, INSTANCE, BATCH = "7f4a6136", "713b33a9", "419c8c20"
"""The robust digits network: alone, instance-wise and batch-wise."""

NOMINAL, ONE_STEP, BLURRED, BLURRED_ONE, BLURRED_TEN, DYNAMIC = (
    *("062550c7", "091698c6", "abb65e19", "225dea56", "82d55f9d", "56fdba23"),
)
"""The nominal ResNet-20 in Linf: alone, and in the rows of Table 2."""

SIGMA_FIRST = "c7ce5ace"
"""The same with dynamic blur, sigma alone for six of ten steps."""


@dataclass(frozen=True)
class Row:
    """A record, found by the beginning of its key."""

    key: str
    values: Any

    @property
    def images(self) -> int:
        """How many images were judged."""
        return int(self.values["n"])

    def counted(self, count: float) -> str:
        """Return a count beside its percentage, and the key that it is of."""
        return f"{of(count, self.images)[:-1]}, `{self.key}`)"

    @property
    def natural(self) -> str:
        """Natural accuracy."""
        return self.counted(self.values["natural_correct"])

    @property
    def worst(self) -> str:
        """Worst-case accuracy."""
        return self.counted(self.values["robust_correct"])

    def under(self, protocol: str) -> str:
        """Return the accuracy under one protocol."""
        return self.counted(json.loads(self.values["by_protocol"])[protocol])

    def sigma(self, of: str) -> str:
        """Return the width that the blur ends at."""
        return f"{json.loads(self.values['diagnostics'])[of]['sigma']:.2f}"


def read(results: Path) -> dict[str, Row]:
    """Return the records by the first eight characters of their keys; later ones count."""
    table = table_of(results)
    return {str(row["key"])[:8]: Row(str(row["key"])[:8], row) for _, row in table.iterrows()}


def claims(rows: dict[str, Row]) -> list[tuple[str, str, str, str]]:
    """Return the rows of the page: claim, runs, results, verdict."""
    static, shot, entropy = rows[STATIC], rows[SHOT], rows[ENTROPY]
    record, ten, dynamic = rows[ONE_STEP], rows[BLURRED_TEN], rows[DYNAMIC]
    nominal, blurred = rows[NOMINAL], rows[BLURRED]
    instance, batch, first = rows[INSTANCE], rows[BATCH], rows[SIGMA_FIRST]
    return [
        (
            "Dent improves state-of-the-art static defenses by 20 points and more against "
            "AutoAttack in Linf 8/255 (abstract, 3.1)",
            "a robust ResNet-20, instance-wise, every protocol, `quick`",
            f"static {static.worst}; dent {shot.under('published')} under the published protocol, "
            f"{shot.under('transfer')} under the static model's own points, {shot.worst} in the "
            "worst case",
            "the gain is reproduced under its own protocol, and is not there in the worst case",
        ),
        (
            "The defense has the last move; its gradient is stale, not obfuscated (2.2)",
            "the same record",
            f"points that know nothing of dent leave {shot.under('transfer')}, those of the exact "
            f"gradient through all steps {shot.under('unrolled')}",
            "not reproduced: an attacker needs no move after the defense's",
        ),
        (
            "Batches are needed, since entropy has degenerate solutions for a single prediction "
            "(2.2)",
            "instance-wise dent of 6 steps with entropy as its loss",
            f"natural {entropy.natural}, published {entropy.under('published')}; with shot "
            f"{shot.natural} and {shot.under('published')}",
            "not seen within 6 steps",
        ),
        (
            "Natural accuracy is maintained or improved (3.1)",
            "the same records",
            f"static {static.natural}; dent {shot.natural}, with entropy {entropy.natural}",
            "reproduced in shape",
        ),
        (
            "Instance-wise adaptation is more robust and more efficient than batch-wise (3.1)",
            "the robust digits network, 6 and 30 steps, every protocol, `quick`",
            f"published {instance.under('published')} and {batch.under('published')}; worst case "
            f"{instance.worst} and {batch.worst}; the static model {rows[DIGITS].worst}",
            "reproduced under the published protocol; the worst case has it the other way round",
        ),
        (
            "One step on scale and shift already helps a network without a static defense (3.2)",
            "a nominal ResNet-20, batch-wise, Linf 1.5/255, `quick`, published and transfer",
            f"the network {nominal.worst}; dent of one step {record.worst}",
            "not reproduced: it is worse here",
        ),
        (
            "Ten steps with the dynamic blur help much more (3.2)",
            "the same",
            f"static blur {ten.worst}, dynamic blur {dynamic.worst}, the network {nominal.worst}",
            "reproduced in shape; whether the gain lasts is undecided, for two protocols of a "
            "short attack were run",
        ),
        (
            "More steps improve further (2.2)",
            "the same, static blur",
            f"0 steps {blurred.worst}, 1 step {rows[BLURRED_ONE].worst}, 10 steps {ten.worst}",
            "reproduced from 1 to 10; the first step costs",
        ),
        (
            "The dynamic blur preserves natural accuracy, for it fades on natural images (3.2)",
            "the same, with the width that sigma ends at",
            f"sigma starts at 1 and ends at {dynamic.sigma('natural')} on natural images, at "
            f"{dynamic.sigma('transfer')} on adversarial ones; natural accuracy: network "
            f"{nominal.natural}, static blur without steps {blurred.natural}, dynamic blur "
            f"{dynamic.natural}; where sigma moves first (`--delta affine-after:6`) it ends at "
            f"{first.sigma('natural')} and {first.sigma('transfer')}, with {first.natural}; "
            f"without a blur, one step has {rows[ONE_STEP].natural}",
            "reproduced in shape where sigma moves first: it fades on natural images, and of "
            "natural accuracy no more is lost than without a blur",
        ),
        (
            "The numbers of Table 1 for Carmon2019 and others",
            "not run: the checkpoints are to be downloaded",
            "`dentbench evaluate --table 1` runs exactly these cells; `--dry-run --device h200` "
            "tells the time first",
            "not testable without network",
        ),
    ]


def text(results: Path) -> str:
    """Return the page."""
    table = pd.DataFrame(
        claims(read(results)), columns=["claim", "what was run", "what was found", "verdict"]
    )
    return PAGE.format(table=table.to_markdown(index=False))


PAGE: Final = """# The paper's claims

Claims of "Fighting Gradients with Gradients" ([arXiv 2105.08714](https://arxiv.org/abs/2105.08714))
beside what our records say. The images are the first 256 or 512 test images of "CIFAR-10 (JPEG
copy)", which is not CIFAR-10, and 500 UCI digits; the attack is `quick`, which is not AutoAttack;
the networks are our own small ones. Each number names the key of its row in `results.csv`
(`dentbench show KEY` tells all of it). `python -m tests.studies --render` makes this page.

{table}
"""
