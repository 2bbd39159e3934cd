"""``dentbench fetch``: its output, the cache after it, and its refusals."""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from typer.testing import CliRunner

from dentbench.cli.fetch import fetch
from dentbench.errors import DentBenchError, FetchError, SpecError, UnknownNameError
from dentbench.zoo.cards.dataset_cards import DATASETS
from dentbench.zoo.cards.model_cards import MODELS
from dentbench.zoo.download import transfer
from tests.zoo.download.loopback import Loopback, page, status

app = typer.Typer()
app.command("fetch")(fetch)


@app.callback()
def main() -> None:
    """Keep ``fetch`` a subcommand."""


CHECKPOINT = "/m/models/cifar10/Linf/Wong2020Fast.pt"


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own, and no settings from outside."""
    proxies = ("http_proxy", "HTTP_PROXY")
    for name in ("DENTBENCH_OFFLINE", "DENTBENCH_MIRRORS", "COLUMNS", *proxies):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DENTBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def run(*arguments: str) -> str:
    """The command's output, or the error that it ends in."""
    result = CliRunner().invoke(app, ["fetch", *arguments])
    if result.exception is not None:
        raise result.exception
    return result.stdout


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of Wong2020Fast's network, with weights made here."""
    pytest.importorskip("timm")
    from dentbench.zoo.models import build

    path = tmp_path_factory.mktemp("made") / "wong.pt"
    torch.save(build(MODELS["Wong2020"]).state_dict(), path)
    return path


@pytest.fixture
def mirror(checkpoint: Path) -> Iterator[Loopback]:
    with Loopback() as server:
        server.files[CHECKPOINT] = checkpoint.read_bytes()
        yield server


# ------------------------------------------------------------------ --list


def test_the_list_is_a_table() -> None:
    text = run("--list")
    for words in ("digits", "CIFAR-10 (test)", "Models for cifar10, Linf", "for cifar10, L2"):
        assert words in text
    row = next(line for line in text.splitlines() if "Carmon2019Unlabeled" in line)
    for cell in ("Carmon2019 ", "WideResNet-28-10", "33 (0.05%)", "89.69", "59.53", "MIT", "no"):
        assert cell in row
    assert len([line for line in text.splitlines() if "8/255" in line]) > 100


def test_the_list_can_be_restricted_and_json(environment: Path) -> None:
    facts = json.loads(run("--list", "--json", "--model", "Ding2020", "cifar10"))
    assert [fact["id"] for fact in facts] == ["cifar10", "Ding2020MMA"]
    assert [fact["kind"] for fact in facts] == ["dataset", "model"]
    assert [fact["cached"] for fact in facts] == [False, False]
    assert facts[1]["license"] == "CC-BY-NC-SA-4.0"
    assert facts[1]["batchnorm"] is True
    assert not environment.exists()


def test_all_cards_are_json() -> None:
    facts = json.loads(run("--list", "--json"))
    assert {fact["id"] for fact in facts if fact["kind"] == "model"} == set(MODELS)


def test_the_list_and_the_command_load_nothing_heavy() -> None:
    code = (
        "import sys, typer\n"
        "from dentbench.cli import fetch\n"
        "heavy = {'torch', 'robustbench', 'pandas', 'numpy', 'timm', 'gdown', 'requests'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "assert 'dentbench.zoo.cards.model_cards' not in sys.modules\n"
        "from typer.testing import CliRunner\n"
        "app = typer.Typer()\n"
        "app.command()(fetch.fetch)\n"
        "result = CliRunner().invoke(app, ['--list'])\n"
        "assert result.exit_code == 0, result\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# ------------------------------------------------------------------ fetching


def test_what_is_embedded_needs_no_fetching() -> None:
    text = run("digits", "AutoAttackResNet18", "--offline")
    assert "digits: comes with the installation; license: CC-BY-4.0" in text
    assert "AutoAttackResNet18: comes with the installation; license: MIT" in text


def test_fetch_verify_list_and_remove(mirror: Loopback, environment: Path) -> None:
    text = run("--model", "Wong2020", "--mirror", mirror.url("/m"))
    assert "Wong2020Fast: fetching PreActResNet-18, about 45 MB" in text
    assert "license: MIT" in text
    assert "Wong2020Fast: in the cache and verified, 44." in text
    path = environment / "models/cifar10/Linf/Wong2020Fast.pt"
    assert path.read_bytes() == mirror.files[CHECKPOINT]

    assert "fetching" not in run("Wong2020", "--offline")
    assert len(mirror.requests) == 1
    assert run("--verify").strip() == "Wong2020Fast: right"
    assert json.loads(run("--list", "--json", "Wong2020"))[0]["cached"] is True

    path.write_bytes(b"damaged")
    with pytest.raises(FetchError, match=r"1 of 1 in the cache are wrong \(Wong2020Fast\)"):
        run("--verify")

    path.with_name("Wong2020Fast.pt.rejected").write_bytes(b"an older wrong one")
    path.with_name("Wong2020Fast.pt.part").write_bytes(b"half")
    assert "1 file removed" in run("--remove", "Wong2020")
    assert [item.name for item in path.parent.iterdir() if not item.name.startswith(".")] == []
    assert json.loads((environment / "hashes.json").read_text()) == {}
    assert "Nothing of this is cached" in run("--verify")


def test_the_environment_names_mirrors(mirror: Loopback, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DENTBENCH_MIRRORS", f"{mirror.url('/absent')} {mirror.url('/m')}")
    facts = json.loads(run("Wong2020", "--json"))
    assert (facts[0]["id"], facts[0]["cached"]) == ("Wong2020Fast", True)
    assert [asked for asked, _ in mirror.requests] == [
        CHECKPOINT.replace("/m/", "/absent/"),
        CHECKPOINT,
    ]


@pytest.mark.parametrize("source", ["path", "url"])
def test_import_by_hand(mirror: Loopback, environment: Path, checkpoint: Path, source: str) -> None:
    given = str(checkpoint) if source == "path" else mirror.url(CHECKPOINT)
    more = ["--offline"] if source == "path" else []
    assert "in the cache" in run("--model", "Wong2020", "--from", given, *more)
    assert (environment / "models/cifar10/Linf/Wong2020Fast.pt").exists()
    assert checkpoint.exists()


# ------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ([], SpecError, "nothing is named"),
        (["--remove"], SpecError, "nothing is named"),
        (["--model", "Carmon2091"], UnknownNameError, "did you mean Carmon2019Unlabeled"),
        (["--dataset", "cifar11"], UnknownNameError, "did you mean cifar10"),
        (["--model", "Wong2020", "--offline"], FetchError, "offline mode allows no connection"),
        (["--paper", "--from", "x.pt"], SpecError, "--from imports one file"),
        (["Wong2020", "--from", "/no/such.pt"], FetchError, "there is no file /no/such.pt"),
        (["Chen2020Adversarial", "--from", "x.pt"], FetchError, "consists of 3 files"),
    ],
)
def test_refusals(arguments: list[str], error: type[DentBenchError], words: str) -> None:
    with pytest.raises(error, match=words) as caught:
        run(*arguments)
    blocked = "--offline" in arguments
    assert str(caught.value).count("\n") == (3 if blocked else 0)


def test_a_blocked_download_is_four_lines_without_a_librarys_words() -> None:
    with pytest.raises(FetchError) as caught:
        run("Wong2020", "--offline")
    sentence, link, command, works = str(caught.value).splitlines()
    assert "Wong2020Fast.pt is not there and offline mode allows no connection" in sentence
    assert link.strip().startswith("Link: https://drive.google.com/file/d/")
    assert "dentbench fetch --model Wong2020Fast --from FILE" in command
    assert "digits-robust on digits" in works
    for raw in (
        "HTTPSConnectionPool(host='x', port=443): Max retries exceeded with url: /uc (Caused by "
        "NameResolutionError(\"Failed to resolve 'x' ([Errno -2] Name or service not known)\"))",
        "[Errno -3] Temporary failure in name resolution",
    ):
        assert transfer.plain_reason(OSError(raw)) == "this machine cannot resolve the host's name"
    assert transfer.plain_reason(OSError("HTTPSConnectionPool(host='x'): odd")) != ""


def test_the_list_is_filtered_by_words_data_sets_and_layers() -> None:
    def names(*arguments: str) -> list[str]:
        return [fact["id"] for fact in json.loads(run("--list", "--json", *arguments))]

    assert names("wong") == ["Wong2020Fast", "Wong2020Fast-imagenet"]
    assert names("WONG", "cifar10") == ["Wong2020Fast"]
    assert names("--dataset", "cifar10-sample") == ["cifar10-sample"]
    of_cifar = names("--dataset", "cifar10")
    assert of_cifar[0] == "cifar10" and {MODELS[item].dataset for item in of_cifar[1:]} == {
        "cifar10"
    }
    assert names("cifar10") == of_cifar and "digits-robust" in names("digits")
    without = names("--no-batchnorm")
    assert without and not any(MODELS[item].batchnorm for item in without)
    assert all(MODELS[name].batchnorm for name in names("--batchnorm", "--dataset", "imagenet"))
    assert "https://drive.google.com/file/d/" in run("--list", "wong")
    for arguments in (["nothing-like-it"], ["--no-batchnorm", "--dataset", "cifar10"]):
        with pytest.raises(SpecError, match="nothing in the list"):
            run("--list", *arguments)
    with pytest.raises(SpecError, match="add --list"):
        run("--batchnorm", "cifar10")


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_list_fits_the_terminal(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    lines = run("--list").splitlines()
    assert max(map(len, lines)) <= width
    whole = [line for line in lines if "Carmon2019Unlabeled" in line and "59.53" in line]
    assert whole or width < 80


def test_the_whole_paper_offline_names_all_that_lack(capsys: pytest.CaptureFixture[str]) -> None:
    result = CliRunner().invoke(app, ["fetch", "--paper", "--offline"])
    assert isinstance(result.exception, FetchError)
    assert "8 of 8 could not be fetched (cifar10, Carmon2019Unlabeled" in str(result.exception)
    assert "Ding2020MMA.pt is not there and offline mode allows" in result.stderr


def test_one_that_fails_does_not_stop_the_others(mirror: Loopback, environment: Path) -> None:
    mirror.faults["/m/cifar-10-batches-py/test_batch"] = [status(404)]
    mirror.faults["/m/cifar-10-python.tar.gz"] = [status(404)]
    arguments = ["fetch", "cifar10", "Wong2020", "--mirror", mirror.url("/m")]
    with pytest.MonkeyPatch.context() as patch:
        nowhere = replace(DATASETS["cifar10"], archive_url="", parquet_url="")
        patch.setitem(DATASETS._values, "cifar10", nowhere)
        result = CliRunner().invoke(app, arguments)
    assert "1 of 2 could not be fetched (cifar10)" in str(result.exception)
    assert (environment / "models/cifar10/Linf/Wong2020Fast.pt").exists()


def test_a_config_file_names_mirror_and_cache(
    mirror: Loopback, tmp_path: Path, environment: Path
) -> None:
    config = tmp_path / "fetch.toml"
    config.write_text(f'mirror = ["{mirror.url("/m")}"]\ncache = "{tmp_path / "other"}"\n')
    run("Wong2020", "--config", str(config))
    assert (tmp_path / "other/models/cifar10/Linf/Wong2020Fast.pt").exists()
    assert not environment.exists()


def test_a_page_is_not_imported(environment: Path) -> None:
    with Loopback() as server:
        server.faults["/x.pt"] = [page(b"Log in")]
        with pytest.raises(FetchError, match=r"a web page .'Log in'. instead of the file"):
            run("Wong2020", "--from", server.url("/x.pt"))
    folder = environment / "models/cifar10/Linf"
    assert [path for path in folder.iterdir() if not path.name.startswith(".")] == []


def test_another_models_checkpoint_is_not_imported(tmp_path: Path, checkpoint: Path) -> None:
    state: dict[str, Any] = torch.load(checkpoint, weights_only=True)
    del state["linear.weight"]
    torch.save(state, tmp_path / "other.pt")
    with pytest.raises(FetchError, match=r"1 missing \(linear.weight\).*\.rejected"):
        run("Wong2020", "--from", str(tmp_path / "other.pt"))
