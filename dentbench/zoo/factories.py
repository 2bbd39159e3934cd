"""A network from a user's ``module:callable``, and what identifies its code."""

from __future__ import annotations

import contextlib
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import torch
from torch import nn

from dentbench.containment import contained
from dentbench.errors import ModelError, UnknownNameError, first_line
from dentbench.identity.fingerprint import fingerprint
from dentbench.identity.user_code import load, loaded_again, sha256_of
from dentbench.zoo.modes import evaluated
from dentbench.zoo.weights import told_by_state

_QUICK: Final = 5.0
"""A network that is made within so many seconds is made once more, to see what stays the same."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """The source of a network's code.

    ``sha256``: its hash, or another text that identifies it. ``is_steady``: whether the network has
    the same texts each time that it is made, not the time, a new folder's name or the like.
    """

    sha256: str
    is_steady: bool = True


def network_of_factory(text: str) -> tuple[nn.Module, Source]:
    """Return the network of ``module:callable``, called without arguments, and its source.

    It may also name a network.
    """
    started, draws = time.monotonic(), _random_numbers()
    try:
        made, files = load(text)
        network = _made(made)
    except Exception as error:  # whatever a user's module raises
        reason = first_line(error)
        raise UnknownNameError(f"model {text!r} cannot be made ({reason})") from error
    if not isinstance(network, nn.Module):
        raise ModelError(f"{text} returned {type(network).__name__}, not a torch.nn.Module")
    network, source = evaluated(network), Source(sha256_of(files))
    if time.monotonic() - started <= _QUICK:
        with contextlib.suppress(Exception):  # whatever it raises when it is imported once more
            draws()
            again = _made(loaded_again(text))
            alike = [_code(network, texts) == _code(again, texts) for texts in (True, False)]
            source = replace(source, is_steady=alike != [False, True])
    return network, source


def _made(made: Any) -> Any:
    with contained():
        return made if isinstance(made, nn.Module) else made()


def _code(network: nn.Module, texts: bool) -> str:
    return fingerprint(network, told_by_state(network), texts=texts)


def _random_numbers() -> Callable[[], None]:
    """Return what lets the same random numbers be drawn again."""
    kept = torch.get_rng_state(), np.random.get_state(), random.getstate()

    def again() -> None:
        torch.set_rng_state(kept[0])
        np.random.set_state(kept[1])
        random.setstate(kept[2])

    return again
