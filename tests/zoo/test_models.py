"""Models: every kind loads into a working network, and no file ever runs code."""

from __future__ import annotations

import argparse
import io
import os
import pickle
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dentbench.errors import FetchError, ModelError, UnknownNameError
from dentbench.zoo import models
from dentbench.zoo.cards.model_cards import MODELS, ModelCard
from dentbench.zoo.checkpoints import read_checkpoint, state_dict_of
from dentbench.zoo.models import build, load_model
from dentbench.zoo.robustbench import architectures
from dentbench.zoo.weights import fit_names, load_state, weights_sha256
from tests.zoo.download.loopback import Loopback

EMBEDDED = [card for card in MODELS.values() if card.source == "embedded"]


class Small(nn.Module):
    """A network with normalization constants, as RobustBench's have them."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mu", torch.full((1, 3, 1, 1), 0.5))
        self.register_buffer("sigma", torch.full((1, 3, 1, 1), 0.25))
        self.conv = nn.Conv2d(3, 4, 3, bias=False)
        self.bn = nn.BatchNorm2d(4)
        self.linear = nn.Linear(4, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(self.conv((x - self.mu) / self.sigma)).relu()
        return self.linear(x.mean((2, 3)))  # type: ignore[no-any-return]


def randomized(seed: int = 0) -> Small:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Small()


def save(path: Path, value: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(value, path)
    return path


def same(first: nn.Module, second: nn.Module) -> bool:
    left, right = first.state_dict(), second.state_dict()
    return left.keys() == right.keys() and all(
        torch.equal(left[name], right[name]) for name in left
    )


# ------------------------------------------------------------------ what can be loaded


@pytest.mark.parametrize("card", EMBEDDED, ids=lambda card: card.id)
def test_an_embedded_model_loads(card: ModelCard) -> None:
    loaded = load_model(card.id, offline=True)
    assert (loaded.name, loaded.card) == (card.id, card)
    assert not loaded.network.training
    layers = [layer for layer in loaded.network.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert len(layers) == card.batchnorm_layers
    assert sum(p.numel() for p in loaded.network.parameters()) == card.parameters


def test_autoattacks_example_loads_and_answers() -> None:
    state = torch.random.get_rng_state()
    loaded = load_model("aa-resnet18", offline=True)
    assert torch.equal(state, torch.random.get_rng_state())
    assert loaded.name == "AutoAttackResNet18"
    assert loaded.network(torch.rand(2, 3, 32, 32)).shape == (2, 10)
    assert not loaded.network.training
    assert len(loaded.sha256) == 64
    assert sum(p.numel() for p in loaded.network.parameters()) == 11_173_962


def test_a_wheel_without_the_example_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match="pyautoattack's wheel"):
        load_model("AutoAttackResNet18")


def test_a_factory_is_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_factory.py").write_text(
        "import torch\n"
        "def make():\n    return torch.nn.Sequential(torch.nn.BatchNorm2d(3))\n"
        "def wrong():\n    return 3\n"
    )
    monkeypatch.chdir(tmp_path)
    loaded = load_model("my_factory:make")
    assert (loaded.name, loaded.card) == ("my_factory:make", None)
    with pytest.raises(ModelError, match="returned int"):
        load_model("my_factory:wrong")
    for text in ("my_factory:absent", "no_such_module_at_all:make"):
        with pytest.raises(UnknownNameError, match="cannot be made"):
            load_model(text)
    assert str(tmp_path) not in sys.path


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_checkpoint_with_a_factory_is_a_model(tmp_path: Path, suffix: str) -> None:
    from safetensors.torch import save_file

    network = randomized()
    path = tmp_path / f"own{suffix}"
    if suffix == ".pt":
        torch.save({"state_dict": network.state_dict()}, path)
    else:
        save_file(network.state_dict(), path)
    loaded = load_model(str(path), arch=f"{__name__}:Small")
    assert same(loaded.network, network)
    assert loaded.sha256 == weights_sha256(network)
    with pytest.raises(ModelError, match="name its network"):
        load_model(str(path))


def test_an_unknown_model_is_told() -> None:
    with pytest.raises(UnknownNameError, match="Carmon2019Unlabeled"):
        load_model("Carmon2019Unlabelled")


# ------------------------------------------------------------------ RobustBench


@pytest.fixture(scope="module")
def wong() -> nn.Module:
    """RobustBench's smallest architecture of the paper, with weights made here."""
    pytest.importorskip("timm")
    return build(MODELS["Wong2020"])


def test_robustbench_leaves_nothing_behind(wong: nn.Module) -> None:
    assert type(wong).__name__ == "Wong2020FastNet"
    assert "autoattack" not in sys.modules
    assert "autoattack.state" not in sys.modules


@pytest.mark.parametrize("prefix", ["", "module.model."])
def test_a_robustbench_checkpoint_loads(wong: nn.Module, tmp_path: Path, prefix: str) -> None:
    """Constants are missing, Namespace and NumPy scalars stand beside, as in old checkpoints."""
    state = OrderedDict(
        (prefix + name, tensor)
        for name, tensor in wong.state_dict().items()
        if name not in ("mu", "sigma")
    )
    checkpoint: Any = state
    if prefix:
        args = argparse.Namespace(lr=0.1, name="x")
        checkpoint = {
            "state_dict": state,
            "args": args,
            "best": np.float64(3),
            "epoch": np.int64(2),
        }
    save(tmp_path / "models/cifar10/Linf/Wong2020Fast.pt", checkpoint)
    loaded = load_model("Wong2020", cache=tmp_path, offline=True)
    assert loaded.name == "Wong2020Fast"
    assert same(loaded.network, wong)
    assert loaded.sha256 == weights_sha256(wong)


def test_a_robustbench_checkpoint_is_fetched_from_a_mirror(wong: nn.Module, tmp_path: Path) -> None:
    original = save(tmp_path / "original.pt", {"state_dict": wong.state_dict()})
    with Loopback() as server:
        server.files["/m/models/cifar10/Linf/Wong2020Fast.pt"] = original.read_bytes()
        for _ in range(2):
            loaded = load_model("Wong2020", cache=tmp_path / "c", mirrors=[server.url("/m")])
            assert same(loaded.network, wong)
        assert len(server.requests) == 1


def test_a_foreign_checkpoint_is_not_accepted(wong: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "models/cifar10/Linf/Wong2020Fast.pt"
    save(path, randomized().state_dict())
    with pytest.raises(FetchError, match=r"is wrong \(.*does not fit.* and offline"):
        load_model("Wong2020", cache=tmp_path, offline=True)


def test_an_unknown_id_is_told(wong: nn.Module) -> None:
    with pytest.raises(ModelError, match="no model Nobody2020 for cifar10 Linf"):
        architectures.build("cifar10", "Linf", "Nobody2020")
    with pytest.raises(ModelError, match="no models for mnist"):
        architectures.zoo("mnist", "Linf")


def test_cards_and_the_installed_robustbench_agree(wong: nn.Module) -> None:
    """Every card's id is there with the same weights; a sample of the layers is counted again."""
    for card in MODELS.values():
        if card.source == "robustbench":
            entry = architectures.zoo(card.dataset, card.threat_model)[card.source_id]
            drive = entry["gdrive_id"]
            if drive:
                listed = drive if isinstance(drive, list) else [drive]
                assert card.weights == tuple(f"gdrive:{part}" for part in listed)
    for name in ("Carmon2019", "Ding2020-L2", "Rebuffi2021Fixing_R18_ddpm", "Standard"):
        card = MODELS[name]
        with torch.device("meta"):
            network = build(card)
        layers = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
        assert len(layers) == card.batchnorm_layers
        assert sum(p.numel() for p in network.parameters()) == card.parameters


# ------------------------------------------------------------------ prefixes and misfits


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (["a.w", "b"], ["a.w", "b"]),
        (["module.a.w", "module.b"], ["a.w", "b"]),
        (["model.a.w", "model.b"], ["a.w", "b"]),
        (["module.model.a.w", "module.model.b"], ["a.w", "b"]),
        (["_orig_mod.a.w", "_orig_mod.b"], ["a.w", "b"]),
        (["a.w", "b"], ["model.a.w", "model.b", "normalize.mean"]),
        (["module.a.w", "module.b"], ["model.a.w", "model.b"]),
        (["module.model.a.w"], ["model.a.w"]),
    ],
)
def test_prefixes_by_rule(given: list[str], wanted: list[str]) -> None:
    fitted = fit_names({name: torch.zeros(1) for name in given}, wanted)
    assert set(fitted) <= set(wanted)
    assert len(fitted) == len(given)


@pytest.mark.parametrize("wrapper", ["state_dict", "model", "net", "model_state_dict"])
def test_wrappers_by_rule(wrapper: str) -> None:
    state = randomized().state_dict()
    assert state_dict_of({"epoch": 3, wrapper: state}, "x").keys() == state.keys()
    with pytest.raises(ModelError, match="x holds no state dict but a dict with epoch"):
        state_dict_of({"epoch": 3}, "x")


def broken(change: str) -> dict[str, Tensor]:
    state = dict(randomized().state_dict())
    if change == "missing":
        del state["conv.weight"], state["bn.running_mean"]
    elif change == "unexpected":
        state["fc.weight"] = torch.zeros(3)
    elif change == "shape":
        state["linear.weight"] = torch.zeros(100, 4)
    elif change == "type":
        state["linear.weight"] = torch.zeros(10, 4, dtype=torch.int64)
    elif change == "nan":
        state["bn.weight"] = torch.tensor([1.0, float("nan"), 1.0, 1.0])
    return state


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("missing", r"2 missing \(conv.weight, bn.running_mean\)"),
        ("unexpected", r"1 unexpected \(fc.weight\)"),
        ("shape", r"linear.weight of shape \(100, 4\), not \(10, 4\)"),
        ("type", r"linear.weight as torch.int64"),
        ("nan", r"bn.weight that are not finite"),
    ],
)
def test_what_does_not_fit_is_named(change: str, words: str) -> None:
    with pytest.raises(ModelError, match=words) as caught:
        load_state(Small(), broken(change), "own.pt")
    assert str(caught.value).startswith("own.pt ")
    assert "\n" not in str(caught.value)


def test_the_hash_is_of_the_weights_alone(tmp_path: Path) -> None:
    first, second = randomized(0), randomized(0)
    assert weights_sha256(first) == weights_sha256(second)
    with torch.no_grad():
        second.bn.bias[0] += 1e-6
    assert weights_sha256(first) != weights_sha256(second)


# ------------------------------------------------------------------ hostile files


class Gadget:
    """Pickles into a call of any function."""

    def __init__(self, function: Any, *arguments: object) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Any, tuple[object, ...]]:
        return self.function, self.arguments


def gadgets(target: str) -> dict[str, Gadget]:
    return {
        "system": Gadget(os.system, f"touch {target}"),
        "open": Gadget(open, target, "w"),
        "exec": Gadget(exec, f"open({target!r}, 'w')"),
        "eval": Gadget(eval, f"open({target!r}, 'w')"),
        "path": Gadget(Path.touch, Path(target)),
        "torch.load": Gadget(torch.load, target),
        "subclass": Gadget(getattr, object, "__subclasses__"),
    }


@pytest.mark.parametrize("kind", list(gadgets("x")))
@pytest.mark.parametrize("container", ["zip", "legacy", "bare"])
def test_a_hostile_checkpoint_executes_nothing(tmp_path: Path, kind: str, container: str) -> None:
    target = tmp_path / "touched"
    path = tmp_path / "hostile.pt"
    value = {"state_dict": {"w": torch.zeros(1)}, "args": gadgets(str(target))[kind]}
    if container == "bare":
        path.write_bytes(pickle.dumps(value["args"], protocol=2))
    else:
        torch.save(value, path, _use_new_zipfile_serialization=container == "zip")
    with pytest.raises(ModelError, match=r"hostile\.pt"):
        read_checkpoint(path)
    assert not target.exists()


def test_a_hostile_download_is_kept_aside(wong: nn.Module, tmp_path: Path) -> None:
    target = tmp_path / "touched"
    source = save(tmp_path / "hostile.pt", gadgets(str(target))["open"])
    with Loopback() as server:
        server.files["/models/cifar10/Linf/Wong2020Fast.pt"] = source.read_bytes()
        with pytest.raises(FetchError, match="nothing in it was executed"):
            from dentbench.zoo.download.sources import FetchOptions

            by_hand = server.url("/models/cifar10/Linf/Wong2020Fast.pt")
            models.fetch_model(
                MODELS["Wong2020"], FetchOptions(cache=tmp_path / "cache", by_hand=by_hand)
            )
    assert not target.exists()
    left = {path.name for path in (tmp_path / "cache/models/cifar10/Linf").glob("Wong*")}
    assert left == {"Wong2020Fast.pt.rejected", "Wong2020Fast.pt.rejected.txt"}


class Storage:
    """Pickles into a storage that declares ``count`` numbers."""

    def __init__(self, count: int) -> None:
        self.count = count


class Declared:
    """Pickles into a tensor of any shape and strides over a storage of any declared size."""

    def __init__(self, count: int, shape: tuple[int, ...], stride: tuple[int, ...]) -> None:
        self.arguments = (Storage(count), 0, shape, stride, False, OrderedDict())

    def __reduce__(self) -> tuple[Any, tuple[object, ...]]:
        return torch._utils._rebuild_tensor_v2, self.arguments


class DeclaringPickler(pickle.Pickler):
    def persistent_id(self, value: Any) -> Any:
        if isinstance(value, Storage):
            return "storage", torch.FloatStorage, "0", "cpu", value.count
        return None


def declaring(path: Path, value: object, prefix: str = "archive/") -> Path:
    """Write a checkpoint in torch's zip format whose only storage has 16 bytes."""
    pickled = io.BytesIO()
    DeclaringPickler(pickled, protocol=2).dump(value)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in {
            "data.pkl": pickled.getvalue(),
            "byteorder": b"little",
            "data/0": bytes(16),
            "version": b"3\n",
        }.items():
            archive.writestr(prefix + name, content)
    return path


HUGE = 10**12


@pytest.mark.parametrize("count", [5, 10**4, HUGE])
def test_a_storage_that_declares_more_than_it_has_is_refused(tmp_path: Path, count: int) -> None:
    path = declaring(tmp_path / "bomb.pt", {"w": Declared(count, (count,), (1,))})
    with pytest.raises(ModelError, match=r"bomb\.pt is not a checkpoint that can be read"):
        read_checkpoint(path)


def test_the_guard_does_not_need_a_recent_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = declaring(tmp_path / "bomb.pt", {"w": Declared(4, (4,), (1,))})
    assert read_checkpoint(path)["w"].shape == (4,)
    huge = {"nested": [{"w": torch.empty(path.stat().st_size // 4 + 1)}]}
    monkeypatch.setattr(torch, "load", lambda *_, **__: huge)
    with pytest.raises(ModelError, match=r"it declares [\d,]+ bytes of tensors in"):
        read_checkpoint(path)


def test_a_tensor_that_repeats_itself_is_refused_by_its_shape(tmp_path: Path) -> None:
    """A trillion numbers by declared shape, in 16 bytes: nothing looks at their values."""
    state = {"linear.weight": Declared(4, (HUGE // 10**6, 10**6), (0, 0))}
    path = declaring(tmp_path / "bomb.pt", state)
    with pytest.raises(ModelError, match=r"linear.weight of shape \(1000000, 1000000\)"):
        load_state(Small(), state_dict_of(read_checkpoint(path), "bomb.pt"), "bomb.pt")


@pytest.mark.parametrize("prefix", ["/etc/", "../../", "/"])
def test_absolute_paths_in_an_archive_write_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prefix: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = declaring(tmp_path / "odd.pt", {"w": Declared(4, (4,), (1,))}, prefix)
    before = {item: item.stat().st_mtime_ns for item in (tmp_path, tmp_path.parent, Path("/etc"))}
    try:
        assert read_checkpoint(path)["w"].tolist() == [0, 0, 0, 0]
    except ModelError as error:
        assert str(error).startswith("odd.pt is not a checkpoint")
    assert before == {item: item.stat().st_mtime_ns for item in before}
    assert [item.name for item in tmp_path.iterdir()] == ["odd.pt"]


def test_a_lying_directory_of_an_archive_is_refused(tmp_path: Path) -> None:
    """The central directory claims four gigabytes for the member of 16 bytes."""
    path = declaring(tmp_path / "bomb.pt", {"w": Declared(4, (4,), (1,))})
    content = bytearray(path.read_bytes())
    place = content.rindex(b"archive/data/0") - 46
    assert content[place : place + 4] == b"PK\x01\x02"
    content[place + 20 : place + 28] = b"\xfe\xff\xff\xff" * 2
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"bomb\.pt is not a checkpoint that can be read"):
        read_checkpoint(path)


def test_a_container_that_holds_itself_is_told(tmp_path: Path) -> None:
    value: dict[str, Any] = {"w": torch.zeros(1), "v": torch.zeros(1), "more": []}
    value["more"].append(value)
    value["more"].append([value["more"]] * 10)
    path = save(tmp_path / "loop.pt", value)
    assert list(state_dict_of(read_checkpoint(path), "loop.pt")) == ["w", "v"]


def test_a_compressed_checkpoint_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "plain.pt", {"w": torch.zeros(1000)})
    bomb = tmp_path / "bomb.pt"
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    with pytest.raises(ModelError, match="compressed"):
        read_checkpoint(bomb)


@pytest.mark.parametrize("content", [b"", b"hello", b"<!DOCTYPE html><html></html>", b"\x80\x02"])
def test_a_file_that_is_no_checkpoint_is_told(tmp_path: Path, content: bytes) -> None:
    for suffix in (".pt", ".safetensors"):
        path = tmp_path / f"odd{suffix}"
        path.write_bytes(content)
        with pytest.raises(ModelError, match=r"odd\."):
            read_checkpoint(path)


def test_a_truncated_checkpoint_is_told(tmp_path: Path) -> None:
    path = save(tmp_path / "cut.pt", {"w": torch.zeros(1000)})
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ModelError, match=r"cut\.pt"):
        read_checkpoint(path)
