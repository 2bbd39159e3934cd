"""Names: one canonical form, aliases, suggestions, no collisions."""

from __future__ import annotations

import pytest

from dentbench.errors import DentBenchError, SpecError, UnknownNameError
from dentbench.registry import Registry


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
