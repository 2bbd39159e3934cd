"""How often the verdict says of a defense that does nothing that it holds, or that it is weaker.

``simulated``: two sides with the same chance on every image, each attacked with luck of its own;
every check passed and every budget was spent, so that the statistics alone decide. ``real``: the
static model as its own defense, under every protocol. Run
``python -m tests.benchmarks null-verdicts``.
"""

from __future__ import annotations

import json
import random
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Final

from torch import Tensor, nn

from dentbench.attacks.checks import INDISPENSABLE, PLANTED, Check, failed, to_json
from dentbench.attacks.required_budgets import REQUIRED
from dentbench.records.outcome import Record
from dentbench.report.numbers import LEVEL
from dentbench.report.verdict import verdict
from dentbench.spec.evaluation import AttackSpec, ProtocolSpec
from dentbench.stats import holm
from tests.report.fixed_records import make

if TYPE_CHECKING:
    from dentbench.api import Evaluated

SEED: Final = 18
EPS: Final = Fraction(1, 5)
SIMULATED, REAL, BOARD = 5000, 50, 20

_MADE: Final = to_json(Check(name, True, 0.0, "it passed") for name in (*INDISPENSABLE, PLANTED))
_SOUND: Final[dict[str, Any]] = {
    "checks": _MADE,
    "static_checks": _MADE,
    "budgets": json.dumps(REQUIRED),
}


@dataclass(frozen=True)
class World:
    """A null: ``images`` in batches of ``size``; ``luck``: the chance that an attack's luck decides
    an image; ``tilt``: by how much a batch as a whole may favour either side (0: not at all)."""

    images: int
    size: int
    luck: float
    tilt: float = 0.0

    @property
    def coupled(self) -> bool:
        """Whether images share batches."""
        return self.tilt > 0


WORLDS: Final = {
    "256 images, each on its own": World(256, 64, 0.1),
    "1,000 images, each on its own": World(1000, 125, 0.1),
    "256 images in 4 batches that tilt": World(256, 64, 0.2, 0.4),
    "512 images in 8 batches that tilt": World(512, 64, 0.2, 0.4),
    "512 images in 8 batches, all or nothing": World(512, 64, 0.2, 0.5),
    "1,000 images in 8 coupled batches that do not tilt": World(1000, 125, 0.1, 1e-9),
}


def simulate(world: World, generator: random.Random) -> tuple[Record, Record]:
    """Return a static and a defended record of one draw of a null."""
    static_right, gained, lost = 0, [], []
    for _ in range(world.images // world.size):
        favour = 0.5 + generator.uniform(-world.tilt, world.tilt)
        if world.tilt == 0.5:
            favour = generator.choice((0.0, 1.0))
        up = down = 0
        for _ in range(world.size):
            if generator.random() < world.luck:
                up, down = (up + 1, down) if generator.random() < favour else (up, down + 1)
            elif generator.random() < 0.5:
                static_right += 1  # and the defense is right too
        gained.append(up)
        lost.append(down)
    static_right += sum(lost)
    right = static_right + sum(gained) - sum(lost)
    common: dict[str, Any] = {"n": world.images, "count": world.images, "batch_size": world.size}
    counts = dict.fromkeys(("published", "transfer", "warm", "bpda", "scores", "decision"), right)
    if world.coupled:
        counts["batch-mates"] = right
    defended = make(
        2,
        world.images,
        counts,
        **common,
        **_SOUND,
        mode="instance",
        steps=6,
        separable=not world.coupled,
        gained=sum(gained),
        lost=sum(lost),
        static_correct=static_right,
        by_batch=json.dumps({"gained": gained, "lost": lost}) if world.coupled else None,
    )
    static = make(1, world.images, {"published": static_right}, **common)
    return static, defended


def shares(kinds: Sequence[str]) -> dict[str, float]:
    """Return the share of each verdict."""
    return {kind: count / len(kinds) for kind, count in sorted(Counter(kinds).items())}


def simulated() -> dict[str, Any]:
    """Return the shares of verdicts in every world, and those of the plain test."""
    result = {}
    for number, (name, world) in enumerate(WORLDS.items()):
        generator = random.Random(SEED + number)
        pairs = [simulate(world, generator) for _ in range(SIMULATED)]
        said = [verdict(*pair) for pair in pairs]
        plain = [verdict(item, replace(two, **independent(two))) for item, two in pairs]
        result[name] = {
            **shares([item.kind for item in said]),
            "a gain, were images independent": sum(
                item.p_value < LEVEL and item.gain_points > 0 for item in plain
            )
            / SIMULATED,
            f"boards of {BOARD} with some gain": boards(said, corrected=False),
            f"boards of {BOARD} with some gain, by Holm": boards(said, corrected=True),
        }
    return result


def independent(record: Record) -> dict[str, Any]:
    """Return the columns of a record whose images are taken for independent."""
    return {"separable": True, "by_batch": None}


def boards(said: Sequence[Any], *, corrected: bool) -> float:
    """Return the share of boards of so many null defenses on which some gain is significant."""
    groups = [said[at : at + BOARD] for at in range(0, len(said), BOARD)]
    hits = 0
    for group in groups:
        values = [item.p_value for item in group]
        adjusted = holm(values) if corrected else values
        pairs = zip(group, adjusted, strict=True)
        hits += any(value < LEVEL and item.gain_points > 0 for item, value in pairs)
    return hits / len(groups)


class Identity(nn.Module):
    """The static model as a defense around itself, in two parts."""

    separable = True

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def adapt(self, x: Tensor) -> Tensor:
        """Return nothing to adapt."""
        return x.new_zeros(())

    def predict(self, x: Tensor, adaptation: Tensor) -> Tensor:
        """Return the network's logits."""
        del adaptation
        logits: Tensor = self.network(x)
        return logits

    def forward(self, x: Tensor) -> Tensor:
        """Return the network's logits."""
        return self.predict(x, self.adapt(x))


IMAGES: Final = 64
"""Images of a real run."""

FULL_IMAGES, FULL_SECONDS = 24, 500
"""Images of a real run under the budgets that ``holds`` requires, and for how long they begin."""


def real(runs: int = REAL) -> dict[str, Any]:
    """Return the verdicts on the identity on slices of the digits, under a shortened standard.

    Every run has a seed of its own and begins 8 images after the one before.
    """
    attack = AttackSpec(eps=EPS, iterations=5, queries=50, targets=2)
    settings = ProtocolSpec(rounds=2, queries=50, fractions=(0.1,))
    return summed([run_once(number, IMAGES, attack, settings) for number in range(runs)])


def real_in_full(seconds: float = FULL_SECONDS) -> dict[str, Any]:
    """Return the same under the budgets that ``holds`` requires, of as many runs as time allows."""
    until, result = time.monotonic() + seconds, []
    while time.monotonic() < until:
        number = len(result)
        result.append(run_once(number, FULL_IMAGES, AttackSpec(eps=EPS), ProtocolSpec()))
        print(number, result[-1].verdict.sentence, flush=True)
    return summed(result)


def run_once(number: int, images: int, attack: AttackSpec, settings: ProtocolSpec) -> Evaluated:
    """Evaluate the identity on one slice, with one seed."""
    from dentbench.api import evaluate
    from dentbench.attacks.catalogue import PROTOCOLS
    from dentbench.zoo.datasets import load_dataset
    from dentbench.zoo.images.arrays import slice_of
    from dentbench.zoo.models import load_model

    x, y, _ = slice_of(load_dataset("digits"), 8 * number, images)
    with tempfile.TemporaryDirectory() as folder:
        return evaluate(
            load_model("digits-robust").network,
            x,
            y,
            defense=Identity,
            attack=attack,
            protocols=tuple(PROTOCOLS),
            protocol_settings=settings,
            seed=SEED + number,
            results=folder,
            progress=None,
        )


def summed(result: Sequence[Evaluated]) -> dict[str, Any]:
    """Return the verdicts of real runs, with the counts and checks."""
    records = [pair.defended for pair in result]
    broken = Counter(check.name for record in records for check in failed(record.checks))
    return {
        "runs": len(result),
        "images": records[0].n,
        "verdicts": shares([item.verdict.kind for item in result]),
        "runs that gained an image": sum(bool(record.gained) for record in records),
        "runs that lost an image": sum(bool(record.lost) for record in records),
        "failed checks": dict(broken),
    }


def measure() -> dict[str, Any]:
    """Return both, with the seed."""
    return {"seed": SEED, "simulated": simulated(), "real": real()}
