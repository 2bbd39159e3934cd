"""Choices written as texts: the settings of the protocols."""

from __future__ import annotations

from dataclasses import fields

import pytest

from dentbench.attacks.catalogue import PROTOCOLS
from dentbench.defenses.naming import built_in, parse_defense
from dentbench.errors import SpecError
from dentbench.report import departures
from dentbench.spec.evaluation import DentSpec, ProtocolSpec, field_names
from dentbench.study.choices import choose_protocols
from dentbench.study.defenses import choose_defenses
from dentbench.study.parsing import PROTOCOL_SETTINGS, parse_dent, parse_protocol_settings
from tests.helpers import record


def test_the_protocols_settings_are_typed() -> None:
    texts = ["rounds=4", "restarts = 0", "fractions=0.1, 0.5", "Iterations=7"]
    actual = parse_protocol_settings(texts, cascade=False)
    assert actual == ProtocolSpec(
        cascade=False, rounds=4, restarts=0, fractions=(0.1, 0.5), iterations=7
    )
    assert parse_protocol_settings([]) == ProtocolSpec()
    assert {*PROTOCOL_SETTINGS, "cascade"} == set(field_names(ProtocolSpec))


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["round=4"], "unknown protocol setting 'round'; did you mean rounds"),
        (["colour=4"], "unknown protocol setting 'colour'; known: iterations, targets"),
        (["rounds"], "write NAME=VALUE"),
        (["rounds="], "write NAME=VALUE"),
        (["rounds=many"], "rounds=many: it is a whole number"),
        (["rounds=1.5"], "it is a whole number"),
        (["rounds=0"], "rounds is 0; it must be a whole number, at least 1"),
        (["fractions=1;2"], "numbers separated by commas"),
        (["fractions=0.1,2"], "fraction is 2.0"),
        (["rounds=1", "rounds=2"], "rounds more than once"),
        (["cascade=false"], "--no-cascade"),
    ],
)
def test_bad_settings_of_the_protocols_are_refused(texts: list[str], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        parse_protocol_settings(texts)


@pytest.mark.parametrize(
    ("settings", "protocols", "able"),
    [
        (ProtocolSpec(rounds=2), [], "fpa, gmsa-avg, gmsa-min"),
        (ProtocolSpec(cascade=False), ["transfer"], "surrogate, warm"),
        (ProtocolSpec(last=1), ["fpa", "scores", "decision"], "unrolled, batch-mates"),
        (
            ProtocolSpec(every=2, cascade=False),
            ["fpa"],
            "surrogate, few-steps, surrogate-process, eot",
        ),
    ],
)
def test_a_setting_that_nothing_heeds_is_refused(
    settings: ProtocolSpec, protocols: list[str], able: str
) -> None:
    with pytest.raises(SpecError, match=f"heeds it; .* one of {able}"):
        choose_protocols(protocols, settings)
    assert choose_protocols(["all"], settings) == tuple(PROTOCOLS)


def test_what_a_cascade_runs_first_heeds_its_settings_too() -> None:
    assert choose_protocols(["fpa"], ProtocolSpec(every=2)) == ("fpa",)


def test_the_protocol_of_a_defense_s_own_paper_is_run_too(caplog: pytest.LogCaptureFixture) -> None:
    """It gives the published accuracy, which dent's own protocol does not."""
    own, dent = built_in("diffpure"), DentSpec()
    assert choose_protocols(["transfer"], ProtocolSpec(), [own, dent]) == ("transfer", "unrolled")
    assert "diffpure was published under unrolled, which is run too" in caplog.text
    caplog.clear()
    assert choose_protocols(["Unrolled"], ProtocolSpec(), [own]) == ("unrolled",)
    assert choose_protocols(["transfer"], ProtocolSpec(), [dent]) == ("transfer",)
    assert choose_protocols([], ProtocolSpec(), [own]) == ("published", "transfer", "unrolled")
    assert not caplog.text


def test_settings_of_dent_after_its_name() -> None:
    text = "dent,steps=2,lr=0.01,loss=entropy,nesterov=false,mode=batch"
    ((spec, _),) = choose_defenses([text], None, {}, None)
    wanted = DentSpec(mode="batch", steps=2, lr=0.01, loss="entropy", nesterov=False)
    assert spec == wanted
    several = choose_defenses(["dent,steps=1", "dent,steps=2"], "batch", {"lr": 0.1}, None)
    assert [spec for spec, _ in several] == [
        DentSpec(mode="batch", steps=steps, lr=0.1) for steps in (1, 2)
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("dent,stesp=2", "no setting 'stesp'; .*did you mean steps"),
        ("dent,steps=2.5", "steps of dent is '2.5'"),
        ("dent,lr=fast", "'fast' is not a number"),
        ("dent,lr=0.2", "lr of dent is given after its name and by an option"),
        ("none,steps=2", "none has none"),
    ],
)
def test_bad_settings_of_dent_are_refused(text: str, words: str) -> None:
    with pytest.raises(SpecError, match=words):
        choose_defenses([text], None, {"lr": 0.1}, None)


def test_every_setting_of_dent_is_read_as_its_type() -> None:
    kinds = {"str": "x", "int": "3", "float": "0.5", "bool": "true"}
    for item in fields(DentSpec):
        kind = str(item.type).partition(" ")[0]
        (value,) = parse_dent({item.name: kinds[kind]}).values()
        assert type(value).__name__ == kind, item.name


def test_a_short_title_before_a_defense_of_ones_own_is_what_tables_call_it() -> None:
    name, settings, title = parse_defense("ours=a.very.long.module:make,share=0.2")
    assert (name, settings, title) == ("a.very.long.module:make", {"share": "0.2"}, "ours")
    titled = record(1, mode="other", defense=name, defense_title=title, defense_settings="{}")
    assert departures.defense_title(titled) == departures.defense_name(titled) == "ours"
    for wrong in ("ours=tent", "=my:make"):
        with pytest.raises(SpecError, match="a title stands before a defense of your own"):
            parse_defense(wrong)
