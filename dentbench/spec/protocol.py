"""The spec of the protocols: their settings beside the attack's budget, checked; no torch."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import Any, Final

from dentbench.errors import SpecError
from dentbench.validation import require_count, require_number

EOT: Final = ("weighted", "mean")
"""How the gradients of random draws are joined."""


@dataclass(frozen=True, kw_only=True)
class ProtocolSpec:
    """How the protocols attack; none of it touches published, transfer and the static model.

    ``cascade``: a protocol starts from the best points of the cheaper ones that it names, and
    images that they broke count as broken and are not attacked again. False: every protocol
    stands alone, cold and on all images, for a table of attacks.

    ``iterations`` and ``targets`` >= 1 of their attacks, None for those of the attack (100 and 9 in
    AutoAttack standard); in a cascade some take a share of them. ``rounds`` >= 1 of FPA and GMSA,
    and ``restarts`` >= 0, their random starts, beside the best points in a cascade. None: no more
    than those in a cascade, else 5 with 100 iterations as in the code of arXiv 2110.14735 (which
    has 3 rounds), fewer with fewer. ``last``: the unrolled gradient goes through the last so many
    adaptation steps, None for all. ``every``: a view whose gradient is not the defense's asks the
    defense at every so-many-th iterate. ``draws``: random divisions of a batch per gradient of EOT,
    which ``eot`` joins: "weighted" towards those that can be broken, or "mean". ``queries`` of
    scores and of decision; None for those of :func:`dentbench.attacks.budget.queries_of`.
    ``fractions`` in (0, 1]: malicious shares of the batch for the distribution-invading attack.
    ``draws_judged`` >= 2: how often every final point of a random defense is judged. Raises
    :class:`~dentbench.errors.SpecError` for bad values.
    """

    cascade: bool = True
    iterations: int | None = None
    targets: int | None = None
    rounds: int = 3
    restarts: int | None = None
    last: int | None = None
    every: int = 1
    draws: int = 2
    eot: str = "weighted"
    queries: int | None = None
    fractions: tuple[float, ...] = (0.01, 0.05, 0.2)
    draws_judged: int = 10

    def __post_init__(self) -> None:
        if self.cascade not in (True, False):
            raise SpecError(f"cascade is {self.cascade!r}; allowed: true, false")
        for name in ("rounds", "every", "draws"):
            require_count(name, getattr(self, name), 1)
        require_count("draws_judged", self.draws_judged, 2)
        for name in ("iterations", "targets", "restarts", "last", "queries"):
            if getattr(self, name) is not None:
                require_count(name, getattr(self, name), 0 if name == "restarts" else 1)
        if self.eot not in EOT:
            raise SpecError(f"eot is {self.eot!r}; allowed: {', '.join(EOT)}")
        if not isinstance(self.fractions, tuple | list) or not self.fractions:
            raise SpecError(f"fractions is {self.fractions!r}; give shares of the batch")
        for fraction in self.fractions:
            require_number("fraction", fraction, 0, 1, open_low=True)
        object.__setattr__(self, "fractions", tuple(map(float, self.fractions)))

    @property
    def changed(self) -> dict[str, Any]:
        """The settings that are not the defaults, by name."""
        return {
            field.name: value
            for field in fields(self)
            if (value := getattr(self, field.name)) != field.default
        }

    @property
    def settings_json(self) -> str:
        """All settings as a JSON object; null where the default follows from the attack."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> ProtocolSpec:
        """Return the spec that :attr:`settings_json` wrote; settings that it lacks are default.

        Raises :class:`~dentbench.errors.SpecError` for a setting that there is not.
        """
        settings = json.loads(text)
        odd = sorted(settings.keys() - {field.name for field in fields(cls)})
        if odd:
            raise SpecError(f"{odd[0]!r} is no setting of protocols")
        return cls(**settings)
