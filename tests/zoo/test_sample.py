"""The CIFAR-10 sample of the foolbox package: a stand-in folder, and the package if it is there."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dentbench.errors import DataError
from dentbench.zoo.cards.dataset_cards import DATASETS
from dentbench.zoo.datasets import load_dataset

NAME = "CIFAR-10 (first 20 test images)"
PIXELS = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)
INSTALLED = importlib.util.find_spec("foolbox") is not None


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package called foolbox that cannot be imported, with the sample's files."""
    folder = tmp_path / "foolbox" / "data"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").write_text("raise ImportError('it must not be imported')\n")
    for number, pixels in enumerate(PIXELS):
        Image.fromarray(pixels).save(folder / f"cifar10_{number:02d}_{number % 7}.png")
    Image.fromarray(PIXELS[0]).save(folder / "cifar100_00_49.png")
    Image.fromarray(PIXELS[0]).save(folder / "mnist_00_7.png")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "foolbox", raising=False)
    return folder


def test_images_come_in_order_with_the_labels_of_their_names(package: Path) -> None:
    data = load_dataset("cifar10-sample", offline=True)
    assert (data.name, data.classes, len(data)) == (NAME, 10, 20)
    assert np.array_equal(
        (data.images * 255).round().numpy().astype(np.uint8), PIXELS.transpose(0, 3, 1, 2)
    )
    assert data.labels.tolist() == [number % 7 for number in range(20)]
    assert "foolbox" not in sys.modules
    assert package.is_dir()


def test_a_missing_image_is_told(package: Path) -> None:
    (package / "cifar10_07_0.png").unlink()
    with pytest.raises(DataError, match=r"19 of the 20 images .*dentbench\[sample\]"):
        load_dataset("cifar10-sample")


def test_a_broken_image_is_told(package: Path) -> None:
    (package / "cifar10_07_0.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match="cannot be decoded"):
        load_dataset("cifar10-sample")


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"foolbox, which is not installed; .*dentbench\[sample\]"):
        load_dataset("cifar10-sample")


def test_it_is_never_called_cifar10() -> None:
    from dentbench.report.departures import OFFICIAL_NAMES

    assert DATASETS["cifar10-sample"].name == NAME
    assert NAME not in OFFICIAL_NAMES


@pytest.mark.skipif(not INSTALLED, reason="foolbox (extra dentbench[sample]) is not installed")
def test_the_package_has_the_first_test_images() -> None:
    data = load_dataset("cifar10-sample")
    assert data.images.shape == (20, 3, 32, 32) and data.name == NAME
    assert data.labels.tolist() == [3, 8, 8, 0, 6, 6, 1, 6, 3, 1, 0, 9, 5, 7, 9, 8, 5, 7, 8, 6]
