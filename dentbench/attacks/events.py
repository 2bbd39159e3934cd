"""How an attack tells where it is, for progress displays; nobody need listen."""

from __future__ import annotations

import logging
from typing import Final

LOGGER: Final = "dentbench.attacks.progress"
"""The logger that is told; each message is of level DEBUG and has the arguments of :func:`tell`."""

_log = logging.getLogger(LOGGER)


def tell(attack: str, left: int, images: int) -> None:
    """Say that an attack begins on the ``left`` of a batch's ``images`` that are still right."""
    _log.debug("%s on %d of %d images", attack, left, images)
