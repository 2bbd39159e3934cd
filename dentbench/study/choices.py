"""Choose the attack, the defense and the protocols by name; defaults come from the cards.

Torch-free.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any, TypeAlias

from dentbench.attacks.catalogue import DEFAULT_PROTOCOLS, PROTOCOLS, PUBLISHED, require_heeded
from dentbench.attacks.protocol_cards import claim_name, is_given
from dentbench.errors import SpecError
from dentbench.spec.attack import NORM_NAMES
from dentbench.spec.attack_plans import ATTACKS
from dentbench.spec.evaluation import (
    MODES,
    NO_ATTACK,
    NORMS,
    AttackSpec,
    DefenseSpec,
    DentSpec,
    ProtocolSpec,
    field_names,
    parse_eps,
    require_choice,
)
from dentbench.zoo.cards.dataset_cards import DatasetCard
from dentbench.zoo.cards.model_cards import ModelCard

_log = logging.getLogger(__name__)

Chosen: TypeAlias = tuple[DentSpec | DefenseSpec | None, tuple[str, ...]]
"""A defense, None for static, and remarks for the user on the choice."""


def choose_attack(
    card: ModelCard | DatasetCard | None,
    *,
    name: str = "standard",
    norm: str | None = None,
    eps: str | None = None,
    **budget: int | None,
) -> AttackSpec:
    """Return the attack asked for; norm and eps are the card's when they are left out.

    Raises :class:`~dentbench.errors.SpecError` for an eps that is missing or bad.
    """
    name = ATTACKS.canonical(name)
    if name == NO_ATTACK:
        return AttackSpec(name=name, norm="Linf", eps=Fraction(0), **budget)
    if norm is not None:
        norm = NORM_NAMES.get(norm.lower().replace("_", ""), norm)
    default_norm = card.norm if card is not None and card.norm else "Linf"
    norm = norm or default_norm
    require_choice("norm", norm, NORMS)
    radius: Fraction
    if eps is not None:
        radius = parse_eps(eps)
    elif card is not None and card.eps and norm == default_norm:
        radius = parse_eps(card.eps)
    elif card is None and norm == "Linf":
        radius = Fraction(8, 255)
    else:
        raise SpecError(f"there is no default eps in {norm} for this model; give --eps")
    return AttackSpec(name=name, norm=norm, eps=radius, **budget)


def choose_defense(mode: str, settings: Mapping[str, Any], card: ModelCard | None) -> Chosen:
    """Return the defense asked for, None for static, and remarks for the user on the choice.

    ``settings``: DentSpec fields by name, None where the default is to be taken. A card's
    recommended settings fill in the rest, and a note says so.
    """
    require_choice("mode", mode, MODES)
    given = {name: value for name, value in settings.items() if value is not None}
    if mode == "static":
        if given:
            raise SpecError(
                f"{', '.join(given)} given for mode static, which has no dent; "
                "leave it out, or choose mode batch or instance"
            )
        return None, ()
    recommended: dict[str, Any] = {}
    if card is not None and card.recommended.get("mode", "instance") == mode:
        known = field_names(DentSpec)
        recommended = {
            name: value
            for name, value in card.recommended.items()
            if name in known and name not in given and name != "mode"
        }
        if given.get("delta") == "none":
            recommended.pop("lr", None)  # of the scales and shifts, which stay
    spec = DentSpec(mode=mode, **{**recommended, **given})
    released = DentSpec(mode=mode, **given)
    changed = [f"{k} {v}" for k, v in recommended.items() if getattr(released, k) != v]
    if not changed or card is None:
        return spec, ()
    return spec, (f"{card.id}'s card recommends {', '.join(changed)} for dent; used here",)


def choose_protocols(
    names: Sequence[str],
    settings: ProtocolSpec,
    defenses: Sequence[DentSpec | DefenseSpec | None] = (),
) -> tuple[str, ...]:
    """Return the protocols named, in the catalogue's order; "all" names every protocol.

    Where none is named they are the defaults. Those that ``defenses`` were published with come
    too, named or not: they give the published accuracy. Raises
    :class:`~dentbench.errors.SpecError` for a setting that none of them heeds.
    """
    given = tuple(dict.fromkeys(_given(name) for name in names if is_given(name)))
    if any(name.lower() == "all" for name in names):
        return (*PROTOCOLS, *given)
    listed = [name for name in names or DEFAULT_PROTOCOLS if not is_given(name)]
    chosen = {PROTOCOLS.canonical(name) for name in listed}
    for defense in defenses:
        own = PUBLISHED if defense is None else defense.published_protocol
        if own not in {*chosen, PUBLISHED}:
            if names:
                _tell_own(defense, own)
            chosen.add(own)
    protocols = (*(name for name in PROTOCOLS if name in chosen), *given)
    require_heeded(settings, protocols)
    return protocols


def _tell_own(defense: DentSpec | DefenseSpec | None, protocol: str) -> None:
    """Say which protocol is run beside those named, and why."""
    name = (defense.title or defense.name) if isinstance(defense, DefenseSpec) else "dent"
    text = "%s was published under %s, which is run too: it gives its published accuracy"
    _log.warning(text, name, protocol)


def _given(name: str) -> str:
    """Return the name of a protocol that is no entry of the catalogue, with its hash."""
    if claim_name(name) is not None:
        return name
    from dentbench.attacks.protocols.given import name_of  # late: it loads torch

    return name_of(name)
