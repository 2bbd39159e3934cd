"""Names: one canonical form, aliases, suggestions, no collisions."""

from __future__ import annotations

from pathlib import Path

import pytest

from dentbench.errors import DentBenchError, SpecError, UnknownNameError
from dentbench.registry import Registry
from dentbench.validation import nearest


def zoo() -> Registry[int]:
    registry: Registry[int] = Registry("animal")
    registry.add("Zebra", 1, aliases=("striped-horse", "Z"))
    registry.add("Ape", 2)
    registry.add("Newt", 3)
    return registry


@pytest.mark.parametrize("name", ["Zebra", "zebra", "ZEBRA", "Striped-Horse", "z"])
def test_names_and_aliases_are_found_in_any_case(name: str) -> None:
    assert zoo()[name] == 1
    assert zoo().canonical(name) == "Zebra"
    assert name in zoo()


def test_only_canonical_names_are_listed_in_the_order_added() -> None:
    assert list(zoo()) == ["Zebra", "Ape", "Newt"]
    assert len(zoo()) == 3
    assert dict(zoo()) == {"Zebra": 1, "Ape": 2, "Newt": 3}


def test_what_is_not_a_name_is_not_in_it() -> None:
    assert "Lion" not in zoo()
    assert 1 not in zoo()


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("Zebre", "did you mean Zebra?"),
        ("striped horse", "did you mean Zebra?"),
        ("APES", "did you mean Ape?"),
        ("qqqqqq", "known: Zebra, Ape, Newt"),
        ("", "known: Zebra, Ape, Newt"),
    ],
)
def test_an_unknown_name_is_told_with_a_suggestion(name: str, hint: str) -> None:
    with pytest.raises(UnknownNameError) as error:
        zoo()[name]
    assert str(error.value) == f"unknown animal {name!r}; {hint}"
    assert isinstance(error.value, SpecError | DentBenchError) and error.value.exit_code == 2


def test_two_near_names_are_both_suggested() -> None:
    registry: Registry[int] = Registry("model")
    registry.add("Wu2020", 1)
    registry.add("Wang2020", 2)
    with pytest.raises(UnknownNameError, match=r"did you mean W\w+ or W"):
        registry["W2020"]


@pytest.mark.parametrize(
    ("name", "aliases"), [("Ape", ()), ("ape", ()), ("z", ()), ("Lion", ("NEWT",)), ("a", ("A",))]
)
def test_a_collision_raises(name: str, aliases: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=r"animal name .* is registered twice"):
        zoo().add(name, 4, aliases)


def test_adding_hands_the_value_back() -> None:
    registry: Registry[list[int]] = Registry("list")
    value = [1]
    assert registry.add("one", value) is value


def test_where_all_names_are_listed_is_told() -> None:
    registry: Registry[int] = Registry("model", listed_by="dentbench fetch --list")
    registry.add("Wu2020", 1)
    for name, hint in (("Wu2021", "did you mean Wu2020?"), ("qqqqqq", "known: Wu2020")):
        with pytest.raises(UnknownNameError) as error:
            registry[name]
        told = f"unknown model {name!r}; {hint} (all of them: dentbench fetch --list)"
        assert str(error.value) == told


@pytest.mark.parametrize(
    ("name", "known", "near"),
    [
        ("resnet20", ("resnext-50", "cifar10-resnet20-robust"), ["cifar10-resnet20-robust"]),
        ("epsilon", ("precision", "eps"), ["eps"]),
        ("GMSA", ("gmsa-avg", "fpa", "gmsa-min"), ["gmsa-avg", "gmsa-min"]),
        ("unroled", ("surrogate", "published", "unrolled"), ["unrolled"]),
        ("tnt", ("tte", "tent", "hedge"), ["tent", "tte"]),
        ("zz", ("aqqb", "b"), []),
        ("x", (), []),
    ],
)
def test_names_that_hold_a_name_come_first_and_far_ones_are_left_out(
    name: str, known: tuple[str, ...], near: list[str]
) -> None:
    assert nearest(name, known) == near


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "my_code",
            "my_code is no attack's name; for your own in my_code.py write my_code.py:CALL",
        ),
        ("my_code.py", "for your own in my_code.py write my_code.py:CALLABLE"),
        ("my_code.fgsm", "for your own in my_code.py write my_code.py:CALLABLE"),
        ("sub/my_code.py", "there is no file sub/my_code.py"),
        ("my_cod", "unknown attack 'my_cod'; known: square"),
    ],
)
def test_a_file_of_ones_own_is_told_how_to_be_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, words: str
) -> None:
    (tmp_path / "my_code.py").touch()
    monkeypatch.chdir(tmp_path)
    for has_code in (True, False):
        registry: Registry[int] = Registry("attack", has_code=has_code)
        registry.add("square", 1)
        with pytest.raises(UnknownNameError) as error:
            registry[name]
        assert (words in str(error.value)) == (has_code or name == "my_cod")
