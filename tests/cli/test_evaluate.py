"""The command line from end to end on the embedded digits: records, resumption, clear errors."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from itertools import chain
from pathlib import Path

import numpy as np
import pytest

from dentbench.cli.words import spread
from tests.helpers import Forked, Run

OPTIONS = {"--attack": "apgd-ce", "--iterations": "3", "--examples": "6", "--batch-size": "4"}
SHORT = [*chain.from_iterable(OPTIONS.items())]


def test_static_and_dent_side_by_side(dentbench: Run) -> None:
    code, out, _ = dentbench("evaluate", *SHORT, "--steps", "2", "--lr", "0.02")
    assert code == 0
    for words in ("static model", "dent, published", "dent, transfer", "dent, worst case"):
        assert words in out
    static, dent = dentbench.rows()
    assert (static["mode"], dent["mode"]) == ("static", "instance")
    assert (dent["steps"], dent["lr"], dent["protocol"]) == ("2", "0.02", "published transfer")
    assert static["n"] == dent["n"] == "6"
    assert static["attack_label"] == "APGD-CE with iterations 3 (not AutoAttack)"
    assert len(list((dentbench.results / "runs" / dent["key"] / "published").glob("*.npz"))) == 2


def test_the_protocols_settings_are_adjustable_stored_and_shown(dentbench: Run) -> None:
    command = ("evaluate", *SHORT, "--steps", "1", "--iterations", "2", "--protocol", "fpa")
    own = ("--protocol-set", "rounds=2", "--protocol-set", "iterations=3", "--no-cascade")
    for arguments in (command, (*command, *own)):
        code, out, err = dentbench(*arguments)
        assert code == 0, err
    assert "no cascade, iterations 3, rounds 2" in " ".join(out.split())
    static, plain, changed = dentbench.rows()
    assert static["protocol_settings"] == "" and plain["key"] != changed["key"]
    actual = [json.loads(row["protocol_settings"]) for row in (plain, changed)]
    assert actual[0]["cascade"] and not actual[1]["cascade"]
    assert (actual[0]["rounds"], actual[1]["rounds"], actual[1]["iterations"]) == (3, 2, 3)
    code, out, _ = dentbench("report")
    assert code == 0 and "protocols: no cascade, iterations 3, rounds 2" in out


def test_a_static_model_alone_is_told_in_a_quiet_line_too(dentbench: Run) -> None:
    code, out, err = dentbench("evaluate", *SHORT, "--mode", "static", "--quiet")
    assert code == 0, err
    (row,) = dentbench.rows()
    right = f"({row['robust_correct']}/{row['n']}) right under attack; no defense, so no verdict\n"
    assert out.startswith(f"{row['model']}, Linf ") and ", static model. " in out
    assert out.endswith(right) and out.count("\n") == 1


def test_a_limit_ends_cleanly_and_the_command_without_it_goes_on(dentbench: Run) -> None:
    sizes = ("--examples", "12", "--batch-size", "2")
    command = ("evaluate", *SHORT, *sizes, "--steps", "1", "--iterations", "2", "--quiet")
    code, out, err = dentbench(*command, "--pass-limit", "1")
    assert code == 0, err
    assert "stopped by the pass limit before published, 2 of 12 images judged" in out
    assert "run --attack quick at least" in out  # which going on would not mend
    assert [row["n"] for row in dentbench.rows()] == ["2", "2"]
    code, out, err = dentbench(*command, "--until", "decided", "--time-limit", "1h")
    assert code == 0, err
    static, dent = dentbench.rows()[2:]
    assert json.loads(dent["stopped"])["rule"] == "decided" and static["n"] == dent["n"]
    for option, value in (("--time-limit", "2"), ("--pass-limit", "few"), ("--until", "soon")):
        code, _, err = dentbench(*command, option, value)
        assert code == 2 and repr(value) in err


def test_again_finds_nothing_left_to_do(dentbench: Run) -> None:
    command = ("evaluate", *SHORT, "--steps", "1")
    dentbench(*command)
    before = (dentbench.results / "results.csv").read_bytes()
    files = {p: p.stat().st_mtime_ns for p in dentbench.results.rglob("*.npz")}
    code, _, err = dentbench(*command)
    assert (code, err) == (0, "")
    assert (dentbench.results / "results.csv").read_bytes() == before
    assert {p: p.stat().st_mtime_ns for p in dentbench.results.rglob("*.npz")} == files


def test_json_and_config_file(dentbench: Run, tmp_path: Path) -> None:
    config = tmp_path / "study.toml"
    config.write_text(
        'attack = "apgd-ce"\niterations = 2\nexamples = 6\nbatch-size = 6\nsteps = 1\nseed = 9\n'
    )
    code, out, _ = dentbench("evaluate", "--config", str(config), "--seed", "4", "--json")
    assert code == 0
    actual = json.loads(out)
    assert [record["seed"] for record in actual["records"]] == [4, 4]
    assert actual["records"][1]["steps"] == 1
    assert actual["verdicts"][0]["kind"] in ("holds", "no gain", "weaker than static", "undecided")


def test_static_alone_and_save_adversarial(dentbench: Run) -> None:
    assert dentbench("evaluate", *SHORT, "--mode", "static", "--save-adversarial")[0] == 0
    (row,) = dentbench.rows()
    with np.load(dentbench.results / "runs" / row["key"] / "published" / "00000.npz") as saved:
        assert saved["points"].shape == (4, 1, 8, 8)


def test_ablate_makes_a_grid(dentbench: Run) -> None:
    grid = ("--steps", "0", "1", "--loss", "shot", "entropy", "--mode", "instance")
    code, _, _ = dentbench("ablate", "--model", "digits-robust", *SHORT, *grid)
    assert code == 0
    combinations = {(row["mode"], row["steps"], row["loss"]) for row in dentbench.rows()}
    assert {("instance", "1", "shot"), ("instance", "1", "entropy")} < combinations
    assert ("static", "", "") in combinations


def test_dry_run_writes_nothing(dentbench: Run) -> None:
    code, out, _ = dentbench("evaluate", *SHORT, "--dry-run", "--steps", "2")
    assert code == 0
    assert "published" in out
    assert "memory" in out and "iB" in out
    assert not dentbench.results.exists()


def _bad_npz(folder: Path, name: str, **arrays: np.ndarray) -> str:
    path = folder / name
    np.savez(path, **arrays)
    return str(path)


def test_every_mistake_is_one_sentence(dentbench: Run, tmp_path: Path) -> None:
    images = np.zeros((12, 8, 8, 1), np.float32)
    labels = np.arange(12) % 4
    (tmp_path / "corrupt.npz").write_bytes(b"PK\x03\x04 and no more")
    (tmp_path / "plain.py").write_text(
        "from torch import nn\n\n\ndef make():\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
    )
    mistakes = {
        ("--model", "Carmon2091"): "did you mean Carmon2019",
        ("--norm", "L7"): "norm is 'L7'; allowed: Linf, L2, L1",
        ("--eps", "8 / 25x"): "eps is '8 / 25x'",
        ("--steps", "-1"): "steps is -1",
        ("--lr", "0"): "lr is 0.0",
        ("--attack", "fast"): "unknown attack 'fast'",
        ("--protocol", "publish"): "did you mean published",
        ("--protocol-set", "round=2", "--protocol", "all"): "did you mean rounds",
        ("--protocol-set", "rounds=0", "--protocol", "all"): "rounds is 0",
        ("--protocol-set", "rounds=2"): "no protocol that is run (published, transfer) heeds it",
        ("--no-cascade",): "protocol setting cascade is given",
        ("--mode", "both"): "mode is 'both'",
        ("--mode", "static", "--lr", "1"): "lr given for mode static",
        ("--batching", "none"): "batching is 'none'",
        ("--device", "tpu"): "device is 'tpu'",
        ("--examples", "0"): "examples is 0",
        ("--workers", "0"): "workers is '0'; allowed: auto, or a whole number from 1",
        ("--workers", "many"): "workers is 'many'",
        ("--examples", "501"): "has 500 images",
        ("--first", "-3"): "first is -3",
        ("--batch-size", "0"): "batch size is 0",
        ("--dataset", "digitz"): "did you mean digits",
        ("--data", "gone.npz"): "gone.npz",
        ("--data", "corrupt.npz"): "corrupt.npz",
        ("--data", _bad_npz(tmp_path, "a.npz", images=images, labels=labels - 1)): "label",
        ("--data", _bad_npz(tmp_path, "b.npz", images=images, labels=labels + 9)): "10 classes",
        ("--data", _bad_npz(tmp_path, "c.npz", images=images + 7, labels=labels)): "[0, 1]",
        ("--model", "plain:make", "--dataset", "digits", "--eps", "0.1"): "no BatchNorm2d",
        ("--config", "gone.toml"): "gone.toml is not there",
        ("--results", "/proc/nowhere"): "cannot be written",
    }
    for arguments, words in mistakes.items():
        data = () if "--data" not in arguments else ("--data-name", "mine")
        others = {name: value for name, value in OPTIONS.items() if name not in arguments}
        code, out, err = dentbench(
            "evaluate", *chain.from_iterable(others.items()), *arguments, *data
        )
        assert code == 2, (arguments, out, err)
        assert words in err, (arguments, err)
        assert err.startswith("dentbench: ") and err.count("\n") == 1, err
        assert "Traceback" not in err
    assert not (dentbench.results / "results.csv").exists()


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_run_is_resumable(sent: signal.Signals, code: int, tmp_path: Path) -> None:
    command = ["evaluate", "--attack", "apgd-ce", "--workers", "1"]
    command += ["--examples", "500", "--batch-size", "5", "--steps", "1"]
    process = Forked(tmp_path, *command)
    deadline = time.monotonic() + 300
    while not list(tmp_path.glob("results/runs/*/published/*.npz")):
        assert process.running() and time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(process.pid, sent)
    actual, _, err = process.ended()
    assert actual == code
    assert "The same command goes on from there: dentbench evaluate" in err
    assert "Traceback" not in err
    assert not list(tmp_path.glob("results/runs/**/*.tmp"))


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["evaluate", "--help"]])
def test_help_and_version_load_no_torch(arguments: list[str]) -> None:
    code = (
        "import sys; sys.argv[1:] = " + repr(arguments) + "\n"
        "from dentbench.cli.app import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'pandas', 'torchvision', 'robustbench', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_several_values_after_one_option() -> None:
    given = ["--steps", "0", "1", "--lr", "-1", "--json", "--loss", "shot"]
    assert spread(given, {"--steps"}) == [
        *("--steps", "0", "--steps", "1", "--lr", "-1", "--json", "--loss", "shot")
    ]
