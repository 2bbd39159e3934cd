"""Give the verdict: does a defense hold against its own static model, in the worst case?

The rule is ours, not the paper's. Both sides are worst cases per image of equal effort: right
without an attack and under everything that was tried on either. The images that the defense gains
and loses against the static model are compared by the exact McNemar test; where images share
batches, its counts and the intervals allow for the design effect (``stats``).

- ``holds``: more images right than static, p < 0.05, and no doubt about that gain is left.
- ``weaker than static``: fewer images right than static, p < 0.05, and no doubt about that loss;
  where images share batches, fewer too with every batch at the points worst for it as a whole.
- ``no gain``: neither, but a gain of 5 points is excluded: the upper end of the 95% interval of
  the paired difference (Bonett and Price 2012) is below 5 points.
- ``undecided``: a difference with a doubt, a static model that was attacked wrongly or by fewer
  steps than "quick" has, too few images to tell, or too few batches that share an answer
  (``stats.least_batches``: six at 95%); the sentence says which run would decide.

A run that may stop before all images were judged has a level and an interval that allow for every
look at it (``stats/sequential.py``); the rule is the same.

Doubts, and the verdicts that they concern, are in ``doubts.py``: every failed check, whatever else
was run; protocols that are missing; less than the least budget (``required_budgets.py``). Where
batch mates matter, other batches than the declared batches break an image only if it is right
unperturbed in both; images wrong by coupling alone are counted apart and, in batches of full
size, a doubt.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from dentbench.attacks import checks as soundness
from dentbench.attacks import evidence
from dentbench.errors import SpecError
from dentbench.records.outcome import Record
from dentbench.records.stopping import stopped
from dentbench.report import coupling, departures
from dentbench.report.doubts import (
    baseline_doubts,
    gain_doubts,
    images_from_first,
    loss_doubts,
)
from dentbench.report.numbers import Paired, Share, signed
from dentbench.report.remedies import AGAIN, GOING_ON, Doubt

Kind = Literal["holds", "no gain", "weaker than static", "undecided"]

GAIN_POINTS: Final = 5.0
"""The gain, in percentage points, that must be excluded before "no gain" is said."""


@dataclass(frozen=True)
class Verdict:
    """The verdict of an evaluation on a defense.

    ``protocol``: leaves the fewest images right. ``gain_points``: worst case minus the static
    model's, in percentage points, between ``gain_low`` and ``gain_high`` with 95% confidence.
    ``p_value``: exact McNemar, two-sided. ``sentence``: all of this in one sentence. ``doubts``:
    reasons against the verdict of the counts, each with its remedy; ``changes``: the options, with
    their values, of a run that would settle them, and ``by_hand`` the remedies that no option
    settles. Both are empty of a verdict that is final.
    """

    kind: Kind
    protocol: str
    gain_points: float
    p_value: float
    sentence: str
    gain_low: float
    gain_high: float
    doubts: tuple[str, ...] = ()
    changes: tuple[tuple[str, ...], ...] = ()
    by_hand: tuple[str, ...] = ()

    @property
    def final(self) -> bool:
        """Whether nothing is left to be run."""
        return self.kind != "undecided"

    def meets(self, points: float) -> bool:
        """Return whether the defense holds with a gain of so many points beyond its interval."""
        return self.kind == "holds" and self.gain_low >= points


def verdict(static: Record, defended: Record) -> Verdict:
    """Return the verdict on a defended record, by the rule above, from worst-case counts.

    Raises :class:`~dentbench.errors.SpecError` when the two are not a static and a defended
    record of the same model, images and threat model, or were not paired image by image.
    """
    paired = _paired(static, defended)
    kind, doubts = _decided(paired, defended)
    opening = kind[0].upper() + kind[1:]
    sentence = f"{opening}: {_finding(static, defended)}, "
    sentence += f"paired {paired.test_text}" if paired.tested else "without a paired test"
    if paired.tested and (coupled := coupling.text(defended)):
        sentence += f" ({coupled})"
    early = stopped(defended)
    if early is not None:
        sentence += f" ({early}; the gain is {_range(paired)} points, every look allowed for)"
    if kind == "holds":
        natural = [Share(record.natural_correct, record.n) for record in (defended, static)]
        sentence += f"; natural accuracy is {natural[0]}, the static model's {natural[1]}"
        sentence += _rests_on(defended)
    if kind == "no gain" and paired.significant and not doubts:
        sentence += f"; {_together(defended)}"
    if kind == "no gain" and paired.interval.low > 0:
        sentence += f"; a gain of {GAIN_POINTS:g} points is excluded, a smaller gain is not"
    goes_on = early is not None and early.goes_on and not doubts
    changes: tuple[tuple[str, ...], ...] = ()
    if kind == "undecided":
        few = () if doubts or goes_on else (("--examples", str(_images_needed(paired))),)
        changes = (*_merged(doubt.changes for doubt in doubts), *few)
    if kind == "undecided" or doubts:
        sentence += f"; {GOING_ON if goes_on else _would_decide(paired, doubts, defended)}"
    return Verdict(
        kind=kind,
        protocol=defended.worst_protocol,
        gain_points=paired.points,
        p_value=paired.p_value,
        sentence=f"{sentence}.",
        gain_low=paired.interval.low,
        gain_high=paired.interval.high,
        doubts=tuple(map(str, doubts)),
        changes=changes,
        by_hand=() if kind != "undecided" else _by_hand(doubts),
    )


def _together(defended: Record) -> str:
    """Say that a loss per image is none per batch."""
    share = coupling.worst_per_batch(defended)
    return f"with every batch at the points worst for it as a whole it has {share}, and loses none"


def _by_hand(doubts: Sequence[Doubt]) -> tuple[str, ...]:
    """Return the remedies that are no option; to run it again is the command itself."""
    return tuple(doubt.remedy for doubt in doubts if not doubt.changes and doubt.remedy != AGAIN)


def _merged(parts: Iterable[Iterable[tuple[str, ...]]]) -> Iterator[tuple[str, ...]]:
    """Yield each option once: of numbers of images the largest, of others the first."""
    options: dict[str, tuple[str, ...]] = {}
    for words in (words for part in parts for words in part):
        before = options.get(words[0])
        larger = before and words[0] == "--examples" and int(words[1]) > int(before[1])
        if before is None or larger:
            options[words[0]] = words
    yield from options.values()


def _range(paired: Paired) -> str:
    interval = paired.interval
    return f"{signed(paired.points)} ({signed(interval.low)} to {signed(interval.high)})"


def kind_of(defended: Record) -> Kind | None:
    """Return the verdict's kind from a defended record alone; None without pairs."""
    paired = coupling.paired(defended)
    return _decided(paired, defended)[0] if paired and defended.protocol else None


def _paired(static: Record, defended: Record) -> Paired:
    if static.mode != "static" or defended.mode == "static":
        raise SpecError(
            f"no verdict: a static and a defended record are needed, not {static.mode} "
            f"and {defended.mode}"
        )
    if not defended.protocol:
        raise SpecError("no verdict: nothing was attacked")
    early = stopped(defended) is not None or stopped(static) is not None
    same = ("model_sha256", "model_code", "data_sha256", "norm", "eps", *(() if early else ("n",)))
    odd = [name for name in same if getattr(static, name) != getattr(defended, name)]
    if odd:
        raise SpecError(
            f"no verdict: the static and the defended record of {defended.model} differ in "
            f"{', '.join(odd)}"
        )
    gained, lost = defended.gained, defended.lost
    if gained is None or lost is None or not defended.n:
        raise SpecError("no verdict: the defended record was not compared with a static record")
    own = json.loads(defended.static_by_protocol or "{}").get(departures.PUBLISHED)
    compared = defended.static_correct
    if compared is None:  # a record of an older version
        own = compared = static.robust_correct
    equal = own is None or own == static.robust_correct or defended.n != static.n
    if not equal or gained - lost != defended.robust_correct - compared:
        raise SpecError("no verdict: the defended record was compared with another static record")
    paired = coupling.paired(defended)
    assert paired is not None
    return paired


def _decided(paired: Paired, defended: Record) -> tuple[Kind, tuple[Doubt, ...]]:
    """Return the verdict's kind, and the doubts about a gain or loss of the counts beyond it."""
    doubts: tuple[Doubt, ...] = ()
    if paired.significant and paired.points > 0:
        doubts = gain_doubts(defended)
        return ("undecided" if doubts else "holds"), doubts
    if paired.significant:
        doubts = loss_doubts(defended)
        if not doubts and not coupling.lost_by_choice(defended):
            return "weaker than static", ()
    doubted = baseline_doubts(defended)
    if not doubted and paired.interval.high < GAIN_POINTS:
        return "no gain", doubts
    return "undecided", doubted or doubts


def _finding(static: Record, defended: Record) -> str:
    """Describe how far the published number falls, and under which protocol."""
    counts, n = defended.protocol_counts, defended.n
    name = defended.worst_protocol
    who = departures.defense_name(defended)
    worst = Share(counts.get(name, defended.robust_correct), n)
    by = departures.called_protocol(defended, name)
    own, called = departures.published_protocol(defended), departures.published_text(defended)
    published = Share(counts[own], n) if own in counts else None
    if name == own and len(counts) == 1:
        text = f"{who} has {worst} under the {departures.published_protocol_text(defended)} alone"
    elif published is None:
        text = f"{who} has {worst} under {by}"
    elif published.count == worst.count:
        text = f"{who} has {published} under {called}, and under no other protocol fewer"
    else:
        text = f"{who}'s {called} {published} falls to {worst} under {by}"
    if worst.count != defended.robust_correct:
        whole = Share(defended.robust_correct, n)
        if " falls to " in text:
            text += f" and to {whole} in the worst case per image"
        else:
            text += f", but {whole} in the worst case per image, over all protocols"
    for departure in departures.attack_departures(defended):
        text += f" ({departure})"
    if defended.chance:
        text += (
            f" (expected over {json.loads(defended.chance)['draws']} draws of its random answers)"
        )
    return f"{text}; the static model has {Share(static_worst(static, defended), n)}"


def _rests_on(defended: Record) -> str:
    """Name the protocols that a gain rests on, where some of those run miss planted points."""
    check = soundness.from_json(defended.checks).get(soundness.PLANTED)
    shares = {} if check is None or check.shares is None else check.shares
    weak = evidence.not_counted_on(shares)
    if not weak:
        return ""
    counted = ", ".join(evidence.counted_on(shares))
    return f"; it rests on {counted}, not on {', '.join(weak)}: planted points are missed there"


def static_worst(static: Record, defended: Record) -> int:
    """Return the images right for the static model in the worst case that is compared."""
    compared = defended.static_correct
    return static.robust_correct if compared is None else compared


def _would_decide(paired: Paired, doubts: Sequence[Doubt], defended: Record) -> str:
    """Describe the next run: the remedies of the doubts, or about how many images."""
    more = f" ({len(doubts) - 1} more to settle)" if len(doubts) > 1 else ""
    if doubts and not paired.tested:
        return f"{doubts[0]}{more}"
    if doubts:
        anew = doubts[0].reason.startswith(f"the check {soundness.FRESH_PROCESS} ")
        effect = f"the {'defense' if anew else 'static model'}'s robustness"
        if paired.significant:
            effect = "the gain" if paired.points > 0 else "the loss"
        return f"{effect} is in doubt: {doubts[0]}{more}"
    needed = _images_needed(paired)
    text = f"about {needed:,} images would decide at this rate of change"
    there = images_from_first(defended)
    lacking = there is not None and needed > there
    return f"{text}, and {there:,} are there" if lacking else f"{text} (--examples {needed})"


def _images_needed(paired: Paired) -> int:
    """Return about how many images would decide, at the observed rate of change."""
    total = paired.total / paired.effect
    rate = ((paired.gained + paired.lost) / paired.effect + 2) / (total + 2)
    gain = paired.points / 100
    target = max(GAIN_POINTS / 100 - gain, abs(gain))
    needed = max(1.96**2 * rate / target**2 * paired.effect, paired.total + 1)
    digits = max(0, math.floor(math.log10(needed)) - 1)
    unit: int = 10**digits
    return math.ceil(needed / unit) * unit
