"""Corruption sets: Zenodo's files by their hashes, a fifth of each, unpacked or in the archive."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import tarfile
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch

from dentbench.errors import DataError, FetchError, SpecError, UnknownNameError
from dentbench.zoo.cards import dataset_cards
from dentbench.zoo.cards.dataset_cards import DATASETS, DatasetCard
from dentbench.zoo.data_choice import DataChoice
from dentbench.zoo.datasets import load_dataset
from dentbench.zoo.download.sources import FetchOptions, fetch_dataset_file
from dentbench.zoo.images.corruptions import CORRUPTIONS, FIFTEEN, chosen, parse_title, title
from tests.zoo.download.loopback import Loopback

RNG = np.random.default_rng(0)
ROWS = 4
IMAGES = {
    name: RNG.integers(0, 256, (5 * ROWS, 32, 32, 3), dtype=np.uint8)
    for name in ("fog", "gaussian_noise")
}
LABELS = np.tile(np.arange(ROWS) % 10, 5)


def npy(array: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


FILES = {name: npy(array) for name, array in {**IMAGES, "labels": LABELS}.items()}


def tar(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(f"CIFAR-10-C/{name}.npy")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> DatasetCard:
    """The card of CIFAR-10-C, with the hashes of the small stand-ins that these tests make."""
    for name in ("DENTBENCH_OFFLINE", "DENTBENCH_MIRRORS"):
        monkeypatch.delenv(name, raising=False)
    known = {name: hashlib.md5(content).hexdigest() for name, content in FILES.items()}
    changed = dataclasses.replace(
        DATASETS["cifar10-c"],
        corruptions=MappingProxyType(known),
        archive_md5=hashlib.md5(tar(FILES)).hexdigest(),
        archive_size=len(tar(FILES)),
        archive_url="http://127.0.0.1:9/CIFAR-10-C.tar",
    )
    monkeypatch.setitem(dataset_cards.DATASETS._values, "cifar10-c", changed)
    return changed


def unpacked(folder: Path, files: dict[str, bytes] = FILES) -> Path:
    (folder / "CIFAR-10-C").mkdir(parents=True)
    for name, content in files.items():
        (folder / "CIFAR-10-C" / f"{name}.npy").write_bytes(content)
    return folder


def expected(corruption: str, severity: int) -> torch.Tensor:
    part = IMAGES[corruption][(severity - 1) * ROWS : severity * ROWS]
    return torch.from_numpy(part).movedim(3, 1) / 255


@pytest.mark.parametrize("below", ["", "CIFAR-10-C"])
@pytest.mark.parametrize(("corruption", "severity"), [("fog", 1), ("gaussian_noise", 5)])
def test_a_severity_is_its_fifth(
    card: DatasetCard, tmp_path: Path, below: str, corruption: str, severity: int
) -> None:
    folder = unpacked(tmp_path) / below
    data = load_dataset(
        "cifar10-c", DataChoice(folder=folder, corruption=corruption, severity=severity)
    )
    torch.testing.assert_close(data.images[0:ROWS], expected(corruption, severity))
    assert data.labels.tolist() == [0, 1, 2, 3]
    assert (data.name, data.classes) == (f"CIFAR-10-C {corruption}, severity {severity}", 10)


def test_the_archive_is_fetched_and_read_as_it_is(card: DatasetCard, tmp_path: Path) -> None:
    with Loopback() as server:
        server.files["/m/CIFAR-10-C.tar"] = tar(FILES)
        where = {"cache": tmp_path, "mirrors": (server.url("/m"),)}
        for corruption in IMAGES:
            data = load_dataset("cifar10-c", DataChoice(corruption=corruption, severity=3), **where)
            torch.testing.assert_close(data.images[0:ROWS], expected(corruption, 3))
        assert len(server.requests) == 1
    assert (tmp_path / "data/CIFAR-10-C.tar").exists()


def test_files_unpacked_into_the_cache_are_found(card: DatasetCard, tmp_path: Path) -> None:
    unpacked(tmp_path / "data")
    choice = DataChoice(corruption="fog", severity=2)
    data = load_dataset("cifar10-c", choice, cache=tmp_path, offline=True)
    torch.testing.assert_close(data.images[0:ROWS], expected("fog", 2))


def test_a_wrong_archive_is_not_accepted(card: DatasetCard, tmp_path: Path) -> None:
    with Loopback() as server:
        server.files["/x.tar"] = tar(FILES)[:-512] + bytes([1]) * 512
        request = FetchOptions(cache=tmp_path, by_hand=server.url("/x.tar"))
        with pytest.raises(FetchError, match="its md5 is"):
            fetch_dataset_file(card, request)
        server.files["/x.tar"] = tar(FILES)[:-512]
        with pytest.raises(FetchError, match=r"bytes instead of"):
            fetch_dataset_file(card, request)
    assert not (tmp_path / "data/CIFAR-10-C.tar").exists()


def test_another_file_is_told_unless_it_is_named(card: DatasetCard, tmp_path: Path) -> None:
    other = npy(IMAGES["fog"][::-1].copy())
    folder = unpacked(tmp_path, {**FILES, "fog": other})
    choice = DataChoice(folder=folder, corruption="fog", severity=1)
    with pytest.raises(DataError, match=r"fog.npy is not the official file of CIFAR-10-C: its md5"):
        load_dataset("cifar10-c", choice)
    named = dataclasses.replace(choice, data_name="mine")
    assert load_dataset("cifar10-c", named).name == "mine fog, severity 1"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"no array", "fog.npy is not a file of a corruption set"),
        (npy(np.array([None], dtype=object)), "holds object"),
        (npy(IMAGES["fog"])[:-1], "truncated"),
        (npy(IMAGES["fog"][:7]), r"of shape \(7, 32, 32, 3\)"),
        (npy(IMAGES["fog"][..., 0]), "images of shape"),
        (npy(IMAGES["fog"].astype(np.int64)), "images of type int64"),
    ],
)
def test_a_bad_file_is_told(card: DatasetCard, tmp_path: Path, content: bytes, words: str) -> None:
    folder = unpacked(tmp_path, {**FILES, "fog": content})
    choice = DataChoice(folder=folder, corruption="fog", severity=5, data_name="mine")
    with pytest.raises(DataError, match=words) as caught:
        load_dataset("cifar10-c", choice)
    assert "\n" not in str(caught.value)


def test_what_is_not_there_is_told(card: DatasetCard, tmp_path: Path) -> None:
    missing = DataChoice(folder=tmp_path, corruption="fog", severity=5)
    with pytest.raises(DataError, match=r"fog.npy of CIFAR-10-C is not below .*--data-dir"):
        load_dataset("cifar10-c", missing)
    with pytest.raises(FetchError, match=r"CIFAR-10-C.tar is not there and offline"):
        load_dataset(
            "cifar10-c", DataChoice(corruption="fog", severity=5), cache=tmp_path, offline=True
        )
    with pytest.raises(DataError, match="many parts"):
        load_dataset("cifar10-c", cache=tmp_path, offline=True)
    with pytest.raises(FetchError, match="is a folder, and --from imports a single file"):
        fetch_dataset_file(card, FetchOptions(cache=tmp_path, by_hand=str(tmp_path)))


def test_names() -> None:
    assert len(FIFTEEN) == 15 and len(CORRUPTIONS) == 19
    for name in ("cifar10-c", "cifar100-c"):
        assert DATASETS[name].corruptions.keys() == {*CORRUPTIONS, "labels"}
    assert chosen((), ()) == [(name, 5) for name in FIFTEEN]
    assert chosen(("gaussian-noise", "Fog"), (1, 2)) == [
        ("gaussian_noise", 1),
        ("fog", 1),
        ("gaussian_noise", 2),
        ("fog", 2),
    ]
    with pytest.raises(UnknownNameError, match="did you mean fog"):
        chosen(("frog",), ())
    with pytest.raises(SpecError, match="severity is 6; allowed: 1 to 5"):
        chosen((), (6,))
    assert parse_title(title("CIFAR-100-C", "fog", 3)) == ("CIFAR-100-C", "fog", 3)
    assert parse_title("CIFAR-10 (test)") is None


def test_the_fifteen_are_robustbenchs() -> None:
    pytest.importorskip("timm")
    from dentbench.zoo.robustbench.architectures import model_dicts

    model_dicts()
    import sys

    data = sys.modules["robustbench.data"]
    assert set(data.CORRUPTIONS) == set(FIFTEEN)
    for dataset, (number, names) in data.ZENODO_CORRUPTIONS_LINKS.items():
        card = DATASETS[f"{dataset.value}-c"]
        assert card.url.endswith(number) and {f"{card.name}.tar"} == names
