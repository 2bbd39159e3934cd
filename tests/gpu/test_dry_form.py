"""The script for GPUs, in its dry form on the CPU: every part runs, and writes its figures."""

from __future__ import annotations

import json
import tarfile
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.gpu import __main__ as script
from tests.gpu import evaluations
from tests.gpu.parts import Part, Running, Setting

ENDS = {
    "adaptation": ["WRN-10-1, batch 2, 2 steps, fp32", "WRN-10-1, batch 2, 2 steps, bf16"],
    "evaluations": list(evaluations.RUNS),
    "tests": [*script.GROUPS],
    "training": ["cifar10-resnet20-nominal"],
}


def test_every_part_runs_and_writes_its_figures(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """As ``python -m tests.gpu``, but in this process, where what its parts need is loaded."""
    ended = script.main(["--dry", "--minutes", "9", "--out", str(tmp_path)])
    assert ended == 0, capfd.readouterr()
    for part, names in ENDS.items():
        figures = json.loads((tmp_path / f"{part}-cpu.json").read_text())
        assert figures["machine"]["versions"]["torch"]
        assert {*names} <= {*figures}, part
        ended = [how for name, how in figures.items() if name.endswith(", ended")]
        assert all(how.startswith("done") for how in ended), figures
    adaptation = json.loads((tmp_path / "adaptation-cpu.json").read_text())
    first = adaptation[ENDS["adaptation"][0]]
    assert first["furthest from plain"]["released"] < 1e-3
    floor = 3 * first["seconds"]["static, attack gradient"]
    assert first["plain over floor"] == pytest.approx(
        first["seconds"]["plain, attack gradient"] / floor, rel=0.9
    )
    evaluation = json.loads((tmp_path / "evaluations-cpu.json").read_text())
    assert evaluation[ENDS["evaluations"][0]]["by stage"]["dent published"]["images"] == 2
    assert (tmp_path / "cifar10-resnet20-nominal.safetensors").exists()
    with tarfile.open(tmp_path / "results.tar.gz") as packed:
        assert "results/results.csv" in packed.getnames()


def sleep(setting: Setting, figure: str) -> None:
    """Stand in for a part that does not end."""
    setting.figures("sleeper").add("figure", figure)
    time.sleep(60)


def lose(setting: Setting) -> None:
    """Stand in for a part that loses its GPU, and goes on in a new process."""
    figures = setting.figures("loser")
    figures.add("again" if "first" in figures else "first", True)
    if "again" not in figures:
        raise SystemExit(75)
    raise ValueError("it is this part's own")


def part(work: str, **more: object) -> Part:
    return replace(Part(name=work, file=work, seconds=1, work=f"{__name__}:{work}"), **more)


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    return Setting(out=tmp_path, scratch=tmp_path, device="cpu", dry=True)


def test_a_part_that_overruns_keeps_what_it_wrote(setting: Setting, tmp_path: Path) -> None:
    own = replace(setting, until=time.monotonic() + 3)
    started = time.monotonic()
    ended = Running(replace(part("sleep"), file="sleeper", given=("kept",)), own).finish()
    assert ended.startswith("cut off")
    assert time.monotonic() - started < 45
    assert json.loads((tmp_path / "sleeper-cpu.json").read_text())["figure"] == "kept"


def test_a_part_that_fails_says_so_after_it_was_run_again(setting: Setting, tmp_path: Path) -> None:
    ended = Running(replace(part("lose"), file="loser"), setting).finish()
    assert ended.startswith("failed with exit code 1")
    figures = json.loads((tmp_path / "loser-cpu.json").read_text())
    assert figures["first"] and figures["again"]
    assert figures["lose, error"] == "ValueError: it is this part's own"


def test_what_cannot_be_run_is_skipped_by_name(setting: Setting, tmp_path: Path) -> None:
    lacking = part("lose", needs=("no_such_package",))
    without = part("sleep", needed=("train_data",))
    ended = script.run(setting, [lacking, without], time.monotonic() + 60)
    assert ended["lose"] == "skipped: no_such_package is not installed"
    assert ended["sleep"] == "skipped: --train-data is not given"
    late = script.run(setting, [part("sleep")], time.monotonic())
    assert late["sleep"] == "skipped: no time was left"
    assert json.loads((tmp_path / "sleep-cpu.json").read_text())["sleep, ended"] == late["sleep"]
