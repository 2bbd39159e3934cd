"""Tell the line of a user's own code that an error comes from."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Final

from dentbench.paths import is_installed_file

_NOT_THE_USERS: Final = ("<", str(Path(__file__).parents[1]))
"""How the names of frozen and made modules begin, and the paths of our files."""


def users_line(error: BaseException) -> str:
    """Return the last line of a user's file in what caused an error, to put after it; "" if none.

    A syntax error's own text names its line.
    """
    causes = [error]
    while (cause := causes[-1].__cause__) is not None and cause not in causes:
        causes.append(cause)
    frames = [frame for cause in causes[1:] for frame in traceback.extract_tb(cause.__traceback__)]
    users = [
        frame
        for frame in frames
        if not (frame.filename.startswith(_NOT_THE_USERS) or is_installed_file(frame.filename))
    ]
    if not users or isinstance(causes[-1], SyntaxError):
        return ""
    place = f"{Path(users[-1].filename).name}, line {users[-1].lineno}"
    return f"; raised by {place} (--traceback shows every call)"
