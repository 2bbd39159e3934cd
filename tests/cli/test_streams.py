"""Files that are no regular files: ``--out`` writes into them, ``--config`` reads them once."""

from __future__ import annotations

import io
import json
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from dentbench.cli import config
from dentbench.records import results_csv
from tests.helpers import Run, record

CSV = ("--results", "results", "--format", "csv")


@pytest.fixture
def made(tmp_path: Path) -> Path:
    results_csv.append(tmp_path / "results", record(1))
    return tmp_path


def test_a_fifo_is_written_into_and_stays(dentbench: Run, made: Path) -> None:
    expected = dentbench("report", *CSV)[1]
    pipe = made / "pipe"
    os.mkfifo(pipe)
    received: list[str] = []
    reader = threading.Thread(target=lambda: received.append(pipe.read_text()))
    reader.start()
    code = dentbench("report", *CSV, "--out", str(pipe))[0]
    reader.join(timeout=300)
    assert (code, received) == (0, [expected])
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_device_is_written_into_and_stays(dentbench: Run, made: Path) -> None:
    device = made / "null"
    try:
        os.mknod(device, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        device.open("wb").close()
    except OSError:
        pytest.skip("devices cannot be made here")
    assert dentbench("report", *CSV, "--out", str(device))[0] == 0
    assert stat.S_ISCHR(device.stat().st_mode)
    assert sorted(path.name for path in made.iterdir()) == ["null", "results"]


def test_an_open_file_is_added_to(dentbench: Run, made: Path) -> None:
    expected = dentbench("report", *CSV)[1]
    with (made / "log").open("w") as log:
        log.write("before\n")
        log.flush()
        inode = (made / "log").stat().st_ino
        assert dentbench("report", *CSV, "--out", f"/dev/fd/{log.fileno()}")[0] == 0
    assert (made / "log").read_text() == f"before\n{expected}"
    assert (made / "log").stat().st_ino == inode


@pytest.mark.parametrize("name", ["table.docx", "table.tex2"])
def test_an_ending_that_names_no_format_is_refused(dentbench: Run, made: Path, name: str) -> None:
    code, _, err = dentbench("report", "--results", "results", "--out", name)
    assert code == 2 and "names no format" in err and "--format" in err and ".csv" in err
    assert not (made / name).exists()
    assert dentbench("report", *CSV, "--out", name)[0] == 0
    assert (made / name).read_text() == dentbench("report", *CSV)[1]


def test_a_dash_is_standard_output_and_input(
    dentbench: Run, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = dentbench("report", *CSV)[1]
    assert dentbench("report", *CSV, "--out", "-")[:2] == (0, expected)
    assert not (made / "-").exists()
    text = io.TextIOWrapper(io.BytesIO(b"examples = -3"))
    monkeypatch.setattr("sys.stdin", text)
    code, _, said = dentbench("evaluate", "--config", "-", "--mode", "static")
    assert code == 2 and "examples is -3" in said


def test_a_missing_folder_is_named(dentbench: Run, made: Path) -> None:
    code, _, said = dentbench("report", *CSV, "--out", "gone/a.csv")
    assert code == 2 and "cannot write gone/a.csv: there is no folder gone" in said


ALONE = """
import os, subprocess, sys
from dentbench.cli import json_output
with json_output.alone(sys.argv[1:]):
    print("printed", flush=True)
    os.write(1, b"written\\n")
    subprocess.run(["echo", "by a process"])
json_output.add(records=[1])
json_output.deliver()
"""


@pytest.mark.parametrize("command", ["evaluate", "show"])
def test_a_document_has_standard_output_to_itself(command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ALONE, command, "--json"], capture_output=True, text=True, check=True
    )
    if command == "evaluate":
        assert json.loads(done.stdout) == {"records": [1]}
    else:  # it prints its document itself
        assert "printed" in done.stdout
    assert ("by a process" in done.stderr) == (command == "evaluate")


def test_home_is_expanded(dentbench: Run, made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(made))
    assert dentbench("report", *CSV, "--out", "~/t.csv")[0] == 0
    assert (made / "t.csv").is_file()


def test_a_config_from_a_pipe_is_the_same_study(dentbench: Run, tmp_path: Path) -> None:
    text = b'attack = "none"\nexamples = 3\nbatch-size = 3\nmode = "static"\nseed = [5, 6]\n'
    reading, writing = os.pipe()
    os.write(writing, text)
    os.close(writing)
    try:
        code = dentbench("evaluate", "--config", f"/dev/fd/{reading}", "--progress", "none")[0]
    finally:
        os.close(reading)
    assert code == 0
    assert [(row["seed"], row["count"], row["attack"]) for row in dentbench.rows()] == [
        (seed, "3", "none") for seed in "56"
    ]
    (kept,) = (tmp_path / "results" / "configs").iterdir()
    assert kept.read_bytes() == text and kept.name.startswith("config-")


def test_config_without_a_value_is_the_parsers_refusal(dentbench: Run) -> None:
    code, _, err = dentbench("evaluate", "--config")
    assert code == 2 and "--config has no value; write --config FILE.toml" in err


def test_config_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    path.write_bytes(b"\xef\xbb\xbfeps = 0.00001\n")
    assert config.read(path) == {"eps": 0.00001}
