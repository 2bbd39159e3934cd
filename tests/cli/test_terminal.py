"""The command line as a person and as a scheduler meet it: help, progress, colors, completion."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import typer
from rich.console import Console
from rich.progress import Progress
from typer.testing import CliRunner

from dentbench.attacks.attack_events import AttackBegan
from dentbench.attacks.catalogue import PROTOCOLS
from dentbench.cli import app
from dentbench.cli.showing import _about
from dentbench.defenses.catalogue import DEFENSES
from dentbench.evaluation.progress import events as progress
from dentbench.evaluation.progress.bars import Bars, columns
from dentbench.evaluation.progress.display import shown_progress
from dentbench.evaluation.progress.display_names import Display
from dentbench.evaluation.progress.events import BatchDone, PassesDone, Stage, StageBegan, Whole
from dentbench.records import results_csv
from dentbench.spec.attack_plans import ATTACKS
from dentbench.spec.dent import LOSSES, OPTIMIZERS
from dentbench.study.parsing import PROTOCOL_SETTINGS, SET_NAMES
from tests.helpers import ROOT, Forked, record
from tests.pictures.terminal import typed

COMMANDS = sorted(typer.main.get_command(app.app).commands)  # type: ignore[attr-defined]
EVALUATE = ("evaluate", "--attack", "apgd-ce", "--iterations", "2", "--examples", "4")


def dentbench(
    *arguments: str, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dentbench", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})},
        check=True,
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_every_help_has_examples_and_fits_80_columns(command: str) -> None:
    done = CliRunner().invoke(app.app, [command, "--help"], terminal_width=80)
    text = done.stdout
    assert done.exit_code == 0 and re.search(rf"^ +dentbench {command}", text, re.MULTILINE)
    assert max(map(len, text.splitlines())) <= 80
    assert not re.search(r"<\w+(\[\w+\])?>", text), "a Python type is no word for a user"


def test_the_help_documents_exit_codes_and_completion() -> None:
    text = " ".join(CliRunner().invoke(app.app, ["--help"]).stdout.split())
    for words in ("0 done", "2 something you can fix", "3 no gain", "130 stopped", "--version"):
        assert words in text
    assert "--install-completion" in text
    assert CliRunner().invoke(app.app, ["--version"]).stdout.startswith("dentbench 0.")


def test_the_help_lists_every_name_that_an_option_takes() -> None:
    text = "".join(CliRunner().invoke(app.app, ["evaluate", "--help-all"]).stdout.split())
    for registry in (ATTACKS, PROTOCOLS, DEFENSES, LOSSES, OPTIMIZERS, SET_NAMES):
        assert ",".join(registry) in text
    assert [name for name in PROTOCOL_SETTINGS if name not in text] == []


# --- progress -------------------------------------------------------------------------------------


def test_evaluate_in_a_pipe_has_no_codes_and_its_json_lines_are_whole(tmp_path: Path) -> None:
    options = ("--results", str(tmp_path / "the results"))
    command = (*EVALUATE, *options, "--progress", "json")
    code, out, err = Forked(tmp_path, *command, environment={"TERM": "xterm"}).ended()
    assert code == 0 and "\x1b" not in out + err
    lines = out.splitlines()
    whole = ("Next: ", "All about one: ", "Records: ")
    (last,) = (line for line in lines if line.startswith("dent, worst case"))
    assert "no test)" in last  # a pipe has room, and no cell is folded
    table = [line for line in lines if line.startswith(("static, ", "dent, ", "─", "  "))]
    others = (line for line in lines if line not in table and not line.startswith(whole))
    assert max(map(len, others)) <= 80 < max(map(len, table)) <= 160
    commands = [line for line in lines if line.startswith((whole[0], whole[1]))]
    actual = [shlex.split(line.partition(": ")[2]) for line in commands]  # whole, to be copied
    assert [words[:2] for words in actual] == [["dentbench", "evaluate"], ["dentbench", "show"]]
    assert all(tuple(words[-2:]) == options for words in actual)
    events = [json.loads(line) for line in err.splitlines()]
    (warning,) = [item["text"] for item in events if item["event"] == "warning"]
    assert warning.startswith("1 batch is too few for a verdict on images that share them")
    assert {item["event"] for item in events} == {
        "plan",
        "warning",
        "begin",
        "passes",
        "attack",
        "batch",
        "round",
    }
    batches = [item for item in events if item["event"] == "batch"]
    assert [batch["stage"].split()[1:] for batch in batches] == [
        ["static", "natural"],
        ["instance", "natural"],
        ["static", "published"],
        ["instance", "transfer"],
        ["instance", "published"],
    ]
    assert all(item["batch"] == item["batches"] == 1 and item["images"] == 4 for item in batches)
    (first, *_) = [item for item in events if item["event"] == "attack"]
    assert (first["attack"], first["left"], first["images"]) == ("apgd-ce", 4, 4)
    rounds = [item for item in events if item["event"] == "round"]
    assert [(item["images"], item["of"], item["static"], item["right"]) for item in rounds] == [
        (4,) * 4
    ]

    code, out, err = Forked(tmp_path, *EVALUATE, *options, "--quiet").ended()
    assert (code, len(out.splitlines())) == (0, 1)
    assert err in ("", f"{warning}\n")  # the process that was forked may have taken it
    assert out.startswith("digits-robust, Linf 0.15, instance-wise dent, 6 steps, lr 0.05. Undec")


def test_verdicts_on_two_settings_of_a_defense_are_told_apart() -> None:
    """The sentence names the defense alone, which is the same."""
    other = {"mode": "other", "defense": "bit-depth", "steps": 0}
    two = [record(bits, **other, defense_settings=f'{{"bits": {bits}}}') for bits in (2, 3)]
    assert [_about(defended) for defended in two] == [
        f"digits-robust, Linf 0.15, bit-depth, bits {bits}" for bits in (2, 3)
    ]


def test_bars_fit_80_columns_and_say_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(10_000))
    monkeypatch.setattr(progress.time, "perf_counter", lambda: next(clock))
    text = io.StringIO()
    console = Console(file=text, width=80, force_terminal=True, no_color=True)
    with Progress(*columns(), console=console, auto_refresh=False) as bars:
        shown = Bars(bars, Whole())
        stage = Stage(
            model="cifar10-resnet20-robust", defense="anti-adversary", protocol="batch-mates"
        )
        shown(StageBegan(stage=stage, passes=10_000_000))
        shown(AttackBegan(attack="run 10 of 14", left=128, images=128))
        shown(PassesDone(passes=3_000_000))
        shown(BatchDone(done=10, batches=79, right=640, images=1280))
        shown(AttackBegan(attack="run 11 of 14", left=64, images=128))
        bars.refresh()
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text.getvalue())
    lines = [line.strip() for line in re.split(r"\x1b\[[0-9;?]*[A-Za-z]|[\r\n]", plain)]
    assert max(map(len, lines)) <= 80 and "cifar10-resnet20-robust" in lines
    last = next(line for line in reversed(lines) if "anti" in line)
    for words in ("anti-adversary batch-mates", "10/79 50.0%", "run 11 of 14 64/128", "k/s"):
        assert words in last


EVENTS = (
    StageBegan(stage=Stage(model="toy", defense="static", protocol="published"), passes=100),
    AttackBegan(attack="apgd-ce", left=3, images=4),
    PassesDone(passes=50),
    BatchDone(done=1, batches=2, right=3, images=4),
    BatchDone(done=2, batches=2, right=6, images=8),
)


def test_lines_and_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    for display in (Display.AUTO, Display.NONE):
        with shown_progress(display) as shown:
            for event in EVENTS if shown else ():
                shown(event)
    first, second = capsys.readouterr().err.splitlines()
    assert re.fullmatch(
        r"toy static published: batch 1 of 2, 75.0% of 4 right, [\d.]+k? passes/s, \d+ s left",
        first,
    )
    assert second == "toy static published: batch 2 of 2, 75.0% of 8 right"


# --- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        ("evalute", "evaluate"),
        ("evaluate --modle x", "--model"),
        ("evaluate --model Carmon2091", "Carmon2019Unlabeled"),
        ("evaluate --dataset cifar01", "cifar10"),
        ("evaluate --dataset cifar10-c --corruption frog", "fog"),
        ("evaluate --attack aggd-ce", "apgd-ce"),
        ("evaluate --norm L-inf", "Linf"),
        ("evaluate --protocol tranfer", "transfer"),
        ("evaluate --protocol-set round=5", "rounds"),
        ("evaluate --defense tnet", "tent"),
        ("evaluate --mode instanc", "instance"),
        ("evaluate --delta afine", "affine"),
        ("evaluate --loss entrpy", "entropy"),
        ("evaluate --statistics runing", "running"),
        ("evaluate --optimizer adamd", "adamod"),
        ("evaluate --blur dynmic", "dynamic"),
        ("evaluate --blur static --padding reflct", "reflect"),
        ("evaluate --set bta1=0.9", "beta1"),
        ("evaluate --batching declard", "declared"),
        ("evaluate --precision fp23", "fp32"),
        ("evaluate --executor rya", "ray"),
        ("evaluate --progress bar", "bars"),
        ("evaluate --config study.toml", "model"),
        ("report --table protocol", "protocols"),
        ("report --format latx", "latex"),
        ("report --where mod=batch", "mode"),
        ("report --model digts", "digits-robust"),
        ("fetch Carmon2091", "Carmon2019Unlabeled"),
        ("ablate --los shot", "--loss"),
    ],
)
def test_every_name_that_is_mistaken_has_one_that_is_meant(
    words: str,
    meant: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "study.toml").write_text('modle = "digits-robust"\n')
    results_csv.append(tmp_path / "results", replace(record(1), model="digits-robust"))
    monkeypatch.setattr(sys, "argv", ["dentbench", *words.split()])
    with pytest.raises(SystemExit) as ended:
        app.main()
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert re.search(rf"([Dd]id you mean|Possible options:).*{re.escape(meant)}", said), said


# --- colors ---------------------------------------------------------------------------------------


def test_a_terminal_has_colors_unless_no_color_is_set(tmp_path: Path) -> None:
    results_csv.append(tmp_path, record(1))
    results_csv.append(tmp_path, replace(record(2), model="Carmon2019Unlabeled"))
    arguments = ("report", "--results", str(tmp_path))
    color = re.compile(r"\x1b\[[0-9;]*3[0-7]m")
    assert color.search(typed(arguments, tmp_path))
    assert not color.search(typed(arguments, tmp_path, {"NO_COLOR": "1"}))


# --- completion -----------------------------------------------------------------------------------


@pytest.mark.skipif(not shutil.which("bash"), reason="bash is not installed")
def test_completion_is_installed_by_one_command(tmp_path: Path) -> None:
    install = shlex.join([sys.executable, "-m", "dentbench", "--install-completion"])
    done = subprocess.run(  # which shell it is, it finds among the processes above it
        ["bash", "-c", f"{install}; source ~/.bashrc; complete -p dentbench"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)},
        check=True,
    )
    assert "_dentbench_completion" in done.stdout


@pytest.mark.parametrize(
    ("words", "actual"),
    [
        ("dentbench ev", ["evaluate"]),
        ("dentbench report --form", ["--format"]),
        ("dentbench evaluate --model Carm", ["Carmon2019Unlabeled"]),
        ("dentbench evaluate --protocol gm", ["gmsa-avg", "gmsa-min"]),
        ("dentbench evaluate --attack apgd-t", ["apgd-t"]),
        ("dentbench report --table pro", ["protocols"]),
        ("dentbench evaluate --progress j", ["json"]),
    ],
)
def test_completion(words: str, actual: list[str]) -> None:
    asked = {"COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1)}
    done = dentbench(environment={"_DENTBENCH_COMPLETE": "complete_bash", **asked})
    assert done.stdout.split() == actual
