"""The runs of ``evaluate --table 1``: the cells of the paper's Table 1, and nothing else."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Final

from dentbench.errors import SpecError
from dentbench.paper import TABLE1
from dentbench.spec.evaluation import NO_ATTACK, DentSpec
from dentbench.study.choices import Chosen
from dentbench.study.study import Request, find_card
from dentbench.zoo.cards.model_cards import ModelCard

MODELS: Final = tuple(dict.fromkeys(row.model for row in TABLE1.rows))
"""The models of the table."""

EPS: Final = "8/255"


def requests(request: Request) -> list[Request]:
    """Return the request for each model: of the table unless others are given.

    Models of CIFAR-10 are attacked at Linf 8/255 and others at their own eps, unless the request
    says another norm or eps; the report marks whatever is not the paper's.
    """
    requests_of = []
    for name in request.models or MODELS:
        card = find_card(name)
        if request.norm is None and request.eps is None and _is_cifar10(card):
            requests_of.append(replace(request, models=[name], norm="Linf", eps=EPS))
        else:
            requests_of.append(replace(request, models=[name]))
    return requests_of


def _is_cifar10(card: ModelCard | None) -> bool:
    return card is None or card.dataset == "cifar10"


def choose_defenses(card: ModelCard | None) -> list[Chosen]:
    """Return the table's defenses: batch-wise in 30 steps, instance-wise in 6, all else default.

    A model card's recommendations are no part of the table.
    """
    del card
    cells = dict.fromkeys((row.mode, row.steps) for row in TABLE1.rows)
    return [(DentSpec(mode=mode, steps=steps), ()) for mode, steps in cells]


def check(table: int, given: Collection[str], request: Request) -> None:
    """Raise :class:`~dentbench.errors.SpecError` for another table or a setting of its own.

    ``given``: the options given beside the ``request`` that decide the specs.
    """
    if table != 1:
        raise SpecError(f"--table is {table}; evaluate runs table 1, dentbench ablate table 2")
    if given:
        options = ", ".join("--" + name.replace("_", "-") for name in given)
        raise SpecError(
            f"{options} given, but --table 1 says itself which defenses, settings and eps are run; "
            "leave it out, or leave --table out"
        )
    if request.attack_name == NO_ATTACK:
        raise SpecError(
            "--table 1 is of accuracy under attack, and there is no attack; leave --attack none or "
            "--table out"
        )
