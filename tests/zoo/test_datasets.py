"""Data sets: honest names, images in [0, 1], and one sentence for whatever is wrong."""

import dataclasses
import hashlib
import importlib.util
import io
import os
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from PIL import Image

from dentbench.errors import DataError, FetchError, UnknownNameError
from dentbench.zoo import datasets
from dentbench.zoo.cards import dataset_cards
from dentbench.zoo.cards.dataset_cards import DATASETS, DatasetCard
from dentbench.zoo.datasets import load_dataset
from dentbench.zoo.download.cached_files import is_cached, problems, remove
from dentbench.zoo.download.transfer import Policy
from dentbench.zoo.images import datafiles
from dentbench.zoo.images.arrays import Dataset, slice_of
from tests.zoo.download.loopback import Loopback

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)
LABELS = np.arange(12) % 10


def encoded(pixels: Any, form: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form)
    return buffer.getvalue()


def parquet(
    path: Path,
    *,
    images: str = "img",
    label: str = "label",
    labels: Any = LABELS,
    cells: Any = None,
    metadata: dict[str, str] | None = None,
) -> Path:
    cells = [{"bytes": encoded(p), "path": None} for p in PIXELS] if cells is None else cells
    table = pyarrow.table({images: cells, label: labels})
    pyarrow.parquet.write_table(table.replace_schema_metadata(metadata), path)
    return path


def npz(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


# ------------------------------------------------------------------ embedded digits


def test_digits_are_embedded() -> None:
    data = load_dataset("digits", offline=True)
    assert (data.name, data.classes, len(data)) == ("UCI digits (test)", 10, 500)
    assert data.images.shape == (500, 1, 8, 8)
    assert data.images.dtype == torch.float32
    assert data.labels.dtype == torch.int64
    assert (float(data.images.min()), float(data.images.max())) == (0, 1)
    assert data.labels.unique().tolist() == list(range(10))
    assert load_dataset("UCI-digits").images.equal(data.images)


# ------------------------------------------------------------------ files of one's own


@pytest.mark.parametrize(("images", "label"), [("img", "label"), ("image", "label")])
def test_parquet_in_the_public_layout(tmp_path: Path, images: str, label: str) -> None:
    data = load_dataset(str(parquet(tmp_path / "my-copy.parquet", images=images, label=label)))
    assert (data.name, data.classes, len(data)) == ("my-copy", 10, 12)
    assert torch.equal((data.images * 255).round().byte(), torch.from_numpy(PIXELS).movedim(3, 1))
    assert data.labels.tolist() == LABELS.tolist()


def test_the_names_of_a_file(tmp_path: Path) -> None:
    plain = parquet(tmp_path / "cifar10-jpeg-test.parquet")
    named = parquet(tmp_path / "x.parquet", metadata={"name": "CIFAR-10 (JPEG copy)"})
    assert load_dataset(str(plain)).name == "cifar10-jpeg-test"
    assert load_dataset(str(named)).name == "CIFAR-10 (JPEG copy)"
    assert load_dataset(str(named), data_name="mine").name == "mine"
    with pytest.raises(DataError, match="files of your own"):
        load_dataset("digits", data_name="CIFAR-10")


def test_declared_classes(tmp_path: Path) -> None:
    features = '{"info": {"features": {"label": {"names": ["a", "b", "c"]}}}}'
    path = parquet(tmp_path / "x.parquet", labels=LABELS % 2, metadata={"huggingface": features})
    assert load_dataset(str(path)).classes == 3
    path = parquet(tmp_path / "y.parquet", metadata={"huggingface": features})
    with pytest.raises(DataError, match="labels out of range, from 0 to 9; they must be 0 to 2"):
        load_dataset(str(path))


def test_gray_images(tmp_path: Path) -> None:
    cells = [{"bytes": encoded(pixels[..., 0])} for pixels in PIXELS]
    assert load_dataset(str(parquet(tmp_path / "x.parquet", cells=cells))).images.shape[1] == 1


@pytest.mark.parametrize(
    "arrays",
    [
        pytest.param({"images": PIXELS, "labels": LABELS}, id="uint8 NHWC"),
        pytest.param({"images": PIXELS.transpose(0, 3, 1, 2), "labels": LABELS}, id="uint8 NCHW"),
        pytest.param({"x": PIXELS / 255, "y": LABELS.astype(np.uint8)}, id="float64 NHWC"),
        pytest.param({"X": (PIXELS / 255).astype(np.float32), "Y": LABELS}, id="float32, X and Y"),
    ],
)
def test_npz(tmp_path: Path, arrays: dict[str, Any]) -> None:
    data = load_dataset(str(npz(tmp_path / "mine.npz", **arrays)))
    assert (data.name, data.classes) == ("mine", 10)
    assert data.images.shape == (12, 3, 32, 32)
    assert data.images.is_contiguous()
    expected = torch.from_numpy(PIXELS).movedim(3, 1) / 255
    torch.testing.assert_close(data.images, expected)


def test_npz_may_say_how_many_classes(tmp_path: Path) -> None:
    path = npz(tmp_path / "x.npz", images=PIXELS, labels=LABELS, classes=100)
    assert load_dataset(str(path)).classes == 100


# ------------------------------------------------------------------ what is refused


def arrays(**changes: Any) -> Callable[[Path], Path]:
    given = {"images": PIXELS, "labels": LABELS} | changes
    return lambda folder: npz(
        folder / "bad.npz", **{k: v for k, v in given.items() if v is not None}
    )


def content(name: str, data: bytes) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / name).write_bytes(data)
        return folder / name

    return write


def cut(make: Callable[[Path], Path]) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        path = make(folder)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        return path

    return write


def table(**options: Any) -> Callable[[Path], Path]:
    return lambda folder: parquet(folder / "bad.parquet", **options)


FLOATS = (PIXELS / 255).astype(np.float32)
HOSTILE = np.array([None], dtype=object)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        pytest.param(lambda f: f / "no.npz", "there is no data file", id="missing"),
        pytest.param(lambda f: Path("https://x.org/a.npz"), "is an address; download", id="URL"),
        pytest.param(content("bad.txt", b"x"), "not data that can be read", id="foreign"),
        pytest.param(content("bad.npz", b""), "not an npz", id="empty npz"),
        pytest.param(content("bad.npz", b"hello"), "it is plain text", id="text npz"),
        pytest.param(content("bad.npz", b"<html>"), "it is a web page", id="page npz"),
        pytest.param(content("bad.npy", b"x"), r"np\.savez", id="one array"),
        pytest.param(content("bad.parquet", b"hello"), "not a parquet", id="text parquet"),
        pytest.param(cut(arrays()), "a zip archive that is cut off", id="truncated npz"),
        pytest.param(cut(table()), "a parquet file that is cut off", id="truncated parquet"),
        pytest.param(
            arrays(labels=None),
            "it has images, not images and labels, or x and y; write",
            id="no labels",
        ),
        pytest.param(arrays(images=HOSTILE), "it holds Python objects", id="pickled objects"),
        pytest.param(arrays(labels=LABELS - 1), "labels out of range, from -1", id="negative"),
        pytest.param(arrays(labels=LABELS + 100_000), "out of range", id="huge labels"),
        pytest.param(
            arrays(labels=LABELS.astype(np.uint64) + np.uint64(2**63)),
            "labels up to 92233720368547758",
            id="labels beyond int64",
        ),
        pytest.param(arrays(classes=5), "out of range, from 0 to 9; .* 0 to 4", id="classes"),
        pytest.param(arrays(labels=LABELS * 1.5), "labels of type float64", id="float labels"),
        pytest.param(arrays(labels=LABELS[:5]), "12 images but 5 labels", id="lengths"),
        pytest.param(arrays(labels=LABELS[:, None]), r"\(12, 1\).*labels\[:, 0\]", id="2-d labels"),
        pytest.param(arrays(images=PIXELS[..., 0]), r"images of shape \(12, 32, 32\)", id="3-d"),
        pytest.param(
            arrays(images=PIXELS[:0], labels=LABELS[:0]), r"no images: .* \(0, 32", id="empty"
        ),
        pytest.param(arrays(images=PIXELS[..., :2]), "neither the second nor the last", id="two"),
        pytest.param(arrays(images=PIXELS[:, :3]), "both the second and the last", id="unclear"),
        pytest.param(arrays(images=FLOATS * 2 - 1), r"must be in \[0, 1\]", id="normalized"),
        pytest.param(arrays(images=FLOATS * np.nan), "not finite", id="NaN"),
        pytest.param(arrays(images=FLOATS * 255), "pixels from 0 to 255", id="255"),
        pytest.param(arrays(images=PIXELS.astype(int)), "images of type int64", id="int64"),
        pytest.param(table(images="pixels"), "columns pixels, label", id="columns"),
        pytest.param(table(cells=[{"bytes": b"x"}] * 12), "row 0 cannot be decoded", id="no image"),
        pytest.param(table(cells=[{"bytes": None}] * 12), "row 0 has no bytes", id="null image"),
        pytest.param(
            table(cells=[{"bytes": None, "path": "cat.png"}] * 12),
            "row 0 has no bytes of a picture but its path, cat.png",
            id="path of an image",
        ),
        pytest.param(table(labels=[None, *LABELS[1:]]), "labels are missing", id="null label"),
        pytest.param(table(labels=[str(n) for n in LABELS]), "labels of type", id="text labels"),
        pytest.param(table(labels=[], cells=[]), "not a parquet", id="no rows"),
        pytest.param(
            table(cells=[{"bytes": encoded(PIXELS[0, : 20 + n])} for n in range(12)]),
            "several sizes",
            id="sizes",
        ),
    ],
)
def test_a_bad_file_is_told_in_one_sentence(
    tmp_path: Path, make: Callable[[Path], Path], words: str
) -> None:
    with pytest.raises(DataError, match=words) as caught:
        load_dataset(str(make(tmp_path)))
    assert "\n" not in str(caught.value)


def test_an_unknown_name_is_told() -> None:
    with pytest.raises(UnknownNameError, match="did you mean cifar10"):
        load_dataset("cifar1")


# ------------------------------------------------------------------ slices


def tiny() -> Dataset:
    return Dataset(name="tiny", images=torch.rand(10, 1, 2, 2), labels=torch.arange(10), classes=10)


def test_a_slice_and_its_identity() -> None:
    data = tiny()
    images, labels, spec = slice_of(data, 3, 4)
    assert images.equal(data.images[3:7])
    assert labels.tolist() == [3, 4, 5, 6]
    assert (spec.name, spec.first, spec.count) == ("tiny", 3, 4)
    assert slice_of(data, 3, 4)[2] == spec
    assert slice_of(data)[2].count == 10
    other = dataclasses.replace(data, images=data.images.clone())
    other.images[9] += 1  # outside the slice
    assert slice_of(other, 3, 4)[2].sha256 == spec.sha256
    other.images[3, 0, 0, 0] += 1e-6
    assert slice_of(other, 3, 4)[2].sha256 != spec.sha256
    relabeled = dataclasses.replace(data, labels=data.labels.flip(0))
    assert slice_of(relabeled, 3, 4)[2].sha256 != spec.sha256


@pytest.mark.parametrize(("first", "count"), [(3, 4), (0, 10)])
def test_a_slice_takes_the_memory_of_its_images_alone(first: int, count: int) -> None:
    """A user's data may be a view of more."""
    of_more = Dataset(
        name="tiny", images=torch.rand(30, 1, 2, 2)[:10], labels=torch.arange(30)[:10], classes=10
    )
    for part in slice_of(of_more, first, count)[:2]:
        assert part.untyped_storage().nbytes() == part.nbytes


@pytest.mark.parametrize(("first", "count"), [(0, 11), (10, 1), (-1, 2), (3, 0), (9, 2)])
def test_a_slice_beyond_the_end_is_told(first: int, count: int) -> None:
    with pytest.raises(DataError, match="tiny has 10 images"):
        slice_of(tiny(), first, count)


# ------------------------------------------------------------------ CIFAR in torchvision's layout


def batch(protocol: int = 2) -> bytes:
    rows = PIXELS.transpose(0, 3, 1, 2).reshape(12, -1)
    return pickle.dumps({"data": rows, "labels": LABELS.tolist()}, protocol=protocol)


def archive(content: bytes, member: str = "cifar-10-batches-py/test_batch") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, data in (("cifar-10-batches-py/data_batch_1", bytes(1000)), (member, content)):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


@pytest.fixture
def official(monkeypatch: pytest.MonkeyPatch) -> DatasetCard:
    """The CIFAR-10 card, with the MD5 of the small stand-in that these tests make."""
    monkeypatch.delenv("DENTBENCH_OFFLINE", raising=False)
    monkeypatch.delenv("DENTBENCH_MIRRORS", raising=False)
    md5 = hashlib.md5(batch()).hexdigest()
    nowhere = {"archive_url": "http://127.0.0.1:9/", "parquet_url": ""}
    card = dataclasses.replace(DATASETS["cifar10"], file_md5=md5, **nowhere)
    monkeypatch.setitem(dataset_cards.DATASETS._values, "cifar10", card)
    return card


def test_the_published_hashes_are_torchvisions() -> None:
    pytest.importorskip("torchvision")
    from torchvision.datasets import CIFAR10, CIFAR100

    for kind, name in ((CIFAR10, "cifar10"), (CIFAR100, "cifar100")):
        card = DATASETS[name]
        assert (card.archive_url, card.archive_md5) == (kind.url, kind.tgz_md5)
        assert card.file == f"{kind.base_folder}/{kind.test_list[0][0]}"
        assert card.file_md5 == kind.test_list[0][1]


@pytest.mark.parametrize("below", ["", "cifar-10-batches-py", "cifar-10-batches-py/test_batch"])
def test_torchvisions_folder(official: DatasetCard, tmp_path: Path, below: str) -> None:
    (tmp_path / "cifar-10-batches-py").mkdir()
    (tmp_path / official.file).write_bytes(batch())
    data = load_dataset(str(tmp_path / below))
    assert (data.name, data.classes) == ("CIFAR-10 (test)", 10)
    assert torch.equal((data.images * 255).round().byte(), torch.from_numpy(PIXELS).movedim(3, 1))


def test_another_file_is_not_called_cifar10(official: DatasetCard, tmp_path: Path) -> None:
    (tmp_path / "cifar-10-batches-py").mkdir()
    (tmp_path / official.file).write_bytes(batch(protocol=3))
    with pytest.raises(DataError, match=r"not the official CIFAR-10 .test.: its md5 is"):
        load_dataset(str(tmp_path))
    assert load_dataset(str(tmp_path), data_name="mine").name == "mine"


def test_a_hostile_batch_executes_nothing(official: DatasetCard, tmp_path: Path) -> None:
    target = tmp_path / "touched"

    class Gadget:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {target}",)

    (tmp_path / "cifar-10-batches-py").mkdir()
    path = tmp_path / official.file
    path.write_bytes(pickle.dumps({"data": Gadget(), "labels": []}, protocol=2))
    with pytest.raises(DataError, match=r"asks for \w+\.system"):
        load_dataset(str(path), data_name="mine")
    assert not target.exists()


@pytest.mark.parametrize("form", ["test file", "archive"])
def test_cifar10_is_fetched_from_a_mirror(
    official: DatasetCard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    with Loopback() as server:
        url = server.url("/source/cifar-10-python.tar.gz")
        changed = dataclasses.replace(official, archive_url=url)
        monkeypatch.setitem(dataset_cards.DATASETS._values, "cifar10", changed)
        if form == "archive":
            server.files["/m/cifar-10-python.tar.gz"] = archive(batch())
        else:
            server.files["/m/cifar-10-batches-py/test_batch"] = batch()
        data = load_dataset("cifar10", cache=tmp_path, mirrors=[server.url("/m/")])
        assert (data.name, len(data)) == ("CIFAR-10 (test)", 12)
        again = load_dataset("cifar10", cache=tmp_path, offline=True)
        assert again.images.equal(data.images)
        assert len(server.requests) == (2 if form == "archive" else 1)
    kept = {path.name for path in (tmp_path / "data/cifar-10-batches-py").iterdir()}
    assert {name for name in kept if not name.startswith(".")} == {"test_batch"}


@pytest.mark.parametrize(
    ("served", "words"),
    [
        pytest.param(archive(batch())[:300], "archive that cannot be opened", id="truncated"),
        pytest.param(archive(batch(), "other"), "archive that cannot be opened", id="no member"),
        pytest.param(archive(batch(3)), "its md5 is", id="another member"),
        pytest.param(b"\x1f\x8b" + bytes(50), "archive that cannot be opened", id="not gzip"),
    ],
)
def test_a_bad_archive_is_told(
    official: DatasetCard, tmp_path: Path, served: bytes, words: str
) -> None:
    with Loopback() as server:
        server.files["/m/cifar-10-python.tar.gz"] = served
        quick = datasets.FetchOptions(
            cache=tmp_path,
            mirrors=(server.url("/m"),),
            by_hand=server.url("/m/cifar-10-python.tar.gz"),
        )
        with pytest.raises(FetchError, match=words):
            datasets.fetch_dataset_file(DATASETS["cifar10"], quick)
    assert not (tmp_path / "data" / official.file).exists()


def test_cifar10_offline_is_told(official: DatasetCard, tmp_path: Path) -> None:
    with pytest.raises(FetchError, match=r"test_batch is not there and offline .* --from FILE"):
        load_dataset("cifar10", cache=tmp_path, offline=True)


# ------------------------------------------------------------------ CIFAR from the public parquet


def public(folder: Path, labels: Any, *, form: str = "PNG", images: int | None = None) -> bytes:
    """Two pictures a class in turn, in the public layout; ``form`` as PIL names it."""
    cells = [{"bytes": encoded(PIXELS[label], form)} for label in labels][:images]
    path = parquet(folder / "made.parquet", cells=cells, labels=list(labels)[:images])
    return path.read_bytes()


@pytest.fixture
def small(official: DatasetCard, monkeypatch: pytest.MonkeyPatch) -> DatasetCard:
    """A card whose set has 40 pictures, the first 20 of which are known."""
    monkeypatch.setattr(datafiles, "COUNT", 40)
    labels = [number % 10 for number in range(20)]
    pixels = PIXELS[labels].transpose(0, 3, 1, 2).tobytes()
    changed = dataclasses.replace(
        official,
        head_sha256=hashlib.sha256(pixels + bytes(labels)).hexdigest(),
        archive_url="http://127.0.0.1:9/cifar-10-python.tar.gz",
    )
    monkeypatch.setitem(dataset_cards.DATASETS._values, "cifar10", changed)
    return changed


IN_TURN = [number % 10 for number in range(40)]


@pytest.mark.parametrize("how", ["source", "mirror", "by hand"])
def test_cifar10_from_the_public_parquet(
    small: DatasetCard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    content = public(tmp_path, IN_TURN)
    quick = Policy(tries=1)
    with Loopback() as server:
        path = "/m/cifar-10-batches-py/test.parquet" if how == "mirror" else "/hub/test.parquet"
        server.files[path] = content
        url = server.url(path) if how == "source" else "http://127.0.0.1:9/x.parquet"
        card = dataclasses.replace(small, parquet_url=url)
        monkeypatch.setitem(dataset_cards.DATASETS._values, "cifar10", card)
        request = datasets.FetchOptions(
            cache=tmp_path / "c",
            mirrors=(server.url("/m"),) if how == "mirror" else (),
            by_hand=str(tmp_path / "made.parquet") if how == "by hand" else None,
            policy=quick,
        )
        datasets.fetch_dataset_file(card, request)
    data = load_dataset("cifar10", cache=tmp_path / "c", offline=True)
    assert (data.name, data.labels.tolist()) == ("CIFAR-10 (test)", IN_TURN)
    expected = torch.from_numpy(PIXELS[IN_TURN]).movedim(3, 1) / 255
    torch.testing.assert_close(data.images[0:40], expected)
    assert is_cached(card, tmp_path / "c") and problems(card, tmp_path / "c") == []
    assert remove(card, tmp_path / "c") == 1


@pytest.mark.parametrize(
    ("labels", "form", "images", "words"),
    [
        (IN_TURN, "JPEG", None, "first 20 images are not those of CIFAR-10"),
        (IN_TURN[::-1], "PNG", None, "first 20 images are not those of CIFAR-10"),
        ([*IN_TURN[:39], 3], "PNG", None, "it has not 4 images of every class"),
        (IN_TURN, "PNG", 39, r"images of shape \(39, 3, 32, 32\)"),
    ],
)
def test_another_parquet_is_not_called_cifar10(
    small: DatasetCard, tmp_path: Path, labels: Any, form: str, images: int | None, words: str
) -> None:
    public(tmp_path, labels, form=form, images=images)
    request = datasets.FetchOptions(cache=tmp_path / "c", by_hand=str(tmp_path / "made.parquet"))
    with pytest.raises(FetchError, match=words):
        datasets.fetch_dataset_file(small, request)
    assert not is_cached(small, tmp_path / "c")


def test_the_known_first_images_are_those_of_the_sample() -> None:
    """The only CIFAR test images that a package carries: foolbox's, first 20 of both sets."""
    foolbox = importlib.util.find_spec("foolbox")
    if foolbox is None or not foolbox.submodule_search_locations:
        pytest.skip("foolbox (extra dentbench[sample]) is not installed")
    folder = Path(foolbox.submodule_search_locations[0]) / "data"
    for name in ("cifar10", "cifar100"):
        paths = sorted(folder.glob(f"{name}_[0-9][0-9]_*.png"))
        labels = bytes(int(path.stem.rpartition("_")[2]) for path in paths)
        pixels = datafiles.read_pictures(paths).tobytes()
        assert hashlib.sha256(pixels + labels).hexdigest() == DATASETS[name].head_sha256


def test_all_sources_that_failed_are_named(
    small: DatasetCard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Loopback() as server:
        urls = {"archive_url": server.url("/a.tar.gz"), "parquet_url": server.url("/b.parquet")}
        card = dataclasses.replace(small, **urls)
        with pytest.raises(FetchError, match=r"a\.tar\.gz: .*404.*then as pictures: .*b\.parquet"):
            datasets.fetch_dataset_file(card, datasets.FetchOptions(cache=tmp_path))
