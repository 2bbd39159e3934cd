"""Own models on the command line: announcements and refusals before anything is run."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import dentbench
from dentbench.spec.evaluation import AttackSpec, DentSpec
from dentbench.zoo.cards.model_cards import MODELS
from dentbench.zoo.datasets import load_dataset
from dentbench.zoo.models import load_model
from dentbench.zoo.networks import DigitsResNet, Normalize
from tests.helpers import Run
from tests.zoo.download.loopback import Loopback

SHORT = ["--attack", "apgd-ce", "--iterations", "1", "--examples", "60", "--batch-size", "60"]
MEAN, STD = [0.3053], [0.3760]

FACTORY = """
from torch import nn
from dentbench.zoo.models import load_model

def make():
    network = load_model("digits-robust").network
    network.normalize = nn.Identity()
    return network

def fails():
    raise RuntimeError("no weights here")
"""


@pytest.fixture
def dentbench_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Iterator[Run]:
    """The command, run in a folder with a factory whose network lacks its normalization."""
    (tmp_path / "bare_digits.py").write_text(FACTORY)
    yield Run(monkeypatch, capsys, tmp_path)


@pytest.mark.checks
def test_normalize_and_expect_clean(dentbench_command: Run) -> None:
    own = ["--model", "bare_digits:make", "--dataset", "digits", "--mode", "static"]
    whole = load_model("digits-robust").network
    data = load_dataset("digits")
    right = int((whole(data.images[:60]).argmax(1) == data.labels[:60]).sum())
    clean = str(100 * right / 60)

    wrong = ["--normalize", "5", "1"]
    code, _, err = dentbench_command("evaluate", *SHORT, *own, *wrong, "--expect-clean", clean)
    assert code == 2 and f"{float(clean):g}% was expected" in err and "--force" in err
    normalize = ["--normalize", "0.3053", "0.3760"]
    code, _, err = dentbench_command("evaluate", *SHORT, *own, *normalize, "--expect-clean", clean)
    assert code == 0, err
    (row,) = dentbench_command.rows()
    assert int(row["natural_correct"]) == right
    assert (row["norm"], row["eps"]) == ("Linf", "0.15")  # the data set's own


def test_normalize_from_python(tmp_path: Path) -> None:
    torch.manual_seed(0)
    whole = DigitsResNet().eval()
    bare = DigitsResNet().eval()
    bare.load_state_dict(whole.state_dict())
    bare.normalize = torch.nn.Identity()  # type: ignore[assignment]
    data = load_dataset("digits")
    x, y = data.images[:8], data.labels[:8]
    attack = AttackSpec(name="apgd-ce", eps=Fraction(1, 10), iterations=2)
    quick: dict[str, Any] = {"attack": attack, "defense": DentSpec(steps=1)}
    records = [
        dentbench.evaluate(model, x, y, results=tmp_path / str(number), **quick, **more)[0]
        for number, (model, more) in enumerate(
            [(whole, {}), (bare, {"normalize": (MEAN, torch.tensor(STD))}), (bare, {})]
        )
    ]
    assert records[0].broken_by == records[1].broken_by
    assert records[0].natural_correct == records[1].natural_correct
    assert records[1].model_sha256 != records[2].model_sha256
    with pytest.raises(dentbench.errors.ModelError, match="100% was expected"):
        dentbench.evaluate(bare, x, y, attack=attack, results=tmp_path / "x", expect_clean=100)


def test_the_wrapper_is_the_formula() -> None:
    x = torch.rand(2, 3, 4, 4)
    mean, std = [0.1, 0.2, 0.3], [0.4, 0.5, 0.6]
    expected = torch.stack([(x[:, c] - mean[c]) / std[c] for c in range(3)], 1)
    torch.testing.assert_close(Normalize(mean, std)(x), expected)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_checkpoint_with_its_network(dentbench_command: Run, suffix: str) -> None:
    from safetensors.torch import save_file

    network = load_model("digits-nominal").network
    path = Path(f"mine{suffix}")
    if suffix == ".pt":
        torch.save({"state_dict": network.state_dict()}, path)
    else:
        save_file(network.state_dict(), path)
    more = ["--model", str(path), "--arch", "digits-robust", "--dataset", "digits"]
    code, _, err = dentbench_command("evaluate", *SHORT, *more, "--mode", "static")
    assert code == 0, err
    (row,) = dentbench_command.rows()
    assert row["model"] == path.name
    assert row["model_sha256"] == load_model("digits-nominal").sha256


def test_mistakes_are_told(dentbench_command: Run) -> None:
    digits = ["--dataset", "digits"]
    vision = next(card.id for card in MODELS.values() if not card.batchnorm)
    mistakes = {
        ("--normalize", "0.5", "0.5"): "normalizes its images itself",
        ("--arch", "Carmon2019"): "--arch is for checkpoint files",
        ("--model", "mine.pt", *digits): "name its network with --arch",
        ("--model", "gone.pt", "--arch", "digits-robust", *digits): "no file gone.pt",
        ("--model", "bare_digits:fails", *digits): "cannot be made (no weights here)",
        ("--model", "bare_digits:make", "--normalize", "a", "1", *digits): "write MEAN STD",
        ("--model", "bare_digits:make", "--normalize", "1", "0", *digits): "deviation of normalize",
        ("--model", "bare_digits:make", "--normalize", "1,1", "1,1", *digits): "1 or 3",
        ("--expect-clean", "0.89"): "in percent, such as 89.7",
        ("--expect-clean", "101"): "at most 100",
        ("--model", vision, "--offline"): "has no BatchNorm2d layer, and dent adapts",
        ("--model", vision, "--offline", "--defense", "tent"): "and tent adapts nothing else",
        (
            "--model",
            vision,
            "--offline",
            "--defense",
            "hedge",
            *digits,
        ): "classifies images of ImageNet",
        ("--model", "Carmon2019", "--offline"): "offline mode allows no connection",
    }
    for arguments, words in mistakes.items():
        code, out, err = dentbench_command("evaluate", *SHORT, *arguments)
        assert code == 2, (arguments, out, err)
        assert words in err, (arguments, err)
        lines = 4 if "offline mode" in words else 1  # with the link, the import and what works
        assert err.startswith("dentbench: ") and err.count("\n") == lines, err


def test_a_config_file_may_hold_numbers(dentbench_command: Run) -> None:
    Path("own.toml").write_text(
        'model = "bare_digits:make"\ndataset = "digits"\nmode = "static"\n'
        "normalize = [[0.3053], [0.3760]]\nexpect-clean = 97\n"
    )
    code, _, err = dentbench_command("evaluate", *SHORT, "--config", "own.toml")
    assert code == 0, err


def test_what_lacks_is_told_and_fetched_first(dentbench_command: Run) -> None:
    pytest.importorskip("timm")
    from dentbench.zoo.models import build

    rng = np.random.default_rng(0)
    np.savez("few.npz", images=rng.random((2, 32, 32, 3)), labels=np.arange(2), classes=10)
    torch.save(build(MODELS["Wong2020"]).state_dict(), "made.pt")
    with Loopback() as server:
        server.files["/m/models/cifar10/Linf/Wong2020Fast.pt"] = Path("made.pt").read_bytes()
        command = ["evaluate", "--model", "Wong2020", "--data", "few.npz", "--mode", "static"]
        command += ["--attack", "none"]
        where = ["--cache", "c", "--mirror", server.url("/m")]
        code, _, err = dentbench_command(*command, *where)
        assert code == 0, err
        announced, done, *_ = err.splitlines()
        assert announced == (
            "Wong2020Fast: fetching PreActResNet-18, about 45 MB into c; license: MIT"
        )
        assert done.startswith("Wong2020Fast: in the cache and verified, 44.")
        code, _, err = dentbench_command(*command, "--cache", "c", "--offline", "--fresh")
        assert code == 0 and "fetching" not in err
        assert len(server.requests) == 1
