"""One results folder, and a network that was changed: stored numbers are never those of another."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import dentbench
from dentbench.attacks.catalogue import PROTOCOLS
from dentbench.attacks.protocol_cards import ProtocolCard
from dentbench.defenses.catalogue import DEFENSES
from dentbench.spec.attack_plans import ATTACKS
from dentbench.spec.evaluation import AttackSpec, DataSpec, EvalSpec, ModelSpec
from dentbench.zoo.datasets import load_dataset
from dentbench.zoo.models import load_model
from tests.helpers import Run

SHORT = ["--attack", "apgd-ce", "--iterations", "1", "--examples", "12", "--batch-size", "12"]
STATIC = ["--dataset", "digits", "--mode", "static"]

WRAPPER = """
from torch import nn
from dentbench.zoo.models import load_model

class Wrapped(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner
        self.levels = 255
        self.shift = 0.0

    def forward(self, x):
        return self.inner((x * self.levels).round() / self.levels + self.shift)

def make():
    return Wrapped(load_model("digits-robust").network).eval()

def architecture():
    return load_model("digits-robust").network

def inverted():
    network = load_model("digits-robust").network
    network.register_forward_pre_hook(lambda module, args: (1 - args[0],))
    return network
"""


@pytest.fixture
def command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Iterator[Run]:
    """The command, run in a folder with a wrapper of a user."""
    (tmp_path / "wrapped.py").write_text(WRAPPER)
    yield Run(monkeypatch, capsys, tmp_path)


EDITS = {
    "forward": ("self.inner((x", "self.inner((1 - x"),
    "setting": ("shift = 0.0", "shift = 2.0"),
}


@pytest.mark.parametrize("edit", EDITS)
def test_an_edited_wrapper_is_evaluated_anew(command: Run, edit: str) -> None:
    args = ["evaluate", *SHORT, *STATIC, "--model", "wrapped:make"]
    assert command(*args)[0] == 0
    assert command(*args)[0] == 0
    (first,) = command.rows()  # unchanged code goes on from the stored outcomes
    path = Path("wrapped.py")
    path.write_text(path.read_text().replace(*EDITS[edit]))
    assert command(*args)[0] == 0
    *_, second = command.rows()
    data = load_dataset("digits")
    x, y = data.images[:12], data.labels[:12]
    shown = 1 - x if edit == "forward" else x + 2
    right = int((load_model("digits-robust").network(shown).argmax(1) == y).sum())
    assert int(second["natural_correct"]) == right != int(first["natural_correct"])
    assert first["key"] != second["key"] and first["model_sha256"] == second["model_sha256"]
    assert first["model_code"] != second["model_code"]


def test_an_edit_that_leaves_chance_is_refused_and_the_old_record_stays_alone(
    command: Run,
) -> None:
    args = ["evaluate", *STATIC, "--model", "wrapped:make", "--examples", "64", "--attack", "none"]
    assert command(*args)[0] == 0
    before = command.rows()
    path = Path("wrapped.py")
    forward = "self.inner((x * self.levels).round() / self.levels + self.shift)"
    path.write_text(path.read_text().replace(forward, "self.inner(1 - x)"))
    code, out, err = command(*args)
    assert code == 2 and "no better than chance" in err and "colors inverted" in err
    assert not out and command.rows() == before
    assert command(*args, "--force")[0] == 0
    *kept, forced = command.rows()
    data = load_dataset("digits")
    with torch.no_grad():
        answers = load_model("digits-robust").network(1 - data.images[0:64]).argmax(1)
    assert kept == before and forced["key"] != before[0]["key"]
    assert int(forced["natural_correct"]) == int((answers == data.labels[:64]).sum())


def test_one_checkpoint_under_two_architectures(command: Run) -> None:
    torch.save(load_model("digits-robust").network.state_dict(), "mine.pt")
    for arch in ("wrapped:architecture", "wrapped:inverted", "digits-robust"):
        args = ["--model", "mine.pt", "--arch", arch]
        assert command("evaluate", *SHORT, *STATIC, *args)[0] == 0
    rows = command.rows()
    assert len({row["key"] for row in rows}) == 3
    counts = [int(row["natural_correct"]) for row in rows]
    assert counts[0] == counts[2] > counts[1]


class Shown(nn.Module):
    """A network that is shown something else than the images."""

    def __init__(self, inverse: bool) -> None:
        super().__init__()
        self.inner = load_model("digits-robust").network
        self.inverse = inverse

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.inner(1 - x if self.inverse else x)
        return logits


def test_an_edited_network_from_python(tmp_path: Path) -> None:
    data = load_dataset("digits")
    x, y = data.images[:12], data.labels[:12]
    attack = AttackSpec(name="apgd-ce", eps=Fraction(1, 10), iterations=1)
    counts = []
    for inverse in (False, True):
        network = Shown(inverse).eval()
        static, _ = dentbench.evaluate(
            network, x, y, attack=attack, defense="norm", results=tmp_path, progress="none"
        )
        counts.append(static.natural_correct)
        assert static.natural_correct == int((network(x).argmax(1) == y).sum())
    assert counts[0] > counts[1]


SPEC = EvalSpec(
    model=ModelSpec(name="net", sha256="ab", code="cd"),
    data=DataSpec(name="d", sha256="0", first=0, count=1),
    attack=AttackSpec(name="quick"),
)


def test_what_an_attack_is_called_is_not_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    before, plan = SPEC.key(), ATTACKS["quick"]
    for changed in ({"targets": 5}, {"iterations": 20}, {"parts": ("apgd-ce",)}):
        monkeypatch.setitem(ATTACKS._values, "quick", replace(plan, **changed))
        assert replace(SPEC).key() != before  # a spec of its own: each knows its key once
    monkeypatch.setitem(ATTACKS._values, "quick", replace(plan, title="in other words"))
    assert replace(SPEC).key() == before
    assert replace(SPEC, model=replace(SPEC.model, code="ce")).key() != before


def raised(name: str) -> ProtocolCard:
    return replace(PROTOCOLS[name], version=PROTOCOLS[name].version + 1)


def test_outcomes_of_other_code_are_computed_anew(
    command: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    dent = ["--model", "digits-robust", "--mode", "instance", "--steps", "1"]
    args = ["evaluate", *SHORT, *dent, "--protocol", "published", "--protocol", "transfer"]
    assert command(*args)[0] == 0
    folders = {row["mode"]: Path("results/runs") / row["key"] for row in command.rows()}
    files = {path: path.read_bytes() for run in folders.values() for path in run.rglob("*.npz")}
    monkeypatch.setitem(PROTOCOLS._values, "published", raised("published"))
    assert command(*args)[0] == 0
    static, defended = command.rows()[-2:]
    numbers = json.loads(static["stage_versions"]), json.loads(defended["stage_versions"])
    assert all(actual["published"] == PROTOCOLS["published"].version for actual in numbers)
    assert numbers[1]["dent"] == DEFENSES["dent"].version
    renewed = {path for path, content in files.items() if path.read_bytes() != content}
    stages = {(path.parent.parent, path.parent.name) for path in renewed}
    # The transferred points are those of the static model's published stage.
    assert stages == {
        (folders["static"], "published"),
        (folders["instance"], "published"),
        (folders["instance"], "transfer"),
    }
    for path in renewed:
        assert path.with_suffix(".superseded").read_bytes() == files[path]
