"""Turn a user's request into studies to run: names, defaults and cards meet here.

Torch-free, so that a bad name or value is refused before anything is loaded.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dentbench.attacks.catalogue import DEFAULT_PROTOCOLS
from dentbench.defenses.catalogue import needs_batchnorm
from dentbench.errors import ModelError, SpecError
from dentbench.spec.attack_plans import ATTACKS, is_users
from dentbench.spec.dent import ALTERNATIVES
from dentbench.spec.evaluation import (
    NO_ATTACK,
    AttackSpec,
    BatchPlan,
    DefenseSpec,
    DentSpec,
    ProtocolSpec,
)
from dentbench.spec.plausible import require_plausible
from dentbench.study.choices import Chosen, choose_attack, choose_protocols
from dentbench.study.parsing import OwnModel, is_corrupted, parse_threat, parts_of
from dentbench.zoo.cards.dataset_cards import DATASETS, DatasetCard
from dentbench.zoo.cards.model_cards import MODELS, ModelCard
from dentbench.zoo.data_choice import DataChoice
from dentbench.zoo.model_names import is_checkpoint

DEFAULT_MODEL = "digits-robust"


@dataclass(frozen=True, kw_only=True)
class Study:
    """One model evaluated without a defense and with each of some, under each of some attacks.

    Checked, nothing loaded yet. ``notes``: remarks for the user on the choices made.
    """

    model: str
    card: ModelCard | None
    defenses: tuple[DentSpec | DefenseSpec | None, ...]
    attacks: tuple[AttackSpec, ...]
    data: DataChoice
    batches: BatchPlan
    own: OwnModel = field(default_factory=OwnModel)
    protocols: tuple[str, ...] = DEFAULT_PROTOCOLS
    protocol_settings: ProtocolSpec = field(default_factory=ProtocolSpec)
    seed: int = 0
    precision: str = "fp32"
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Request:
    """A user's request for every model, as written; None takes the default.

    ``eps_grid``: values in place of ``eps``. ``threats``: such as "Linf:1.5/255", in place of
    ``norm`` and ``eps``. ``budget``: AttackSpec's ``iterations``, ``targets`` and ``queries``.
    ``corruptions`` and ``severities``: of a corruption set, each a study of its own, without an
    attack unless one is named. ``force``: whether an implausible eps is meant.
    """

    models: Sequence[str]
    own: OwnModel = field(default_factory=OwnModel)
    data: DataChoice = field(default_factory=DataChoice)
    corruptions: Sequence[str] = ()
    severities: Sequence[int] = ()
    attack: str | None = None
    budget: Mapping[str, int | None] = field(default_factory=dict)
    norm: str | None = None
    eps: str | None = None
    eps_grid: Sequence[str] = ()
    threats: Sequence[str] = ()
    batches: BatchPlan = field(default_factory=BatchPlan)
    protocols: Sequence[str] = ()
    protocol_settings: ProtocolSpec = field(default_factory=ProtocolSpec)
    seed: int = 0
    precision: str = "fp32"
    force: bool = False

    @property
    def attack_name(self) -> str:
        """The attack asked for; AutoAttack standard, or none on a corruption set, where none is."""
        default = NO_ATTACK if is_corrupted(self.data.dataset) else "standard"
        name = ATTACKS.canonical(self.attack or default)
        if not is_users(name):
            return name
        from dentbench.attacks.user_attack import attack_name_of  # late: it loads torch

        return attack_name_of(name)

    def attacks(self, card: ModelCard | None) -> tuple[AttackSpec, ...]:
        """Return the attacks on one model: one for each threat model, otherwise the same.

        Values left out are the model card's, for a user's model the data set's.
        """
        if self.attack_name == NO_ATTACK and (
            self.threats or self.norm or self.eps or self.eps_grid
        ):
            raise SpecError("there is no attack, so --norm, --eps and --threat mean nothing")
        if self.threats and (self.norm or self.eps):
            raise SpecError("--threat is given beside --norm or --eps; choose one way to say it")
        if self.eps_grid and self.eps:
            raise SpecError("--eps is given beside --eps-grid; choose one way to say it")
        pairs: list[tuple[str | None, str | None]] = [*map(parse_threat, self.threats)]
        pairs += [(self.norm, eps) for eps in self.eps_grid]
        default: ModelCard | DatasetCard | None = card
        if default is None and self.data.dataset is not None and self.data.dataset in DATASETS:
            default = DATASETS[self.data.dataset]
        attacks = [
            choose_attack(default, name=self.attack_name, norm=norm, eps=eps, **self.budget)
            for norm, eps in pairs or [(self.norm, self.eps)]
        ]
        if not self.force:
            for attack in attacks:
                require_plausible(attack.norm, attack.eps)
        return tuple(dict.fromkeys(attacks))


def make_studies(
    request: Request, choose: Callable[[ModelCard | None], Sequence[Chosen]]
) -> list[Study]:
    """Return a study of every model asked for, with the defenses that ``choose`` has for it.

    Raises :class:`~dentbench.errors.SpecError` for mistakes that show before loading.
    """
    studies = []
    attacked = request.attack_name != NO_ATTACK
    if attacked:
        choose_protocols(request.protocols, request.protocol_settings)  # refused before the rest
    elif request.protocols:
        raise SpecError("there is no attack, so --protocol means nothing; leave it out")
    models = request.models or [DEFAULT_MODEL]
    parts = parts_of(request.data, request.corruptions, request.severities)
    for name, data in itertools.product(models, parts):
        card = find_card(name)
        chosen = choose(card)
        defenses = tuple(dict.fromkeys(defense for defense, _ in chosen))
        study = Study(
            model=name,
            card=card,
            defenses=defenses,
            attacks=request.attacks(card),
            own=request.own,
            data=data,
            batches=request.batches,
            protocols=choose_protocols(request.protocols, request.protocol_settings, defenses)
            if attacked
            else (),
            protocol_settings=request.protocol_settings,
            seed=request.seed,
            precision=request.precision,
            notes=tuple(dict.fromkeys(note for _, notes in chosen for note in notes)),
        )
        check_model(study)
        check_names(study)
        studies.append(study)
    return studies


def find_card(model: str) -> ModelCard | None:
    """Return a model's card, or None for a user's file or ``module:callable``.

    Raises :class:`~dentbench.errors.UnknownNameError`, with suggestions, for any other name.
    """
    if model in MODELS or not (":" in model or is_checkpoint(model)):
        return MODELS[model]
    return None


def check_model(study: Study) -> None:
    """Raise for options that a model cannot have, and for a model that a defense cannot have."""
    card, own = study.card, study.own
    if card is not None and own.normalize is not None:
        raise SpecError(
            f"--normalize is for models of your own; {card.id} normalizes its images itself"
        )
    if own.arch is not None and (card is not None or ":" in study.model):
        raise SpecError(f"--arch is for checkpoint files, and {study.model} is none; leave it out")
    if card is not None and not card.batchnorm:
        for defense in study.defenses:
            if defense is not None and needs_batchnorm(defense):
                name = defense.name if isinstance(defense, DefenseSpec) else "dent"
                other = "another defense (--defense)"
                if name == "dent":
                    other = "--layers groupnorm, layernorm or all, if it has such layers"
                raise ModelError(
                    f"{card.id} ({card.architecture}) has no BatchNorm2d layer, and {name} adapts "
                    "nothing else; choose a model that has (see dentbench fetch --list), or "
                    f"{other}; or {ALTERNATIVES}"
                )


def data_default(study: Study) -> str:
    """Return the name of the data set to use: the one asked for, or the model's own."""
    if study.data.dataset is not None:
        return study.data.dataset
    if study.card is None:
        raise SpecError(f"no data set is known for {study.model}; give --dataset or --data")
    return study.card.dataset


def check_names(study: Study) -> None:
    """Raise for a data set that is unknown, or of other images or classes than the model's card.

    Nothing is loaded.
    """
    name = data_default(study)
    if name not in DATASETS and not ("/" in name or Path(name).suffix or Path(name).exists()):
        DATASETS.canonical(name)
    if study.card is not None and name in DATASETS and study.card.dataset in DATASETS:
        _require_same_kind(study.card, DATASETS[study.card.dataset], DATASETS[name])


def _require_same_kind(card: ModelCard, own: DatasetCard, given: DatasetCard) -> None:
    if (own.shape[0], own.classes) == (given.shape[0], given.classes):
        return
    known = [model.id for model in MODELS.values() if model.dataset == given.id]
    those = f"a model of {given.name} (such as {known[0]})" if known else "another model"
    raise ModelError(
        f"{card.id} classifies {_described(own)}, and {_described(given)} were asked for; choose "
        f"{those}, or leave out --dataset"
    )


def _described(card: DatasetCard) -> str:
    shape = " x ".join(map(str, card.shape))
    return f"images of {card.name} ({shape}, {card.classes} classes)"
