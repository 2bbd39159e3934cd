"""The embedded networks and digits: shapes, sizes, and the accuracies that their cards state."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from dentbench.spec.evaluation import DentSpec
from dentbench.zoo.denoisers import DENOISERS, DenoiserRecipe, load_denoiser
from dentbench.zoo.networks import NETWORKS, Normalize, _EveryNth
from dentbench.zoo.training.seeded_training import perturb
from dentbench.zoo.training.train import ASSETS, DIGITS_ROBUST, read_digits
from dentbench.zoo.training.training_cards import DIGITS as DIGITS_SOURCE
from dentbench.zoo.training.training_cards import count_natural

SHAPES = {"DigitsResNet": (1, 8, 8), "ResNet-20": (3, 32, 32)}
WEIGHTS = sorted(ASSETS.glob("*.safetensors"))
DENOISED = {recipe.name for recipe in DENOISERS.values()}
EMBEDDED = [path for path in WEIGHTS if path.stem not in DENOISED]
DIGITS = [path for path in EMBEDDED if path.name.startswith("digits")]


def facts(weights: Path) -> dict[str, Any]:
    """The card beside the weights."""
    card: dict[str, Any] = json.loads(weights.with_suffix(".json").read_text(encoding="utf-8"))
    return card


def load(weights: Path) -> nn.Module:
    """The embedded network in eval mode, without gradients to its parameters."""
    model = NETWORKS[facts(weights)["architecture"]]()
    model.load_state_dict(load_file(weights))
    return model.eval().requires_grad_(False)


@pytest.mark.parametrize(
    ("name", "parameters", "layers"), [("DigitsResNet", 77_562, 7), ("ResNet-20", 269_722, 19)]
)
def test_sizes(name: str, parameters: int, layers: int) -> None:
    model = NETWORKS[name]()
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    assert sum(isinstance(module, nn.BatchNorm2d) for module in model.modules()) == layers


@pytest.mark.parametrize("name", list(NETWORKS))
def test_logits_and_a_contiguous_input_gradient(name: str) -> None:
    model = NETWORKS[name]().eval()
    x = torch.rand(3, *SHAPES[name], requires_grad=True)
    logits = model(x)
    assert logits.shape == (3, 10)
    (gradient,) = torch.autograd.grad(logits.sum(), x)
    assert gradient.shape == x.shape
    assert gradient.is_contiguous()


@pytest.mark.parametrize("name", list(NETWORKS))
def test_gradients_keep_the_layout_of_the_activations(name: str) -> None:
    model = NETWORKS[name]().eval().to(memory_format=torch.channels_last)
    kept = []

    def watch(_: nn.Module, __: Any, output: Tensor) -> None:
        if output.ndim == 4 and output.shape[1] > 1:
            output.register_hook(lambda grad: kept.append(grad.stride(1) == 1))

    for module in model.modules():
        module.register_forward_hook(watch)
    x = torch.rand(3, *SHAPES[name]).contiguous(memory_format=torch.channels_last)
    model(x.requires_grad_()).sum().backward()
    assert len(kept) > 10 and all(kept)


@pytest.mark.parametrize("n", [2, 3])
def test_every_nth_is_differentiable_as_indexing_is(n: int) -> None:
    x = torch.rand(2, 3, 5, 7, dtype=torch.float64, requires_grad=True)
    assert torch.equal(_EveryNth.apply(x, n), x[:, :, ::n, ::n])
    assert torch.autograd.gradgradcheck(lambda x: _EveryNth.apply(x, n), x)
    assert torch.autograd.gradcheck(lambda x: _EveryNth.apply(x.square(), n), x)


@pytest.mark.parametrize("name", list(NETWORKS))
def test_every_batchnorm_reaches_the_logits(name: str) -> None:
    model = NETWORKS[name]()
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    loss = model(torch.rand(4, *SHAPES[name])).square().sum()
    gradients = torch.autograd.grad(loss, [norm.weight for norm in norms])
    assert all(gradient.abs().sum() > 0 for gradient in gradients)


def test_normalization_is_inside() -> None:
    model = NETWORKS["ResNet-20"]()
    buffers = dict(model.named_buffers())
    mean, std = buffers["normalize.mean"], buffers["normalize.std"]
    x = torch.rand(2, 3, 32, 32)
    layer = Normalize(mean.flatten().tolist(), std.flatten().tolist())
    assert torch.allclose(layer(x), (x - mean) / std)
    # Undoing it outside must change the logits of a network that starts with it.
    assert not torch.allclose(model.eval()(x), model(x * std + mean), atol=1e-3)


def test_digits_are_normalized_by_their_training_images() -> None:
    images = read_digits("train").images()
    buffers = dict(NETWORKS["DigitsResNet"]().named_buffers())
    assert buffers["normalize.mean"].item() == pytest.approx(images.mean().item(), abs=1e-3)
    assert buffers["normalize.std"].item() == pytest.approx(images.std().item(), abs=1e-3)


def test_digits_npz() -> None:
    with np.load(ASSETS / "digits.npz") as file:
        assert file["images"].shape == (1797, 8, 8)
        assert (file["images"].min(), file["images"].max()) == (0, 16)
        assert np.bincount(file["labels"]).tolist() == [
            178, 182, 177, 183, 181, 182, 181, 179, 174, 180,
        ]  # fmt: skip
        train, test = file["train"], file["test"]
        assert (len(train), len(test)) == (1297, 500)
        assert sorted([*train, *test]) == list(range(1797))
        assert set(file["labels"][test]) == set(range(10))


def test_digits_split() -> None:
    train, test = read_digits("train"), read_digits("test")
    assert train.pixels.shape == (1297, 1, 8, 8)
    assert test.images().shape == (500, 1, 8, 8)
    assert (float(test.images().min()), float(test.images().max())) == (0.0, 1.0)
    assert test.labels.dtype == torch.int64


@pytest.mark.parametrize("weights", EMBEDDED, ids=lambda path: path.stem)
def test_weights_fit_their_card(weights: Path) -> None:
    card = facts(weights)
    assert card["id"] == weights.stem
    assert card["weights_sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert all(value.isfinite().all() for value in load_file(weights).values())
    model = load(weights)
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert card["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    assert card["batchnorm_layers"] == len(norms)
    assert card["batchnorm_parameters"] == sum(2 * norm.num_features for norm in norms)


@pytest.mark.parametrize("weights", EMBEDDED, ids=lambda path: path.stem)
def test_figures_on_the_jpeg_copy_never_pass_for_cifar10(weights: Path) -> None:
    card = facts(weights)
    if card["dataset"] == "cifar10":
        assert card["training"]["data"] == card["measured"]["data"] == "CIFAR-10 (JPEG copy)"
        assert card["clean"] is None
        assert card["autoattack"] is None


@pytest.mark.parametrize("recipe", DENOISERS.values(), ids=lambda recipe: recipe.name)
def test_denoisers_fit_their_recipes_and_what_is_told_of_them(recipe: DenoiserRecipe) -> None:
    """A denoiser is no network to evaluate: its recipe is in its file, and a page tells of all."""
    path = ASSETS / f"{recipe.name}.safetensors"
    assert path in WEIGHTS and not path.with_suffix(".json").exists()
    with safe_open(path, "pt") as file:
        header = file.metadata()
    assert json.loads(header["recipe"]) == json.loads(json.dumps(asdict(recipe)))
    assert all(value.isfinite().all() for value in load_file(path).values())
    assert (
        load_denoiser(recipe.shape)(torch.rand(2, *recipe.shape), torch.full((2,), 0.1))
        .isfinite()
        .all()
    )
    shape = "x".join(map(str, recipe.shape))
    trained = f"{recipe.steps:,} of {recipe.batch} images"
    row = f"| `{recipe.name}` | {shape} | {trained} | {header['loss']} |"
    assert row in (ASSETS / "denoisers.md").read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("weights", DIGITS, ids=lambda path: path.stem)
def test_what_a_card_recommends_is_a_dent_setting(weights: Path) -> None:
    card = facts(weights)
    assert card["recommended"] == DIGITS_SOURCE.recommended
    assert card["recommended_note"] == DIGITS_SOURCE.recommended_note
    DentSpec(**card["recommended"])


def test_the_digits_networks_are_embedded() -> None:
    assert {path.stem for path in DIGITS} >= {"digits-robust", "digits-nominal"}
    assert all(path.stat().st_size < 500_000 for path in ASSETS.glob("digits*"))


@pytest.mark.parametrize("weights", DIGITS, ids=lambda path: path.stem)
def test_natural_accuracy_is_the_cards(weights: Path) -> None:
    stated = facts(weights)["measured"]["natural"]
    assert stated["total"] == 500
    # Another machine's arithmetic may turn an image that lies on the border.
    assert abs(count_natural(load(weights), read_digits("test")) - stated["correct"]) <= 1


@pytest.mark.parametrize("weights", DIGITS, ids=lambda path: path.stem)
def test_a_short_attack_agrees_with_the_stated_robustness(weights: Path) -> None:
    """AutoAttack breaks every image that seven PGD steps break, bar a few, and some more."""
    model, data = load(weights), read_digits("test")
    rng = torch.Generator().manual_seed(0)
    x = perturb(model, data.images(), data.labels, DIGITS_ROBUST, rng)
    survivors = int((model(x).argmax(1) == data.labels).sum())
    stated = facts(weights)["measured"]["robust"][0]["correct"]
    assert stated - 5 <= survivors <= stated + 75
