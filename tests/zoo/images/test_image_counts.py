"""How many images there are, told from a card or the head of a file: as many as are loaded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dentbench.zoo.cards.dataset_cards import DATASETS
from dentbench.zoo.datasets import load_dataset
from dentbench.zoo.images.image_counts import images_there


@pytest.mark.parametrize("name", ["digits", "cifar10-sample"])
def test_cards_say_what_is_loaded(name: str) -> None:
    if name == "cifar10-sample":
        pytest.importorskip("foolbox")
    assert images_there(DATASETS[name].name) == len(load_dataset(name))


def test_named_sets_of_downloads() -> None:
    names = (DATASETS[name].name for name in ("cifar10", "cifar100", "imagenet"))
    assert [*map(images_there, names)] == [10_000, 10_000, 5_000]
    assert (
        images_there("CIFAR-10-C fog, severity 3") == 10_000 and images_there("of my own") is None
    )


def test_files_and_folders_of_ones_own(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    import pyarrow
    import pyarrow.parquet

    pixels = np.zeros((7, 3, 4, 4), dtype=np.uint8)
    np.savez_compressed(tmp_path / "a.npz", X=pixels, Y=np.zeros(7, dtype=np.int64))
    for number in range(3):
        path = tmp_path / "pictures" / f"class{number % 2}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[0].transpose(1, 2, 0)).save(path)
    cell = {"bytes": path.read_bytes()}
    pyarrow.parquet.write_table(
        pyarrow.table({"image": [cell] * 5, "label": [0, 1, 0, 1, 0]}), tmp_path / "b.parquet"
    )
    for name, count in (("a.npz", 7), ("pictures", 3), ("b.parquet", 5)):
        assert images_there("x", str(tmp_path / name)) == count
        assert len(load_dataset(str(tmp_path / name))) == count
    assert images_there("x", str(tmp_path / "gone.npz")) is None
