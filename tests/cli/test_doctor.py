"""``dentbench doctor``: true versions, advice for faults, and nothing private."""

from __future__ import annotations

import importlib
import json
import urllib.error
from contextlib import nullcontext
from email.message import Message
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from typer import Typer
from typer.testing import CliRunner

from dentbench.cli import installation
from dentbench.cli.doctor import doctor as command
from dentbench.errors import SpecError
from dentbench.evaluation.workers.placement import device_named

app = Typer()
app.command("doctor")(command)


@app.callback()
def main() -> None:
    """Keep ``doctor`` a subcommand."""


@pytest.fixture(autouse=True)
def no_robustbench(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Spare its import, which is tested elsewhere, and look at a cache of the test's own."""
    from dentbench.zoo.robustbench import architectures

    monkeypatch.setattr(architectures, "model_dicts", dict)
    monkeypatch.setattr(installation, "unreachable", lambda host: "")
    monkeypatch.setenv("DENTBENCH_CACHE", str(tmp_path / "cache"))
    for name in ("DENTBENCH_OFFLINE", "DENTBENCH_MIRRORS"):
        monkeypatch.delenv(name, raising=False)


def by_name() -> dict[str, Any]:
    return {finding.what: finding for finding in installation.findings()}


def test_versions_are_true() -> None:
    actual = by_name()
    for name in ("torch", "numpy", "typer", "pyautoattack", "safetensors"):
        assert actual[name].found == metadata.version(name) and actual[name].ok
    assert f"cpu ({torch.get_num_threads()} of" in actual["devices"].found


def test_it_fits_a_bug_report(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    monkeypatch.setenv("DENTBENCH_CACHE", str(tmp_path / "me/secret/cache"))
    monkeypatch.setenv("DENTBENCH_MIRRORS", "https://me:password@mirror.org/zoo?key=1")
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert len(lines) < 30 and max(map(len, lines)) < 200
    assert str(tmp_path) not in result.output and "password" not in result.output
    assert "~/secret/cache (writable" in result.output
    assert "https://mirror.org/zoo" in result.output


def test_what_is_broken_has_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    real, version = importlib.import_module, metadata.version

    def broken(name: str) -> Any:
        if name == "torchvision":
            raise RuntimeError("operator torchvision::nms does not exist")
        return real(name)

    def missing(name: str) -> str:
        if name in ("ray", "pyarrow"):
            raise metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(installation.importlib, "import_module", broken)
    monkeypatch.setattr(metadata, "version", missing)
    actual = by_name()
    assert actual["torchvision"].ok is False
    assert "cannot be imported: operator torchvision::nms" in actual["torchvision"].found
    assert "same build as torch" in actual["torchvision"].advice
    assert actual["pyarrow"].ok is False and actual["pyarrow"].found == "not installed"
    assert actual["ray"].found == "not installed, optional"
    assert actual["ray"].ok is None and "--executor ray" in actual["ray"].advice
    result = CliRunner().invoke(app, ["doctor", "--json"])
    assert result.exit_code == 2
    facts = {item["what"]: item for item in json.loads(result.output)}
    assert facts["torchvision"]["ok"] is False


def test_the_cache_is_described(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "cache"
    assert by_name()["cached"].found.startswith("nothing yet")
    assert not folder.exists()
    path = folder / "models/cifar10/Linf/Wong2020Fast.pt"
    path.parent.mkdir(parents=True)
    path.write_bytes(bytes(3_000_000))
    path.with_name("x.pt.part").write_bytes(b"1")
    path.with_name("x.pt.rejected").write_bytes(b"1")
    (folder / "hashes.json").write_text("{")
    actual = by_name()
    assert actual["cached"].found == "Wong2020Fast (3 MB); 1 unfinished; 1 set aside"
    assert actual["hashes"].ok is False
    monkeypatch.setenv("DENTBENCH_OFFLINE", "1")
    assert "offline" in by_name()["network"].found
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("DENTBENCH_CACHE", str(tmp_path / "file"))
    assert by_name()["cache"].ok is False and "--cache" in by_name()["cache"].advice


def test_it_says_what_can_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    assert by_name()["reached"].found.startswith("drive.google.com, ")
    assert "not reached" not in by_name()
    monkeypatch.setattr(installation, "unreachable", lambda host: "timed out" * ("drive" in host))
    actual = by_name()
    assert actual["not reached"].found == "drive.google.com (most RobustBench models: timed out)"
    assert "--from FILE" in actual["not reached"].advice and actual["not reached"].ok is None
    asked: list[str] = []
    monkeypatch.setattr(installation, "unreachable", asked.append)
    findings = {finding.what: finding for finding in installation.findings(offline=True)}
    assert not asked and "nothing was tried" in findings["network"].found


@pytest.mark.parametrize(
    ("raised", "words"),
    [
        (None, ""),
        (urllib.error.HTTPError("x", 404, "no", Message(), None), ""),
        (
            urllib.error.URLError(OSError("[Errno -2] Name or service not known")),
            "this machine cannot resolve",
        ),
        (TimeoutError("timed out"), "timed out"),
    ],
)
def test_an_answer_of_any_kind_is_an_answer(
    monkeypatch: pytest.MonkeyPatch, raised: Exception | None, words: str
) -> None:
    def answer(*_: object, **__: object) -> Any:
        if raised is not None:
            raise raised
        return nullcontext()

    monkeypatch.undo()
    monkeypatch.setattr(installation.urllib.request, "urlopen", answer)
    assert installation.unreachable("x.org").startswith(words)


def test_cuda_without_a_gpu_names_the_smaller_build(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    assert installation.CPU in by_name()["devices"].advice
    monkeypatch.setattr(torch.version, "cuda", None)
    assert by_name()["devices"].advice == ""


@pytest.mark.parametrize("name", ["mps", "mps:0", "xla", "tpu"])
def test_other_devices_are_refused_in_words(name: str) -> None:
    with pytest.raises(SpecError, match=r"does not compute on.*use --device cpu"):
        device_named(name)
