"""Checkpoints of users: any ending, prefix and key, counters, and whence their network is."""

from __future__ import annotations

import gzip
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from dentbench.errors import ModelError, UnknownNameError
from dentbench.zoo.checkpoints import read_checkpoint, state_dict_of
from dentbench.zoo.model_names import is_checkpoint
from dentbench.zoo.models import load_model

NET = """
from torch import nn
def make():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 5))
"""


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    parts = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 5)
    return nn.Sequential(*parts).eval()


STATE = network(1).state_dict()


def under(*prefixes: str) -> dict[str, Tensor]:
    return {f"{prefix}{name}": tensor for prefix in prefixes for name, tensor in STATE.items()}


CHECKPOINTS: Mapping[str, Any] = {
    "plain.PT": STATE,
    "params.bin": {"params": STATE},
    "weights.pkl": {"weights": STATE},
    "own_key.pth": {"whatever": STATE, "epoch": 3},
    "net.pth": under("net."),
    "backbone.ckpt": {"state_dict": under("backbone."), "epoch": 3},
    "attacker.pth": {"model": under("module.model.", "module.attacker.model.")},
    "profiled.pth": {**STATE, "total_ops": torch.zeros(1), "0.total_params": torch.zeros(1)},
    "averaged.pth": {"n_averaged": torch.tensor(3), **under("module.")},
    "deep.pth.tar": {"state_dict": under("module.net."), "losses": np.array([1.0, 2.0])},
    "no_ending": STATE,
    "nested.pt": {"state": {"run": {"state_dict": under("module.")}}, "epoch": 3},
    "lightning.ckpt": {
        "state_dict": {
            **under("net."),
            "criterion.weight": torch.ones(5),
            "train_acc.correct": torch.tensor(3),
        }
    },
    "two_parts.pth": {  # as of mmcls
        "state_dict": {
            f"{'head' if name.startswith('3.') else 'backbone'}.{name}": tensor
            for name, tensor in STATE.items()
        }
    },
    "steps.pt": {**under("_orig_mod.module."), "step": torch.tensor(9)},
    "arrays.pt": {name: tensor.numpy() for name, tensor in STATE.items()},
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "my-net.py").write_text(NET)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_it_is_loaded_whole(folder: Path, name: str) -> None:
    torch.save(CHECKPOINTS[name], name)
    assert is_checkpoint(name)
    model = load_model(name, arch="code/my-net.py:make")
    actual = model.network.state_dict()
    assert actual.keys() == STATE.keys() and model.name == name
    assert all(torch.equal(actual[key], STATE[key]) for key in STATE)


def test_a_file_of_code_is_a_model_too(folder: Path) -> None:
    single = load_model("code/my-net.py:make")
    assert load_model(str(folder / "code" / "my-net.py") + ":make").code == single.code
    (folder / "code" / "my-net.py").write_text(
        NET.replace("BatchNorm2d(4)", "BatchNorm2d(4, 1e-3)")
    )
    assert load_model("code/my-net.py:make").code != single.code
    with pytest.raises(UnknownNameError, match=r"there is no file code/gone.py"):
        load_model("code/gone.py:make")


def test_constants_of_a_normalization_are_told(folder: Path) -> None:
    torch.save({**under("model."), "normalizer.new_mean": torch.zeros(3)}, "a.pth")
    with pytest.raises(ModelError, match=r"normalizer.new_mean\); give the normalization with"):
        load_model("a.pth", arch="code/my-net.py:make")
    load_model("a.pth", arch="code/my-net.py:make", normalize=([0.5] * 3, [0.5] * 3))
    both = {"mu": torch.full((1, 3, 1, 1), 0.5), "sigma": torch.full((1, 3, 1, 1), 0.25)}
    torch.save({**STATE, **both}, "b.pth")
    with pytest.raises(ModelError, match=r"with --normalize 0.5,0.5,0.5 0.25,0.25,0.25"):
        load_model("b.pth", arch="code/my-net.py:make")


def test_what_misses_or_is_too_much_says_what_to_do(folder: Path) -> None:
    torch.save({name: STATE[name] for name in [*STATE][:-1]}, "cut.pth")
    with pytest.raises(
        ModelError, match=r"1 missing \(3.bias\); name the network that was trained"
    ):
        load_model("cut.pth", arch="code/my-net.py:make")


def test_a_plain_pickle_is_called_so(folder: Path, recwarn: pytest.WarningsRecorder) -> None:
    Path("w.pkl").write_bytes(pickle.dumps(dict(STATE)))
    with pytest.raises(ModelError, match="is a plain pickle, not a file of"):
        load_model("w.pkl", arch="code/my-net.py:make")
    assert not recwarn.list
    torch.save(STATE, "old.pth", _use_new_zipfile_serialization=False)
    load_model("old.pth", arch="code/my-net.py:make")


def test_a_refused_class_is_named_with_what_to_do(folder: Path) -> None:
    torch.save(network(0), "whole.pt")
    with pytest.raises(ModelError, match=r"Sequential.*save the weights alone.*state_dict\(\)"):
        load_model("whole.pt", arch="code/my-net.py:make")


def test_networks_of_timm(folder: Path) -> None:
    timm = pytest.importorskip("timm")
    made = timm.create_model("resnet10t", num_classes=5)
    torch.save(made.state_dict(), "t.pth")
    actual = load_model("t.pth", arch="timm:resnet10t,num_classes=5").network.state_dict()
    assert all(torch.equal(actual[key], item) for key, item in made.state_dict().items())
    for arch, words in (("timm:no_such_net", "timm cannot make"), ("timm:resnet10t", "fc.weight")):
        with pytest.raises(ModelError, match=words):
            load_model("t.pth", arch=arch)
    with pytest.raises(ModelError, match="without weights"):
        load_model("timm:resnet10t")


def test_two_states_under_unknown_names_are_refused() -> None:
    with pytest.raises(ModelError, match=r"holds several state dicts, .*: one, two; save"):
        state_dict_of({"one": STATE, "two": STATE}, "a.pth")


def test_the_content_says_which_format_a_file_is_of(folder: Path) -> None:
    save_file(STATE, "called.pt")
    save_file(STATE, "LOUD.SAFETENSORS")
    for name in ("called.pt", "LOUD.SAFETENSORS"):
        assert read_checkpoint(Path(name)).keys() == STATE.keys()
    torch.save(STATE, "torch.safetensors")
    with pytest.raises(ModelError, match=r"is a file of torch\.save, not of safetensors"):
        read_checkpoint(Path("torch.safetensors"))


def whole(name: str) -> bytes:
    """Return a checkpoint as bytes."""
    save_file(STATE, name) if name.endswith("safetensors") else torch.save(STATE, name)
    return Path(name).read_bytes()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (lambda: b"", "it is empty"),
        (lambda: b"<html>quota exceeded</html>", "it is a web page"),
        (lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:1", "git lfs pull"),
        (lambda: b'{"error": 404}', "it is JSON"),
        (lambda: b"not found", "it is plain text"),
        (lambda: gzip.compress(whole("a.pt")), "compressed by gzip"),
        (lambda: whole("a.pt")[:900], "a zip archive that is cut off"),
        (lambda: whole("a.safetensors")[:-9], "a safetensors file that is damaged or cut off"),
        (lambda: bytes(999), "nothing but zeros"),
    ],
)
@pytest.mark.parametrize("name", ["bad.pt", "bad.safetensors"])
def test_a_file_that_is_none_is_called_what_it_is(
    folder: Path, content: Callable[[], bytes], words: str, name: str
) -> None:
    Path(name).write_bytes(content())
    with pytest.raises(ModelError, match=rf"{name} is .*{words}") as caught:
        load_model(name, arch="code/my-net.py:make")
    assert "miniz" not in str(caught.value) and "header" not in str(caught.value)


@pytest.mark.parametrize("named", ["code/my-net.py", "code/my-net", "code/my-net.make"])
def test_code_named_without_its_callable_is_told(folder: Path, named: str) -> None:
    torch.save(STATE, "a.pt")
    with pytest.raises(UnknownNameError, match=r"write code/my-net\.py:CALLABLE"):
        load_model("a.pt", arch=named)


def test_a_folder_and_a_missing_file_are_no_checkpoints(folder: Path) -> None:
    with pytest.raises(ModelError, match=r"code is a folder; .*such as code/my-net\.py"):
        load_model("code", arch="code/my-net.py:make")
    with pytest.raises(ModelError, match="there is no file code/gone"):
        load_model("code/gone", arch="code/my-net.py:make")
    with pytest.raises(
        ModelError, match=r"code/gone is taken for a file, which is not there; .*--arch"
    ):
        load_model("code/gone")
