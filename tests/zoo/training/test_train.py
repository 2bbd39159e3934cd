"""Training: the loss falls, a seed fixes the run, a killed run continues, measuring is right."""

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dentbench.errors import DataError
from dentbench.zoo.training import train, training_cards
from dentbench.zoo.training.seeded_training import (
    Recipe,
    Split,
    Training,
    augment,
    fit,
    nominal,
    perturb,
)

TINY = replace(train.DIGITS_ROBUST, epochs=2, batch=32, steps=2, crop=1, flip=True)


@pytest.fixture(scope="module")
def digits() -> Split:
    """The first 96 training images."""
    data = train.read_digits("train")
    return Split(data.pixels[:96], data.labels[:96], data.white)


def weights(model: nn.Module) -> Tensor:
    """All of a network's floating-point state as one vector."""
    values = model.state_dict().values()
    return torch.cat([value.flatten() for value in values if value.is_floating_point()])


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_loss_falls_and_the_seed_fixes_the_run(digits: Split) -> None:
    before = torch.get_rng_state()
    first, losses = fit(TINY, digits)
    again, _ = fit(TINY, digits)
    other, _ = fit(replace(TINY, seed=1), digits)
    assert losses[-1] < losses[0]
    assert torch.equal(weights(first), weights(again))
    assert not torch.equal(weights(first), weights(other))
    assert not first.training
    assert torch.equal(torch.get_rng_state(), before)


def test_a_killed_run_continues_as_if_uninterrupted(digits: Split, tmp_path: Path) -> None:
    path = tmp_path / "run.checkpoint"
    begun = Training(TINY, digits)
    begun.epoch()
    begun.save(path)
    resumed, _ = fit(TINY, digits, path)
    whole, _ = fit(TINY, digits)
    assert torch.equal(weights(resumed), weights(whole))
    with pytest.raises(DataError, match="another recipe"):
        fit(replace(TINY, seed=1), digits, path)


def test_the_attack_stays_in_the_ball_and_raises_the_loss(digits: Split) -> None:
    model, _ = fit(nominal(replace(TINY, epochs=5)), digits)
    x = digits.images()
    recipe = replace(TINY, steps=5, noise=2.0)
    actual = perturb(model, x, digits.labels, recipe, rng())
    assert (actual - x).abs().max() <= recipe.eps + 1e-6
    assert (float(actual.min()), float(actual.max())) == (0.0, 1.0)
    loss = nn.functional.cross_entropy
    assert loss(model(actual), digits.labels) > loss(model(x), digits.labels)
    assert perturb(model, x, digits.labels, nominal(recipe), rng()) is x


def test_augmentation_shifts_and_mirrors() -> None:
    pixels = torch.zeros(64, 1, 8, 8, dtype=torch.uint8)
    pixels[:, :, 4, 2] = 9
    moved = augment(pixels, TINY, rng())
    assert moved.shape == pixels.shape
    assert (moved == 9).sum() == 64
    _, _, rows, columns = torch.where(moved == 9)
    assert set(rows.tolist()) == {3, 4, 5}
    assert set(columns.tolist()) == {1, 2, 3, 4, 5, 6}
    assert augment(pixels, replace(TINY, crop=0, flip=False), rng()) is pixels


class Linear(nn.Module):
    """Logits linear in the pixels, so that its exact robustness is known."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(12, 10, bias=False)
        nn.init.normal_(self.layer.weight, generator=rng())

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.layer(x.flatten(1))
        return logits


def test_robust_counts_match_a_linear_models_exact_ones() -> None:
    pytest.importorskip("pyautoattack")
    model, eps = Linear().requires_grad_(False), 0.05
    x = torch.rand(64, 3, 2, 2, generator=rng()) * 0.9 + 0.05
    logits = model(x)
    labels = logits.argmax(1)
    rows = model.layer.weight
    cost = eps * (rows[labels][:, None] - rows).abs().sum(2)
    margin = logits.gather(1, labels[:, None]) - logits - cost
    margin.scatter_(1, labels[:, None], float("inf"))
    expected = int((margin.amin(1) > 0).sum())
    assert 0 < expected < 64
    assert training_cards.count_robust(model, x, labels, eps, training_cards.APGD) == expected


def test_a_model_and_its_card_are_written(
    digits: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_cards, "count_robust", lambda *_: 7)
    recipe = nominal(replace(TINY, epochs=1))
    weights, model = train.trained(recipe, digits, tmp_path)
    training_cards.describe(recipe, training_cards.DIGITS, digits, weights)
    card = json.loads((tmp_path / "digits-nominal.json").read_text(encoding="utf-8"))
    assert card["measured"]["natural"]["total"] == 96
    assert card["autoattack"] == round(100 * 7 / 96, 2)
    assert card["measured"]["natural"]["correct"] == training_cards.count_natural(model, digits)
    assert card["training"]["recipe"]["steps"] == 0
    assert card["training"]["threads"] == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "digits-nominal.json",
        "digits-nominal.safetensors",
    ]


def test_the_digits_can_be_made_again(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    train.main(["digits-data", "--out", str(tmp_path)])
    with np.load(tmp_path / "digits.npz") as made, np.load(train.ASSETS / "digits.npz") as ours:
        assert made.files == ours.files
        assert all(np.array_equal(made[name], ours[name]) for name in ours.files)


def test_parquet_images_are_read_in_order(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    image = pytest.importorskip("PIL.Image")
    from pyarrow import parquet

    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    rows = []
    for index, array in enumerate(pixels):
        buffer = io.BytesIO()
        image.fromarray(array).save(buffer, "PNG")
        rows.append({"bytes": buffer.getvalue(), "path": f"{index}.png"})
    path = tmp_path / "images.parquet"
    parquet.write_table(pyarrow.table({"img": rows, "label": [3, 1, 2]}), path)
    data = train.read_cifar10(path)
    assert data.labels.tolist() == [3, 1, 2]
    assert np.array_equal(data.pixels.permute(0, 2, 3, 1).numpy(), pixels)
    assert data.white == 255
    with pytest.raises(DataError):
        train.read_cifar10(tmp_path / "missing.parquet")


def test_the_recipes_differ_from_nominal_ones_by_the_attack_only() -> None:
    for recipe in (train.DIGITS_ROBUST, train.CIFAR10_ROBUST):
        plain: Recipe = nominal(recipe)
        assert plain.name.endswith("-nominal")
        assert plain == replace(recipe, name=plain.name, eps=0.0, noise=0.0, step=0.0, steps=0)


def test_cifar10_weights_trained_elsewhere_are_described(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a GPU trains them: a function call there, the card made here."""
    monkeypatch.setattr(training_cards, "count_robust", lambda *_: 7)
    pixels = torch.randint(256, (32, 3, 32, 32), generator=rng(), dtype=torch.uint8)
    data = Split(pixels, torch.arange(32) % 10, white=255)
    recipe = replace(nominal(train.CIFAR10_ROBUST), epochs=1, batch=16)
    weights, _ = train.trained(recipe, data, tmp_path)
    monkeypatch.setattr(train, "read_cifar10", lambda path: data)
    words = ["cifar10", "--nominal", "--weights", str(weights), "--test", "any.parquet"]
    train.main([*words, "--out", str(tmp_path), "--threads", "1"])
    card = json.loads((tmp_path / "cifar10-resnet20-nominal.json").read_text(encoding="utf-8"))
    assert card["id"] == "cifar10-resnet20-nominal"
    assert card["measured"]["natural"]["total"] == 32
    assert card["training"]["torch"] == torch.__version__.partition("+")[0]
    before, after = train.calibrated(Split(torch.zeros(2500, 1, 1, 1), torch.arange(2500), 1))
    assert (len(before.labels), int(after.labels[0])) == (500, 500)
