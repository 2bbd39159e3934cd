"""Own defenses: protocols that run or are skipped, refusals, and stale caches."""

from __future__ import annotations

import copy
import json
import os
import random
import re
import socket
import sys
import time
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import dentbench
from dentbench import AttackSpec
from dentbench.cli import app
from dentbench.defenses.build import build, identified
from dentbench.defenses.user_defined import load_factory, spec_of_object
from dentbench.errors import DentBenchError, ModelError, SpecError
from dentbench.records.outcome import Record
from dentbench.spec.evaluation import DataSpec, DentSpec, EvalSpec, ModelSpec
from dentbench.study.defenses import defense_spec
from tests.reference import tiny_network

ATTACK = AttackSpec(name="apgd-ce", eps=Fraction(2, 255), iterations=2)
IMAGES = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
DATA = DataSpec(name="noise", sha256="", first=0, count=6)
PUBLISHED = ("published", "transfer")


class Shrunk(nn.Module):
    """Answers with the logits of a smaller image; nothing but a callable."""

    def __init__(self, network: nn.Module, by: float = 0.9) -> None:
        super().__init__()
        self.network = network
        self.by = by

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(self.by * x)
        return logits


class Centred:
    """Takes the mean of the batch away, in two parts."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network

    def adapt(self, x: Tensor) -> Tensor:
        return x.detach().mean(0)

    def unroll(self, x: Tensor) -> Tensor:
        return x.mean(0)

    def predict(self, x: Tensor, adaptation: Tensor) -> Tensor:
        logits: Tensor = self.network(x - 0.1 * adaptation)
        return logits


def run(defense: Any, folder: Path, *protocols: str, model: nn.Module | None = None) -> Record:
    model = tiny_network() if model is None else model
    with torch.no_grad():
        labels = model.eval()(IMAGES).argmax(1)
    _, record = dentbench.evaluate(
        model,
        IMAGES,
        labels,
        defense=defense,
        attack=ATTACK,
        protocols=protocols,
        batch_size=4,
        results=folder,
    )
    return record


class Counter(Shrunk):
    """Declares its published protocol, and is else the same."""

    published_protocol = "BPDA"


def test_a_defense_declares_the_protocol_of_its_paper(tmp_path: Path) -> None:
    model = tiny_network()
    assert spec_of_object(Shrunk(model)).published_protocol == "published"
    declared = spec_of_object(Counter(model))
    assert declared.published_protocol == "bpda"
    record = run(Counter(model), tmp_path, model=model)
    assert record.published_protocol == "bpda"
    assert {"published", "transfer", "bpda"} <= {*record.protocol_counts}
    spec = EvalSpec(model=ModelSpec(name="m", sha256=""), data=DATA, defense=declared)
    other = replace(spec, defense=replace(declared, published_protocol="published"))
    assert spec.key() == other.key() != replace(spec, defense=DentSpec()).key()


@pytest.mark.parametrize(
    ("declared", "words"),
    [
        ("transfr", "unknown protocol 'transfr'; did you mean transfer"),
        (3, "is 3; give the name of a built-in protocol"),
        ("mine:attack", "is 'mine:attack'; give the name of a built-in protocol"),
    ],
)
def test_a_declared_protocol_that_is_none_is_refused(declared: Any, words: str) -> None:
    defense = Counter(tiny_network())
    defense.published_protocol = declared
    with pytest.raises(DentBenchError, match=re.escape(words)):
        spec_of_object(defense)


def test_a_callable_runs_published_and_transfer_and_the_rest_is_named(tmp_path: Path) -> None:
    model = tiny_network()
    defense = Shrunk(model)
    before = copy.deepcopy(defense.state_dict())
    record = run(defense, tmp_path, *PUBLISHED, "fpa", "unrolled", "few-steps", model=model)
    assert record.protocol.split() == [*PUBLISHED]
    skipped = json.loads(record.skipped or "")
    assert skipped["fpa"] == "the defense has no adapt and no predict"
    assert set(skipped) == {"fpa", "unrolled", "few-steps"}
    assert (record.defense, record.mode, record.separable) == ("Shrunk", "other", False)
    assert all(torch.equal(value, before[key]) for key, value in defense.state_dict().items())


def test_two_parts_run_what_a_callable_cannot(tmp_path: Path) -> None:
    record = run(Centred, tmp_path, "transfer", "fpa", "unrolled")
    assert {"transfer", "fpa", "unrolled"} <= set(record.protocol.split())
    assert record.skipped is None
    assert record.forwards > 0  # a class is made of the counted network


def test_online_tent_is_the_same_resumed_in_any_batch(tmp_path: Path) -> None:
    whole = run("tent-online,lr=0.1", tmp_path / "whole", *PUBLISHED)
    run("tent-online,lr=0.1", tmp_path / "torn", *PUBLISHED)
    folder = tmp_path / "torn" / "runs" / whole.key
    (folder / "published" / "00001.npz").unlink()
    again = run("tent-online,lr=0.1", tmp_path / "torn", *PUBLISHED)
    for name in ("natural_correct", "by_protocol", "forwards", "backwards"):
        assert getattr(again, name) == getattr(whole, name)


def test_a_stored_result_is_never_taken_for_another_defense(tmp_path: Path) -> None:
    network = tiny_network()
    assert spec_of_object(Shrunk(network)) == spec_of_object(Shrunk(copy.deepcopy(network)))
    assert spec_of_object(Shrunk(network)) != spec_of_object(Shrunk(network, 0.8))
    assert spec_of_object(Shrunk(network)) != spec_of_object(Shrunk(tiny_network(seed=1)))
    first, other = (lambda x, by=by: network(by * x) for by in (1, 2))
    assert spec_of_object(first) == spec_of_object(first) != spec_of_object(other)
    with socket.socket() as connection, pytest.raises(ModelError, match="socket"):
        spec_of_object(lambda x: connection)


def test_a_changed_source_is_another_spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_helper.py").write_text("BY = 1\n")
    source = "import own_helper\ndef make(network, k=0):\n    return own_helper.BY, k\n"
    (tmp_path / "own_defense.py").write_text(source)
    first = defense_spec("own_defense:make", {"k": "2"})
    assert load_factory(first)(None, **dict(first.settings)) == (1, 2)
    assert defense_spec("own_defense:make", {"k": "2"}) == first
    (tmp_path / "own_helper.py").write_text("BY = 3\n")
    second = defense_spec("own_defense:make", {"k": "2"})
    assert second != first
    assert load_factory(second)(None) == (3, 0)
    (tmp_path / "own_defense.py").write_text(source + "make.separable = True\n")
    third = defense_spec("own_defense:make")
    assert third.separable and not second.separable and not third.random
    (tmp_path / "own_defense.py").write_text(source + "make.random = True\n")
    assert defense_spec("own_defense:make").random  # type: ignore[union-attr]
    with pytest.raises(SpecError, match="was changed"):
        load_factory(first)
    assert not (tmp_path / "__pycache__").exists()


@pytest.mark.parametrize(
    ("defense", "words"),
    [
        (lambda x: x.flatten(1)[:, :3], r"not with logits of shape \(2, 10\)"),
        (lambda x: [1.0], "list"),
        (lambda x: x.flatten(1)[:, :10] * float("nan"), "NaN"),
        (lambda x: x @ x[0, 0, :3], "fails on images of shape"),
        (lambda: None, "fails on images"),
        (object(), "an object that maps images to logits"),
        ("none", "static model"),
        ("hedgee", "did you mean hedge"),
    ],
)
def test_what_is_no_defense_is_refused(defense: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises((ModelError, SpecError), match=words):
        run(defense, tmp_path)


def test_an_answer_without_a_graph_has_a_gradient_of_zero(tmp_path: Path) -> None:
    model = tiny_network()

    @torch.no_grad()
    def frozen(x: Tensor) -> Tensor:
        logits: Tensor = model(x)
        return logits

    record = run(frozen, tmp_path, *PUBLISHED, model=model)
    assert record.protocol_counts["transfer"] <= record.protocol_counts["published"]


# --- the command line -----------------------------------------------------------------------------

SOURCE = """
def shrunk(network, by=0.9):
    return lambda x: network(by * x)

def three(network):
    return lambda x: network(x)[:, :3]

def nan(network):
    return lambda x: network(x) * float("nan")

number = 3
"""


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> Any:
    """Runs ``dentbench evaluate`` and returns (exit code, standard output, errors)."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_cli_defense.py").write_text(SOURCE)

    def call(*arguments: str) -> tuple[int, str, str]:
        short = ("--attack", "apgd-ce", "--iterations", "1", "--examples", "4")
        monkeypatch.setattr(sys, "argv", ["dentbench", "evaluate", *short, *arguments])
        with pytest.raises(SystemExit) as stopped:
            app.main()
        printed = capsys.readouterr()
        return int(stopped.value.code or 0), printed.out, printed.err

    return call


def test_defenses_beside_each_other(command: Any) -> None:
    names = ("--defense", "tent,steps=2", "--defense", "own_cli_defense:shrunk,by=0.8")
    protocols = ("--protocol", "transfer", "--protocol", "fpa")
    code, out, _ = command(*names, *protocols, "--json")
    assert code == 0
    static, tent, own = json.loads(out)["records"]
    assert [item["defense"] for item in (static, tent, own)] == [
        "none",
        "tent",
        "own_cli_defense:shrunk",
    ]
    assert own["defense_settings"] == {"by": 0.8}
    assert own["defense_sha256"] and "fpa" in own["skipped"]
    code, out, _ = command(*names, *protocols)
    text = " ".join(out.split())
    assert code == 0
    assert "Skipped for own_cli_defense:shrunk: fpa (the defense has no adapt" in text
    assert "static model" in text and "tent" in text and "by 0.8" in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--defense", "no_such_module:thing"), "cannot be imported"),
        (("--defense", "own_cli_defense:missing"), "cannot be imported"),
        (("--defense", "own_cli_defense:number"), "not callable but of type int"),
        (("--defense", "own_cli_defense:three"), "not with logits"),
        (("--defense", "own_cli_defense:nan"), "NaN"),
        (("--defense", "own_cli_defense:shrunk,foo=1"), "cannot be made"),
        (("--defense", "tnet"), "did you mean tent"),
        (("--defense", "tent,steps"), "SETTING=VALUE"),
        (("--defense", "tent", "--steps", "3"), "--steps given"),
    ],
)
def test_a_wrong_defense_is_one_sentence(
    command: Any, arguments: tuple[str, ...], words: str
) -> None:
    code, _, err = command(*arguments)
    assert code == 2
    assert words in err
    assert err.startswith("dentbench: ") and "Traceback" not in err


def test_what_it_reads_when_it_is_imported_is_another_spec(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for state that differs at every import."""
    monkeypatch.chdir(tmp_path)
    source = "import os, time\nBY = {}\ndef make(network):\n    return lambda x: network(x) * BY\n"

    def imported() -> Any:
        sys.modules.pop("own_reading", None)  # as in a new process
        return defense_spec("own_reading:make")

    (tmp_path / "own_reading.py").write_text(source.format("os.environ['PANEL_BY']"))
    seen = []
    for by in ("1", "2", "1"):
        monkeypatch.setenv("PANEL_BY", by)
        seen.append(imported())
    assert seen[0] == seen[2] != seen[1]
    (tmp_path / "own_reading.py").write_text(source.format("time.perf_counter_ns()"))
    assert imported() == imported()


class FromOutside(nn.Module):
    """Reads its strength from the environment when it is made."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.by = float("".join(os.environ[part] for part in ["PANEL_" + "BY"]))


class Drawn(nn.Module):
    """Draws a direction when it is made, and notes the time."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.directions = [torch.randn(3), np.random.rand(3), random.random()]
        self.when = time.perf_counter_ns()


def test_what_it_reads_when_it_is_made_is_another_spec(monkeypatch: pytest.MonkeyPatch) -> None:
    spec, network, seen = spec_of_object(FromOutside), tiny_network(), []
    for by in ("0.5", "0.7", "0.5"):
        monkeypatch.setenv("PANEL_BY", by)
        seen.append(identified(spec, network, FromOutside))
    assert seen[0] == seen[2] != seen[1]
    monkeypatch.delenv("PANEL_BY")
    assert identified(spec, network, FromOutside) == spec  # it cannot be made, which is told later


def test_a_defense_is_made_of_the_same_random_numbers() -> None:
    torch.manual_seed(1)
    spec, before = spec_of_object(Drawn), torch.get_rng_state()
    first, other = (
        build(spec, tiny_network(), IMAGES, {spec: Drawn}, tried=False)._inner for _ in range(2)
    )
    torch.testing.assert_close(first.directions, other.directions, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), before)
    assert identified(spec, tiny_network(), Drawn) == spec  # the time says nothing of it


class Darkens(Shrunk):
    """Changes the images that it is shown."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            x.mul_(self.by)
        logits: Tensor = self.network(x)
        return logits


class Switches(Shrunk):
    """Switches gradients off for everybody."""

    def forward(self, x: Tensor) -> Tensor:
        torch.set_grad_enabled(False)
        return super().forward(x)


class TentByHand(Shrunk):
    """Takes a step on the scales and shifts for every batch, and takes it back."""

    def forward(self, x: Tensor) -> Tensor:
        layers = [module for module in self.network.modules() if isinstance(module, nn.BatchNorm2d)]
        parameters = [part for layer in layers for part in layer.parameters()]
        before = [part.detach().clone() for part in parameters]
        with torch.enable_grad():
            chances = self.network(x.detach()).softmax(1)
            loss = -(chances * chances.log()).sum(1).mean()
            steps = torch.autograd.grad(loss, parameters)
        with torch.no_grad():
            for part, step in zip(parameters, steps, strict=True):
                part -= self.by * step
            logits: Tensor = self.network(x)
            for part, former in zip(parameters, before, strict=True):
                part.copy_(former)
        return logits


def test_a_defense_may_follow_gradients_to_the_network_s_parameters() -> None:
    network, spec = tiny_network(), spec_of_object(TentByHand)
    ours = build(spec, tiny_network().requires_grad_(False), IMAGES, {spec: TentByHand})(IMAGES)
    torch.testing.assert_close(ours, TentByHand(network)(IMAGES))
    assert not torch.allclose(ours, network(IMAGES))


def test_images_are_kept_from_a_defense_that_changes_them() -> None:
    network, shown = tiny_network(), IMAGES.clone()
    darkens, shrunk = (
        build(spec_of_object(kind), network, IMAGES, {spec_of_object(kind): kind})
        for kind in (Darkens, Shrunk)
    )
    leaf = shown.requires_grad_()
    torch.testing.assert_close(darkens(leaf), shrunk(leaf))
    assert torch.equal(leaf, IMAGES)


def test_gradients_switched_off_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="Switches switches gradients off, or on"):
        run(Switches, tmp_path)
    assert torch.is_grad_enabled()


class Drops(Shrunk):
    """A defense with a layer that answers otherwise in training mode, in which a module begins."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network)
        self.drop = nn.Dropout(0.5)


class DropsNothing(Drops):
    def __init__(self, network: nn.Module) -> None:
        super().__init__(network)
        self.eval()


@pytest.mark.parametrize(("defense", "told"), [(Drops, True), (DropsNothing, False)])
def test_a_defense_in_training_mode_is_told(
    defense: Any, told: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run(defense, tmp_path, "transfer")
    words = f"defense {defense.__name__} is run with its layer drop (Dropout) in training mode"
    assert sum(words in text for text in caplog.messages) == told
