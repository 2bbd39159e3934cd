"""The results of an evaluation: outcomes of batches, and the record that they add up to.

Counts, never averages; no torch. A record's fields are the columns of ``results.csv``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from fractions import Fraction
from functools import lru_cache
from html import escape
from typing import Any

from dentbench.spec.evaluation import DefenseSpec, EvalSpec, format_eps, parse_eps

SCHEMA = 9
"""Version of the columns of ``results.csv``, raised with every change of them.

A column is one line of :class:`Record`; ``python -m tests.renew columns`` writes them down.
"""

NATURAL = "natural"
"""The stage that judges the natural images; every other stage is a protocol."""

PUBLISHED = "published"
"""The protocol of the published numbers, and the static model's own attack."""

TRANSFER_BACK = "transfer-back"
"""The stage that judges the static model at the final points found on a defense."""

WORST = "worst"
"""The name of the worst case over all stages, among theirs."""


@dataclass(frozen=True, kw_only=True)
class BatchOutcome:
    """The result of one stage (the natural pass or one protocol) on one declared batch.

    ``correct[i]``: our own judgement of image i, made afresh on the stage's final points.
    ``attack_correct[i]``: the attack's own flag. ``broken_by[i]``: the attack that broke image i,
    or "" ("natural" when it was wrong before any attack). ``forwards`` and ``backwards`` count
    the single-image passes that were asked of the network; ``seconds`` is wall-clock time.

    In a cascade an image that an earlier stage broke is not ``correct``, whatever this stage's
    judgement; ``judged[i]`` is that judgement, of all final points in one batch. ``changed``: how
    many images a lower precision, where the attack computed in one, judges otherwise.
    ``asked_again``: about how many images the attack's questions were asked again, ``unlike``: how
    many got other logits then; None where it was not asked. ``static_correct[i]``: whether the
    static model is right at the final points that a protocol found on a defense, ``points_sha256``
    their SHA-256. ``rights[i]``: how often a random defense was right there, in as many draws as
    the spec says. ``unanswered[i]``: whether the answer there was NaN or infinite, which is wrong;
    empty where none was. ``details``: further numbers of the protocol. ``versions``: the number of
    the code of this stage, and of those that it starts from, by name. ``indexes``: the numbers of
    the images in the data set. ``linf``, ``l2``, ``l1``: the norms of the final perturbations.
    Outcomes of version 0.1 have neither these nor ``labels``.
    """

    stage: str
    index: int
    correct: tuple[bool, ...]
    attack_correct: tuple[bool, ...]
    broken_by: tuple[str, ...]
    forwards: int
    backwards: int
    seconds: float
    judged: tuple[bool, ...] = ()
    changed: int | None = None
    asked_again: int | None = None
    unlike: int | None = None
    static_correct: tuple[bool, ...] = ()
    points_sha256: str = ""
    rights: tuple[int, ...] = ()
    unanswered: tuple[bool, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, int] = field(default_factory=dict)
    indexes: tuple[int, ...] = ()
    labels: tuple[int, ...] = ()
    linf: tuple[float, ...] = ()
    l2: tuple[float, ...] = ()
    l1: tuple[float, ...] = ()


def column(doc: str, default: Any = None) -> Any:
    """Return a record field with its documentation."""
    return field(default=default, metadata={"doc": doc})


@dataclass(frozen=True)
class Record:
    """One row of ``results.csv``: a model, static or defended, under one attack.

    Everything but ``time``, ``seconds``, ``time_ratio``, ``device``, ``versions`` and
    ``git_revision`` is equal bit for bit between an uninterrupted and a resumed run.
    """

    schema: int = column("version of these columns", SCHEMA)
    key: str = column("identity of the run: hash of all that determines its numbers")
    time: str = column("when the record was written, UTC, ISO 8601")
    model: str = column("model")
    model_sha256: str = column("SHA-256 of the model's weights")
    model_code: str | None = column("SHA-256 of the model's code and of its other settings")
    dataset: str = column("data set, by its honest name")
    data_sha256: str = column("SHA-256 of the images and labels evaluated")
    first: int = column("number of the first image in the data set")
    count: int = column("number of images asked for")
    order: str = column("order of the images: given, or label-windows:N")
    defense: str = column("defense: none, dent, another built in, or module:callable", "none")
    defense_title: str | None = column("name of a user's defense in tables, where it declares one")
    defense_settings: str | None = column("settings of a defense that is not dent, JSON object")
    defense_sha256: str | None = column("SHA-256 of the source of a user's defense")
    published_protocol: str | None = column(
        "protocol of the defense's own paper, which gives its published accuracy"
    )
    mode: str = column("static; dent: batch or instance; other for a defense that is not dent")
    steps: int | None = column("updates per batch")
    delta: str | None = column(
        "dent: affine where scale and shift are adapted, affine-after:N after N updates, or none"
    )
    layers: str | None = column("dent: layers that adapt: batchnorm, groupnorm, layernorm or all")
    loss: str | None = column("dent: shot or entropy")
    statistics: str | None = column(
        "dent: running, batch, median, or mix:ALPHA for the batch's share"
    )
    blur: str | None = column("dent: blur of the images: none, static or dynamic")
    sigma: float | None = column(
        "dent: the blur's sigma in pixels; of a dynamic blur the initial sigma"
    )
    padding: str | None = column("dent: the blur's padding: zeros, reflect or replicate")
    optimizer: str | None = column("dent: adamod, adamod-paper, adam or sgd")
    lr: float | None = column("dent: learning rate")
    gamma_lr: float | None = column("dent: learning rate of the scales, where it is not lr")
    beta_lr: float | None = column("dent: learning rate of the shifts, where it is not lr")
    sigma_lr: float | None = column("dent: learning rate of a dynamic blur's sigma")
    beta1: float | None = column("dent: optimizer's beta1")
    beta2: float | None = column("dent: optimizer's beta2")
    beta3: float | None = column("dent: AdaMod's beta3")
    optimizer_eps: float | None = column("dent: optimizer's eps")
    momentum: float | None = column("dent: SGD's momentum")
    nesterov: bool | None = column("dent: SGD's Nesterov momentum")
    separable: bool = column("whether an image's answer is independent of its batch mates")
    attack: str = column("attack or preset")
    attack_label: str = column("description of the attack, which names any that is not AutoAttack")
    iterations: int | None = column("override of the attack's iterations")
    queries: int | None = column("override of the attack's queries")
    targets: int | None = column("override of the attack's target classes")
    norm: str = column("norm of the threat model: Linf, L2 or L1")
    eps: str = column("radius of the threat model, exact")
    batch_size: int = column("images per declared batch")
    batching: str = column("declared, or autoattack for AutoAttack's own packing")
    precision: str = column("precision of attacks: fp32, tf32 or bf16; judged in fp32", "fp32")
    protocol: str = column("protocols run, separated by spaces")
    protocol_settings: str | None = column("settings of the protocols, JSON object")
    skipped: str | None = column("protocols that cannot attack it, and why, JSON object")
    budgets: str | None = column("budget of each protocol, JSON object")
    seed: int = column("seed of the run")
    n: int = column("images judged")
    stopped: str | None = column(
        "a run that may stop early: rule, images and the interval valid there, JSON object"
    )
    natural_correct: int = column("images right without an attack")
    robust_correct: int = column("images right without an attack and under every protocol run")
    batch_worst_correct: int | None = column(
        "images right with every batch at the points worst for it as a whole, where mates matter"
    )
    worst_protocol: str = column("the protocol that leaves the fewest images right")
    by_protocol: str = column("images right under each protocol, JSON object")
    newly_broken: str | None = column(
        "images that each protocol broke and none before it did, JSON object"
    )
    batch_mates: str | None = column("batch-mates: images right in other batches, JSON object")
    decision_queries: int | None = column("scores, decision: queries allowed for each image")
    autoattack_correct: int | None = column("images right by the attack's own flags (published)")
    broken_by: str = column("images broken by each attack (published), JSON object")
    stage_versions: str | None = column("version of the code of each stage, JSON object")
    rechecked: str | None = column(
        "images that fp32 judged otherwise than the attack's lower precision, by stage, JSON object"
    )
    static_correct: int | None = column(
        "images right for the static model in the worst case of equal effort, which is compared"
    )
    static_by_protocol: str | None = column(
        "images right for the static model under each protocol that counts for it, JSON object"
    )
    gained: int | None = column("images right in the worst case here, wrong for the static model")
    lost: int | None = column("images wrong in the worst case here, right for the static model")
    by_batch: str | None = column(
        "images right, gained and lost in each batch, where mates matter, JSON object"
    )
    chance: str | None = column(
        "a random defense: means, worst and majority of its draws, in images, JSON object"
    )
    natural_given_correct: int | None = column(
        "images right without an attack in the given order, where the order is another"
    )
    forwards: int = column("single-image forward passes through the network")
    backwards: int = column("single-image backward passes through the network")
    passes: str | None = column("passes, both kinds, that each stage took, JSON object")
    seconds: float = column("wall-clock seconds of all batches together")
    time_ratio: float | None = column(
        "inference time in units of the static model's, measured side by side"
    )
    diagnostics: str | None = column("diagnosis of the adaptations, by stage, JSON object")
    checks: str | None = column("checks of the evaluation, by name, JSON object")
    static_checks: str | None = column(
        "indispensable or failed checks of the static model, JSON object"
    )
    source: str | None = column(
        "options that name the source of a user's model and data, JSON object"
    )
    device: str = column("device")
    versions: str = column("versions of dentbench, Python and the libraries, JSON object")
    git_revision: str = column("git revision of dentbench, when it runs from a checkout")

    @property
    def protocol_counts(self) -> dict[str, int]:
        """Images right under each protocol, by name."""
        return dict(_protocol_counts(self.by_protocol))

    def _repr_html_(self) -> str:
        """Return the table that a notebook shows: every column with a value, and its meaning."""
        styles = ("white-space: nowrap", "max-width: 36em; overflow-wrap: anywhere", "")
        lines = []
        for item in fields(self):
            texts = (item.name, getattr(self, item.name), item.metadata["doc"])
            if texts[1] not in (None, ""):
                cells = (
                    f'<td style="text-align: left; {style}">{escape(str(text))}</td>'
                    for style, text in zip(styles, texts, strict=True)
                )
                lines.append(f"<tr>{''.join(cells)}</tr>")
        return "\n".join(["<table>", *lines, "</table>"])


@lru_cache(maxsize=1 << 12)
def _protocol_counts(text: str) -> Mapping[str, int]:
    counts: dict[str, int] = json.loads(text)
    return counts


def column_names() -> tuple[str, ...]:
    """Return the columns of ``results.csv``, in order."""
    return tuple(column.name for column in fields(Record))


def spec_columns(spec: EvalSpec) -> dict[str, Any]:
    """Return the columns that a spec determines."""
    attack = spec.attack
    return {
        "key": spec.key(),
        "model": spec.model.name,
        "model_sha256": spec.model.sha256,
        "model_code": spec.model.code or None,
        "dataset": spec.data.name,
        "data_sha256": spec.data.sha256,
        "first": spec.data.first,
        "count": spec.data.count,
        "order": spec.data.order,
        **_defense_columns(spec),
        "mode": spec.mode,
        "separable": spec.separable,
        "attack": attack.name,
        "iterations": attack.iterations,
        "queries": attack.queries,
        "targets": attack.targets,
        "norm": attack.norm,
        "eps": format_eps(attack.eps),
        "batch_size": spec.batches.size,
        "batching": spec.batches.batching,
        "precision": spec.precision,
        "protocol_settings": spec.protocols.settings_json if spec.defense else None,
        "seed": spec.seed,
    }


def _defense_columns(spec: EvalSpec) -> dict[str, Any]:
    defense = spec.defense
    if defense is None:
        return {"defense": "none"}
    if isinstance(defense, DefenseSpec):
        return {
            "defense": defense.name,
            "defense_title": defense.title or None,
            "defense_settings": defense.settings_json,
            "defense_sha256": defense.sha256 or None,
            "published_protocol": defense.published_protocol,
            "steps": defense.steps,
        }
    settings = {name: value for name, value in vars(defense).items() if name != "mode"}
    return {"defense": "dent", "published_protocol": defense.published_protocol, **settings}


def eps_of(record: Record) -> Fraction:
    """Return a record's eps as the exact fraction."""
    return parse_eps(record.eps)
