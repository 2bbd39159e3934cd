"""Turn the defenses that a user names into specs: dent, built-in and user-defined."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from dentbench.defenses.catalogue import DEFENSES, DENT, NONE
from dentbench.defenses.naming import built_in, parse_defense
from dentbench.errors import SpecError
from dentbench.spec.evaluation import DefenseSpec
from dentbench.study.choices import Chosen, choose_defense
from dentbench.study.parsing import parse_dent
from dentbench.zoo.cards.model_cards import ModelCard

CORRUPTED: Final = ("norm", "tent", DENT)
"""The defenses evaluated on a corruption set where none is named."""


def choose_defenses(
    names: Sequence[str], mode: str | None, settings: Mapping[str, Any], card: ModelCard | None
) -> list[Chosen]:
    """Return the defenses named, in order; dent, instance-wise, when none is.

    ``names``: as written, such as "dent,steps=2", "tent,steps=10" or "module:callable". ``mode``
    and ``settings``: dent's, None where the default is to be taken. Raises
    :class:`~dentbench.errors.SpecError` for whatever is not there or would be ignored.
    """
    asked = [_named(text) for text in names or (DENT,)]
    given = [name for name, value in (("mode", mode), *settings.items()) if value is not None]
    if given and DENT not in (name for name, _, _ in asked):
        raise SpecError(
            f"{', '.join('--' + name.replace('_', '-') for name in given)} given, which "
            "belongs to dent, but --defense does not name dent; leave it out, add --defense dent, "
            "or write settings of another defense as tent,steps=10"
        )
    chosen: list[Chosen] = []
    for name, own, title in asked:
        if name == DENT:
            chosen.append(_dent(own, mode, settings, card))
        else:
            chosen.append((None if name == NONE else defense_spec(name, own, title), ()))
    return chosen


def _named(text: str) -> tuple[str, dict[str, str], str]:
    name, own, title = parse_defense(text)
    name = name if ":" in name else DEFENSES.canonical(name)
    if own and name == NONE:
        raise SpecError(f"defense is {text!r}, but none has none; leave out what follows the comma")
    return name, own, title


def _dent(
    own: Mapping[str, str], mode: str | None, settings: Mapping[str, Any], card: ModelCard | None
) -> Chosen:
    """Return dent with the settings after its name and those of the options."""
    written = parse_dent(own)
    options = {"mode": mode, **settings}
    twice = [name for name in written if options.get(name) is not None]
    if twice:
        raise SpecError(
            f"{', '.join(twice)} of dent is given after its name and by an option; leave one out"
        )
    chosen = {**options, **written}
    return choose_defense(chosen.pop("mode") or "instance", chosen, card)


def defense_spec(
    name: str, settings: Mapping[str, Any] | None = None, title: str = ""
) -> DefenseSpec:
    """Return the spec of a defense beside dent: a built-in's name or ``module:callable``."""
    if ":" not in name:
        return built_in(name, settings)
    from dentbench.defenses.user_defined import spec_of_factory

    return spec_of_factory(name, settings, title)
