"""The state of a user's code once it is imported: its reads at import leave no other trace."""

from __future__ import annotations

from dentbench.errors import ModelError
from dentbench.identity.fingerprint import fingerprint
from dentbench.identity.user_code import loaded_again


def imported_state(thing: object, text: str) -> str:
    """Return the fingerprint of the object ``module:name``, right after its import.

    Variables of the environment and files of data that it reads are part of it; later changes, as
    of counters, are not. "" where every import holds other values, such as a time or the name of a
    new folder, or a value without a stable writing.
    """
    state = state_of(thing)
    if not state:
        return ""
    try:
        again = state_of(loaded_again(text))
        if again != state:
            state = state_of(loaded_again(text))
    except Exception:  # whatever it raises when it is imported once more
        return ""
    return state if again == state else ""


def state_of(thing: object) -> str:
    """Return the fingerprint of an object, "" where something in it has no stable writing."""
    try:
        return fingerprint(thing)
    except ModelError:
        return ""
