"""Malformed input, generated: it ends in a result or in one sentence, never in a traceback."""

from __future__ import annotations

import contextlib
import io
import random
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import safetensors.torch
import torch
import typer

from dentbench.cli import app
from dentbench.errors import DentBenchError
from dentbench.records import results_csv
from dentbench.records.outcome import Record
from dentbench.zoo.datasets import load_dataset
from dentbench.zoo.models import load_model

SECONDS: Final = 60
"""After which an input counts as a hang."""

NASTY: Final = (
    *("", " ", "nan", "inf", "-inf", "-1", "0", "1e999", "1/0", "8/255/1", "0x10", "1_0", "\u0663"),
    *("\uff18/\uff12\uff15\uff15", "None", "true", "[]", "{}", "a,b", "a:b", "../../x", "/", "."),
    *("a" * 5000, "9" * 400, "-" * 50, "\\", "'", '"', "%s", "$(x)", "=1+1", "<b>", "\u202e"),
    *("\U0001f600", "\n", "\t", "1 2", "Linf:", ":8/255", "mix:2", "mix:", "label-windows:0", "--"),
)


@contextmanager
def limited(case: object) -> Iterator[None]:
    def hang(*_: object) -> None:
        raise AssertionError(f"hangs: {case!r}")

    before = signal.signal(signal.SIGALRM, hang)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def command(*arguments: str) -> tuple[int, str]:
    """Run the command line in this process; return its exit code and what it says on stderr."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    argv, sys.argv = sys.argv, ["dentbench", *arguments]
    try:
        with limited(arguments), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            app.main()
    except SystemExit as stopped:
        code = int(stopped.code or 0)
    finally:
        sys.argv = argv
    return code, err.getvalue()


# --- options and config files ---------------------------------------------------------------------


ENDS_WELL: Final = ("--help", "--help-all", "--version")
"""Options that print something and end the run, whatever stands beside them."""


def options_of(name: str) -> list[tuple[str, bool]]:
    """Return the options of a sub-command, and whether each is a flag."""
    group: Any = typer.main.get_command(app.app)
    result = []
    for param in group.commands[name].params:
        if param.param_type_name == "option" and param.opts[0] not in ENDS_WELL:
            result.append((param.opts[0], bool(getattr(param, "is_flag", False))))
    return result


ENDS_THE_RUN: Final = "no-such-model"
"""A model that is not there, so that a run with values that turn out to be good ends at once."""


def bad_options(rng: random.Random, folder: Path) -> None:
    """Give ``evaluate`` or ``ablate`` one or two nasty values."""
    name = rng.choice(("evaluate", "ablate"))
    arguments = [name, "--results", str(folder / "results")]
    for option, flag in rng.sample(options_of(name), rng.choice((1, 1, 2))):
        if option in ("--results", "--config", "--cache", "--from-record"):
            continue
        arguments += [option] if flag else [option, rng.choice(NASTY)]
    code, err = command(*arguments, "--model", ENDS_THE_RUN)
    check(code, err, arguments)


def bad_config(rng: random.Random, folder: Path) -> None:
    """Give ``evaluate`` a config file with a nasty line, or one that is no TOML."""
    path = folder / "study.toml"
    name, _ = rng.choice(options_of("evaluate"))
    value = rng.choice((*NASTY, "[1, [2]]", "{a = 1}", "1979-05-27", "'x'", "1.5"))
    text = f"{name.removeprefix('--')} = {value}\n"
    if rng.random() < 0.3:
        text = "".join(rng.choice("=[]{}'\"\n\\ a1.") for _ in range(40))
    path.write_text(text)
    arguments = ["evaluate", "--config", str(path), "--model", ENDS_THE_RUN]
    code, err = command(*arguments, "--results", str(folder / "results"))
    check(code, err, text)


def check(code: int, err: str, given: object) -> None:
    """Raise unless it was refused: exit code 2, words that name something, no traceback."""
    assert code == 2, (code, given, err)
    assert "Traceback" not in err, (given, err)
    assert len(err.strip()) > 20, (given, err)


# --- files ----------------------------------------------------------------------------------------


def mutated(rng: random.Random, data: bytes) -> bytes:
    """Return a file's bytes, damaged."""
    kind, at = rng.randrange(6), rng.randrange(max(1, len(data)))
    size = rng.choice((1, 2, 8, 64))
    if kind == 0:
        return data[:at]
    if kind == 1:
        return data[:at] + rng.randbytes(size) + data[at + size :]
    if kind == 2:
        return data[:at] + rng.randbytes(size) + data[at:]
    if kind == 3:
        return data[:at] + data[at + size :]
    if kind == 4:
        return data[:at] + bytes(size) + data[at + size :]
    return rng.randbytes(rng.randrange(200))


def damaged(folder: Path, name: str, whole: bytes, load: Callable[[Path], Any]) -> Any:
    """Return what does it: damage a file, load it, and see that it is refused or read."""

    def once(rng: random.Random, _: Path) -> None:
        path = folder / name
        data = mutated(rng, whole)
        path.write_bytes(data)
        with limited(data[:200]), contextlib.suppress(DentBenchError):
            load(path)
        assert path.read_bytes() == data

    return once


def data_files(folder: Path) -> dict[str, Any]:
    """Return a damage to every kind of data file, by kind."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
    labels = np.arange(6) % 3
    np.savez(folder / "whole.npz", images=images, labels=labels)
    table = pa.table({"img": [image.tobytes() for image in images], "label": labels})
    pa.parquet.write_table(table, folder / "whole.parquet")
    result = {}
    for kind in ("npz", "parquet"):
        whole = (folder / f"whole.{kind}").read_bytes()

        def load(path: Path) -> Any:
            return load_dataset(str(path), data_name="fuzz")

        result[f"{kind} files"] = damaged(folder, f"data.{kind}", whole, load)
    return result


def checkpoints(folder: Path) -> dict[str, Any]:
    """Return a damage to every kind of checkpoint, by kind."""
    state = load_model("digits-robust").network.state_dict()
    torch.save({"state_dict": state}, folder / "whole.pt")
    safetensors.torch.save_file(state, folder / "whole.safetensors")

    def load(path: Path) -> Any:
        return load_model(str(path), arch="digits-robust")

    return {
        f"{kind} checkpoints": damaged(
            folder, f"model.{kind}", (folder / f"whole.{kind}").read_bytes(), load
        )
        for kind in ("pt", "safetensors")
    }


def results_files(folder: Path, record: Record) -> dict[str, Any]:
    """Return a damage to a results file that is read, and one to a file that is appended to."""
    results = folder / "csv"
    results_csv.append(results, record)
    whole = (results / "results.csv").read_bytes() * 1

    def report(path: Path) -> None:
        code, err = command("report", "--results", str(path.parent), "--format", "csv")
        assert code in (0, 2), (code, err)
        assert "Traceback" not in err, err

    return {"results files": damaged(results, "results.csv", whole, report)}


def soak(folder: Path, each: int, record: Record, seed: int = 0) -> dict[str, int]:
    """Try so many inputs of each kind; return how many, or raise at the first that is wrong."""
    folder.mkdir(parents=True, exist_ok=True)
    kinds: dict[str, Callable[[random.Random, Path], None]] = {
        "option values": bad_options,
        "config files": bad_config,
        **results_files(folder, record),
        **data_files(folder),
        **checkpoints(folder),
    }
    for name, once in kinds.items():
        for number in range(each):
            rng = random.Random(f"{seed} {name} {number}")
            try:
                once(rng, folder)
            except BaseException as error:
                error.add_note(f"{name}, input {number} of seed {seed}")
                raise
    return dict.fromkeys(kinds, each)
