"""The images that a user asks for: a data set, its name, and a slice. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dentbench.spec.evaluation import require_order
from dentbench.validation import require_count


@dataclass(frozen=True, kw_only=True)
class DataChoice:
    """A data set's name or file, and the slice of it; None takes the default.

    ``data_name``: the name of a file of the user's own. ``folder``: of ImageNet's val or a
    corruption set's files. ``corruption`` and ``severity``: the part of a corruption set.
    ``preprocess``: of pictures, by name; without it ``resize``, as the model's card says, or the
    data set's default. ``first``, ``examples``, ``order``: the slice, see
    :class:`~dentbench.spec.evaluation.DataSpec`. Raises :class:`~dentbench.errors.SpecError` for a
    bad slice.
    """

    dataset: str | None = None
    data_name: str | None = None
    folder: Path | None = None
    corruption: str | None = None
    severity: int | None = None
    preprocess: str | None = None
    resize: str = ""
    first: int = 0
    examples: int | None = None
    order: str = "given"

    def __post_init__(self) -> None:
        require_count("first", self.first, 0)
        if self.examples is not None:
            require_count("examples", self.examples, 1)
        require_order(self.order)
