"""A source's hash follows what it does, not how it is written."""

from __future__ import annotations

import subprocess
import sys

import pytest

from dentbench.identity.source_meaning import meaning_sha256

SOURCE = '''"""A module."""

LEVELS = {1, 2, 3} if __debug__ else ()
NAMES = "a" in {"a", "b", "c", "d"}


class Net:
    """A class."""

    level: float = 2.0

    def forward(self, x):
        """Do it."""
        assert x is not None
        # a remark
        return (x + 1) * self.level  # another


def empty():
    """Nothing else."""
'''

SAME = {
    "a remark": ("# a remark", "# another remark\n        # and one more"),
    "no remark": ("  # another", ""),
    "lines": ("\n\nclass", "\n\n\n\n\nclass"),
    "layout": ("(x + 1) * self.level", "(\n            x + 1\n        ) * self.level"),
    "docstring of a module": ('"""A module."""', '"""The module."""'),
    "docstring of a class": ('"""A class."""', '"""One."""'),
    "docstring of a method": ('"""Do it."""', '"""Do that."""'),
    "no docstring": ('        """Do it."""\n', ""),
    "a docstring alone": ('"""Nothing else."""', '"""Nothing at all."""'),
    "quotes": ('"a" in', "'a' in"),
}
OTHER = {
    "a number": ("x + 1", "x + 2"),
    "an operator": ("x + 1", "x - 1"),
    "an argument": ("self, x)", "self, x, y=1)"),
    "an annotated default": ("= 2.0", "= 3.0"),
    "a member of a set": ('"d"', '"e"'),
    "an assertion": ("is not None", "is None"),
    "a name": ("class Net", "class Nets"),
    "the kind of a number": ("x + 1", "x + 1.0"),
    "a docstring that is read": ("x is not None", "__doc__ is not None"),
}


@pytest.mark.parametrize("kind", SAME)
def test_how_it_is_written_says_nothing(kind: str) -> None:
    old, new = SAME[kind]
    assert old in SOURCE
    other = SOURCE.replace(old, new)
    assert other != SOURCE
    assert meaning_sha256(other.encode()) == meaning_sha256(SOURCE.encode())


@pytest.mark.parametrize("kind", OTHER)
def test_what_it_does_counts(kind: str) -> None:
    old, new = OTHER[kind]
    assert old in SOURCE
    assert meaning_sha256(SOURCE.replace(old, new).encode()) != meaning_sha256(SOURCE.encode())


def test_a_source_may_be_a_docstring_alone() -> None:
    assert meaning_sha256(b'"""A package."""\n') == meaning_sha256(b'"""The package."""\n')


def test_docstrings_count_where_the_source_asks_for_one() -> None:
    source = SOURCE + "\nHELP = Net.forward.__doc__\n"
    other = source.replace("Do it.", "Do that.")
    assert meaning_sha256(source.encode()) != meaning_sha256(other.encode())


def test_a_file_that_is_no_python_counts_by_its_bytes() -> None:
    first, same, other = (meaning_sha256(text) for text in (b"a b\n", b"a b\n", b"a  b\n"))
    assert first == same != other


def test_it_is_the_same_in_every_process() -> None:
    code = (
        "import sys; from dentbench.identity.source_meaning import meaning_sha256; "
        "print(meaning_sha256(sys.stdin.buffer.read()))"
    )
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", code],
            input=SOURCE.encode(),
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            check=True,
        )
        assert done.stdout.decode().strip() == meaning_sha256(SOURCE.encode())
