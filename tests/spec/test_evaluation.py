"""Specs are values: refusals, the writing of eps, and the parts of the key."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from dataclasses import FrozenInstanceError, replace
from fractions import Fraction
from itertools import chain
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dentbench.errors import SpecError
from dentbench.spec.evaluation import (
    NORMS,
    AttackSpec,
    BatchPlan,
    DataSpec,
    DefenseSpec,
    DentSpec,
    EvalSpec,
    ModelSpec,
    ProtocolSpec,
    derive_seed,
    digest,
    field_names,
    format_eps,
    parse_eps,
)

MODEL = ModelSpec(name="net", sha256="ab")
DATA = DataSpec(name="data", sha256="cd", first=0, count=10)


def evaluation(**changes: Any) -> EvalSpec:
    return EvalSpec(**{"model": MODEL, "data": DATA, "defense": DentSpec(), **changes})


# --- eps ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("8/255", Fraction(8, 255)),
        ("8 / 255", Fraction(8, 255)),
        ("  8/255\n", Fraction(8, 255)),
        ("1.5/255", Fraction(3, 510)),
        ("0.5", Fraction(1, 2)),
        ("0.031", Fraction(31, 1000)),
        ("12", Fraction(12)),
        ("0", Fraction(0)),
        ("0/255", Fraction(0)),
        ("3/0.5", Fraction(6)),
        (".03", Fraction(3, 100)),
        ("8/255.", Fraction(8, 255)),
        ("3e-2", Fraction(3, 100)),
        ("1E-05", Fraction(1, 10**5)),
    ],
)
def test_eps_is_read_exactly(text: str, value: Fraction) -> None:
    assert parse_eps(text) == value


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "8 / 25x", "-1", "-8/255", "+1", "nan", "inf", "-inf", "1e400", "1e-999", "e3"),
        *("1/0", "1/0.0", "1//2", "1/2/3", "/255", "8/", ".", "1,5", "0x10", "8%", "eight", "1_0"),
        *("8/-255", "8 255", "٪", "½", "٣/255"),
    ],
)
def test_bad_eps_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(SpecError, match="such as 8/255") as error:
        parse_eps(text)
    assert repr(text) in str(error.value)


numbers = st.one_of(
    st.integers(0, 10**6).map(str),
    st.decimals(0, 10**4, places=4, allow_nan=False, allow_infinity=False).map(str),
)


@given(numerator=numbers, denominator=st.one_of(st.none(), st.just("255"), numbers))
def test_whatever_is_read_is_written_so_that_it_reads_the_same(
    numerator: str, denominator: str | None
) -> None:
    if denominator is None:
        eps = parse_eps(numerator)
        assert eps == Fraction(numerator)
    elif Fraction(denominator) == 0:
        with pytest.raises(SpecError):
            parse_eps(f"{numerator}/{denominator}")
        return
    else:
        eps = parse_eps(f"{numerator} / {denominator}")
        assert eps == Fraction(numerator) / Fraction(denominator)
    assert parse_eps(format_eps(eps)) == eps


@given(st.fractions(min_value=0))
def test_any_fraction_is_written_exactly(eps: Fraction) -> None:
    assert parse_eps(format_eps(eps)) == eps


@pytest.mark.parametrize(
    ("eps", "text"),
    [
        ("8/255", "8/255"),
        ("16/510", "8/255"),
        ("1.5/255", "1.5/255"),
        ("0.5", "0.5"),
        ("1", "1"),
        ("12", "12"),
        ("0", "0"),
        ("0.031", "0.031"),
        ("1/3", "85/255"),
        ("1/7", "1/7"),
    ],
)
def test_eps_is_written_as_a_short_exact_decimal_or_in_255ths(eps: str, text: str) -> None:
    assert format_eps(parse_eps(eps)) == text


# --- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "culprit"),
    [
        (lambda: AttackSpec(norm="L0"), "norm is 'L0'; allowed: Linf, L2, L1"),
        (lambda: AttackSpec(norm="linf"), "norm is 'linf'"),
        (lambda: AttackSpec(eps=Fraction(-1, 255)), "eps is"),
        (lambda: AttackSpec(eps=math.nan), "eps is nan"),
        (lambda: AttackSpec(eps=Fraction(10**400)), "it must be a finite number"),
        (lambda: AttackSpec(iterations=0), "iterations is 0"),
        (lambda: AttackSpec(iterations=1.0), "iterations is 1.0"),
        (lambda: AttackSpec(iterations=1, norm="L1"), "iterations is 1; .* at least 2"),
        (lambda: AttackSpec(queries=-5), "queries is -5"),
        (lambda: AttackSpec(targets=True), "targets is True"),
        (lambda: DataSpec(name="d", sha256="", first=-1, count=1), "first is -1"),
        (lambda: DataSpec(name="d", sha256="", first=0, count=0), "examples is 0"),
        (lambda: BatchPlan(size=0), "batch size is 0"),
        (lambda: BatchPlan(batching="own"), "batching is 'own'; allowed: declared, autoattack"),
        (lambda: evaluation(seed=-1), "seed is -1"),
        (lambda: evaluation(seed="1"), "seed is '1'"),
        (lambda: DentSpec(lr=10**400), "lr is 1"),
        (lambda: DentSpec(lr=math.inf), "lr is inf"),
        (lambda: DentSpec(steps=True), "steps is True"),
        (lambda: DentSpec(nesterov="no"), "nesterov is 'no'"),
    ],
)
def test_bad_values_are_refused(make: Any, culprit: str) -> None:
    with pytest.raises(SpecError, match=culprit):
        make()


def test_specs_cannot_be_changed() -> None:
    for spec, name in (
        (evaluation(), "seed"),
        (DentSpec(), "steps"),
        (AttackSpec(), "eps"),
        (DATA, "count"),
        (MODEL, "name"),
        (BatchPlan(), "size"),
    ):
        with pytest.raises(FrozenInstanceError):
            setattr(spec, name, 1)


# --- the key --------------------------------------------------------------------------------------

BLURRED = {"blur": "static"}
DYNAMIC = {"blur": "dynamic"}

CHANGES: dict[type, dict[str, tuple[dict[str, Any], dict[str, Any]]]] = {
    DentSpec: {
        "mode": (
            {"steps": 6, "loss": "shot", "statistics": "running"},
            {"steps": 6, "loss": "shot", "statistics": "running", "mode": "batch"},
        ),
        "steps": ({}, {"steps": 7}),
        "delta": (DYNAMIC, {**DYNAMIC, "delta": "none"}),
        "layers": ({}, {"layers": "all"}),
        "loss": ({}, {"loss": "entropy"}),
        "statistics": ({}, {"statistics": "mix:0.25"}),
        "blur": ({}, BLURRED),
        "sigma": (BLURRED, {**BLURRED, "sigma": 1.5}),
        "padding": (BLURRED, {**BLURRED, "padding": "reflect"}),
        "optimizer": ({}, {"optimizer": "sgd"}),
        "lr": ({}, {"lr": 0.0060000001}),
        "gamma_lr": ({}, {"gamma_lr": 0.0}),
        "beta_lr": ({}, {"beta_lr": 0.0}),
        "sigma_lr": (DYNAMIC, {**DYNAMIC, "sigma_lr": 0.2}),
        "beta1": ({}, {"beta1": 0.9}),
        "beta2": ({}, {"beta2": 0.99}),
        "beta3": ({}, {"beta3": 0.9}),
        "optimizer_eps": ({}, {"optimizer_eps": 1e-7}),
        "momentum": ({}, {"momentum": 0.0}),
        "nesterov": ({}, {"nesterov": False}),
    },
    AttackSpec: {
        "name": ({}, {"name": "plus"}),
        "norm": ({}, {"norm": "L2"}),
        "eps": ({}, {"eps": Fraction(8, 256)}),
        "iterations": ({}, {"iterations": 100}),
        "queries": ({}, {"queries": 5000}),
        "targets": ({}, {"targets": 9}),
    },
    ModelSpec: {
        "name": ({"name": "a", "sha256": "b"}, {"name": "b", "sha256": "b"}),
        "sha256": ({"name": "a", "sha256": "b"}, {"name": "a", "sha256": "a"}),
        "code": ({"name": "a", "sha256": "b"}, {"name": "a", "sha256": "b", "code": "c"}),
    },
    DataSpec: {
        name: ({**vars(DATA)}, {**vars(DATA), name: other})
        for name, other in {
            "name": "other",
            "sha256": "e",
            "first": 1,
            "count": 11,
            "order": "label-windows:4",
        }.items()
    },
    BatchPlan: {
        "size": ({}, {"size": 127}),
        "batching": ({}, {"batching": "autoattack"}),
    },
    ProtocolSpec: {
        name: ({}, {name: value})
        for name, value in {
            "cascade": False,
            "iterations": 100,
            "targets": 9,
            "rounds": 4,
            "restarts": 5,
            "last": 1,
            "every": 2,
            "draws": 3,
            "queries": 500,
            "fractions": (0.01, 0.05),
            "draws_judged": 5,
            "eot": "mean",
        }.items()
    },
}
PLACES = {
    DentSpec: "defense",
    AttackSpec: "attack",
    ModelSpec: "model",
    DataSpec: "data",
    BatchPlan: "batches",
    ProtocolSpec: "protocols",
}


@pytest.mark.parametrize("kind", CHANGES)
def test_every_field_is_tried(kind: type) -> None:
    assert set(CHANGES[kind]) == set(field_names(kind))


@pytest.mark.parametrize(
    ("kind", "name"), [(kind, name) for kind, names in CHANGES.items() for name in names]
)
def test_the_key_changes_with_every_field(kind: type, name: str) -> None:
    before, after = (kind(**values) for values in CHANGES[kind][name])
    assert getattr(before, name) != getattr(after, name)
    keys = [evaluation(**{PLACES[kind]: spec}).key() for spec in (before, after)]
    assert keys[0] != keys[1]


def test_the_protocols_settings_are_no_part_of_the_static_model() -> None:
    spec = evaluation(protocols=ProtocolSpec(rounds=9))
    assert spec.static == evaluation(defense=None)
    assert spec.counterpart.protocols.rounds == 9
    assert spec.counterpart.key() == spec.static.key() != spec.key()


def test_the_key_changes_with_the_rest() -> None:
    specs = [evaluation(), evaluation(seed=1), evaluation(defense=None)]
    specs += [evaluation(defense=DentSpec(steps=0)), evaluation(defense=DentSpec(mode="batch"))]
    assert len({spec.key() for spec in specs}) == len(specs)


def test_all_the_keys_are_different() -> None:
    """Two fields that hold the same value are not mixed up either."""
    variants = [
        evaluation(**{PLACES[kind]: kind(**values)})
        for kind, names in CHANGES.items()
        for values in chain.from_iterable(names.values())
    ]
    assert len({spec.key() for spec in variants}) == len(set(variants))


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (DentSpec(lr=1), DentSpec(lr=1.0)),
        (DentSpec(momentum=0), DentSpec(momentum=-0.0)),
        (DentSpec(nesterov=1), DentSpec(nesterov=True)),
        (DentSpec(lr=Fraction(1, 2)), DentSpec(lr=0.5)),
        (DentSpec(), DentSpec(mode="instance", steps=6, loss="shot", statistics="running")),
        (DentSpec(statistics="mix:0"), DentSpec(statistics="running")),
    ],
)
def test_equal_settings_have_equal_keys(ours: DentSpec, theirs: DentSpec) -> None:
    assert ours == theirs and hash(ours) == hash(theirs)
    assert evaluation(defense=ours).key() == evaluation(defense=theirs).key()


def test_eps_written_in_two_ways_has_one_key() -> None:
    ours, theirs = (AttackSpec(eps=parse_eps(text)) for text in ("8/255", "16.0 / 510"))
    assert evaluation(attack=ours).key() == evaluation(attack=theirs).key()


def test_a_key_is_sixteen_hexadecimal_digits() -> None:
    key = evaluation().key()
    assert len(key) == 16 and set(key) <= set("0123456789abcdef")


def test_keys_and_seeds_are_the_same_in_every_process() -> None:
    script = (
        "from tests.spec.test_evaluation import evaluation;"
        "from dentbench.spec.evaluation import derive_seed;"
        "print(evaluation().key(), derive_seed(1, 'square', 2, 0))"
    )
    expected = f"{evaluation().key()} {derive_seed(1, 'square', 2, 0)}"
    other = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"  # this one's is random, or it
    environment = {
        **os.environ,
        "PYTHONHASHSEED": other,
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == expected


def test_a_value_without_a_canonical_writing_is_an_error() -> None:
    with pytest.raises(TypeError, match="no canonical writing"):
        digest({"model": object()})


# --- seeds, batches, separability -----------------------------------------------------------------


@given(st.lists(st.one_of(st.integers(), st.text()), min_size=1, max_size=4))
@settings(max_examples=25)
def test_seeds_fit_and_depend_on_parts_and_order(parts: list[Any]) -> None:
    seed = derive_seed(*parts)
    assert 0 <= seed < 2**31
    assert seed == derive_seed(*parts)
    assert seed != derive_seed(*parts, 0)
    if [str(part) for part in parts] != [str(part) for part in parts[::-1]]:
        assert seed != derive_seed(*parts[::-1])


def test_seeds_do_not_run_parts_together() -> None:
    assert derive_seed("a", "b") != derive_seed("ab") != derive_seed("a,b")
    assert len({derive_seed(0, name, unit, 0) for name in "abcdef" for unit in range(1000)}) > 5995


@given(count=st.integers(1, 60), size=st.integers(1, 70))
def test_declared_batches_cover_the_slice_in_order(count: int, size: int) -> None:
    ranges = BatchPlan(size=size).ranges(count)
    assert list(chain.from_iterable(ranges)) == list(range(count))
    assert all(len(unit) == size for unit in ranges[:-1])
    assert 1 <= len(ranges[-1]) <= size
    assert BatchPlan(size=size, batching="autoattack").ranges(count) == (range(count),)


@pytest.mark.parametrize(
    ("defense", "mode", "separable"),
    [
        (None, "static", True),
        (DentSpec(), "instance", False),
        (DentSpec(loss="entropy"), "instance", True),
        (DentSpec(loss="entropy", statistics="batch"), "instance", False),
        (DentSpec(loss="entropy", statistics="mix:0.1"), "instance", False),
        (DentSpec(mode="batch", loss="entropy", statistics="running"), "batch", False),
        (DentSpec(mode="batch", steps=0), "batch", True),
        (DentSpec(steps=0), "instance", True),
    ],
)
def test_which_defenses_are_separable(defense: DentSpec | None, mode: str, separable: bool) -> None:
    spec = evaluation(defense=defense)
    assert (spec.mode, spec.separable) == (mode, separable)


@pytest.mark.parametrize("norm", NORMS)
def test_a_changed_budget_is_told(norm: str) -> None:
    spec = AttackSpec(norm=norm)
    assert not spec.shortened
    for name in ("iterations", "queries", "targets"):
        assert replace(spec, **{name: 5}).shortened


@pytest.mark.parametrize("name", ["folder/net.py:make", "./net.py:make", "/home/me/net.py:make"])
def test_a_callable_counts_wherever_its_file_lies(name: str) -> None:
    """The hash of its code tells it from others of its name."""
    there, here = (
        evaluation(model=replace(evaluation().model, name=n)) for n in (name, "net:make")
    )
    other = evaluation(model=replace(evaluation().model, name=name, code="1"))
    assert there.key() == here.key() != other.key()
    assert there.model.name == name
    defenses = [DefenseSpec(name=n, sha256="1") for n in (name, "net:make", "net:other")]
    keys = [evaluation(defense=defense).key() for defense in defenses]
    assert keys[0] == keys[1] != keys[2]
    attacks = [AttackSpec(name=f"{n}@12") for n in (name, "net:make", "net:other")]
    keys = [evaluation(attack=attack).key() for attack in attacks]
    assert keys[0] == keys[1] != keys[2]
