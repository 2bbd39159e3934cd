"""The spec of the protocols: what they do beyond the attack's own budget, checked; no torch."""

from __future__ import annotations

from dataclasses import dataclass

from dentbench.checks import require_count, require_number
from dentbench.errors import SpecError


@dataclass(frozen=True, kw_only=True)
class ProtocolSpec:
    """How the protocols attack; iterations, targets and queries come from the attack.

    ``cascade``: a protocol starts from the best points of the cheaper ones that it names, and
    images that they broke count as broken and are not attacked again. False: every protocol
    stands alone, cold and on all images, for a table of attacks.

    ``rounds`` >= 1 of FPA and GMSA, and ``restarts`` >= 1, their random starts with 100
    iterations (3 and 5 in the code of arXiv 2110.14735; fewer starts with fewer iterations).
    ``last``: the unrolled gradient goes through the last so many adaptation steps, None for all.
    ``every``: a view whose gradient is not the defense's asks the defense at every so-many-th
    iterate. ``draws``: random divisions of a batch per gradient of EOT. ``queries`` of the
    decision protocol; None for what :func:`dentbench.attacks.budget.decision_queries` says.
    ``fractions`` in (0, 1): malicious shares of the batch for the distribution-invading attack.
    Raises :class:`~dentbench.errors.SpecError` for bad values.
    """

    cascade: bool = True
    rounds: int = 3
    restarts: int = 5
    last: int | None = None
    every: int = 1
    draws: int = 1
    queries: int | None = None
    fractions: tuple[float, ...] = (0.01, 0.05, 0.2)

    def __post_init__(self) -> None:
        if self.cascade not in (True, False):
            raise SpecError(f"cascade is {self.cascade!r}; allowed: true, false")
        for name in ("rounds", "restarts", "every", "draws"):
            require_count(name, getattr(self, name), 1)
        for name in ("last", "queries"):
            if getattr(self, name) is not None:
                require_count(name, getattr(self, name), 1)
        for fraction in self.fractions:
            require_number("fraction", fraction, 0, 1, open_low=True)
