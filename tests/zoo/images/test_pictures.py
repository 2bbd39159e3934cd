"""Folders of pictures: classes by folder, ImageNet by RobustBench's list, torchvision's sizes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dentbench.errors import DataError, FetchError
from dentbench.zoo.cards.dataset_cards import DATASETS
from dentbench.zoo.cards.model_cards import MODELS
from dentbench.zoo.data_choice import DataChoice
from dentbench.zoo.datasets import load_dataset
from dentbench.zoo.download.sources import FetchOptions, fetch_dataset_file
from dentbench.zoo.images import picture_folders
from dentbench.zoo.images.arrays import slice_of
from dentbench.zoo.images.picture_folders import robustbench_list
from dentbench.zoo.images.pictures import PREPROCESSINGS, Pictures

RNG = np.random.default_rng(0)


def picture(path: Path, height: int = 8, width: int = 8, *, gray: bool = False) -> Any:
    """Write a picture and return its pixels."""
    shape = (height, width) if gray else (height, width, 3)
    pixels = RNG.integers(0, 256, shape, dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return pixels


@pytest.fixture
def animals(tmp_path: Path) -> tuple[Path, list[Any]]:
    folder = tmp_path / "animals"
    names = ("cat/b.png", "cat/a.png", "dog/c.PNG", "ant/z.png")
    made = {name: picture(folder / name) for name in names}
    (folder / "cat" / "notes.txt").write_text("not a picture")
    order = ("ant/z.png", "cat/a.png", "cat/b.png", "dog/c.PNG")
    return folder, [made[name] for name in order]


def test_classes_are_folders_in_order(animals: tuple[Path, list[Any]]) -> None:
    folder, pixels = animals
    data = load_dataset(str(folder))
    assert (data.name, data.classes, len(data)) == ("animals", 3, 4)
    assert data.labels.tolist() == [0, 1, 1, 2]
    expected = torch.from_numpy(np.stack(pixels)).movedim(3, 1) / 255
    torch.testing.assert_close(data.images[0:4], expected)
    assert load_dataset(str(folder), data_name="mine").name == "mine"


def test_it_is_torchvisions_image_folder(animals: tuple[Path, list[Any]]) -> None:
    pytest.importorskip("torchvision")
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import ToTensor

    data = load_dataset(str(animals[0]))
    theirs = ImageFolder(animals[0], ToTensor())
    assert [label for _, label in theirs] == data.labels.tolist()
    torch.testing.assert_close(torch.stack([image for image, _ in theirs]), data.images[0:4])


def test_a_slice_decodes_its_own_pictures_only(
    animals: tuple[Path, list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Path] = []
    decode = Pictures._decoded

    def noting(self: Pictures, path: Path) -> Any:
        opened.append(path)
        return decode(self, path)

    monkeypatch.setattr(Pictures, "_decoded", noting)
    images, labels, spec = slice_of(load_dataset(str(animals[0])), 1, 2)
    assert (len(images), labels.tolist(), spec.name, spec.count) == (2, [1, 1], "animals", 2)
    assert [path.name for path in opened] == ["a.png", "b.png"]


def test_gray_pictures_have_one_channel(tmp_path: Path) -> None:
    pixels = [picture(tmp_path / f"x/{number}.png", gray=True) for number in range(2)]
    data = load_dataset(str(tmp_path))
    torch.testing.assert_close(data.images[0:2], torch.from_numpy(np.stack(pixels))[:, None] / 255)
    colored = picture(tmp_path / "x/9.png")
    mixed = load_dataset(str(tmp_path)).images[0:3]
    assert mixed.shape == (3, 3, 8, 8)  # gray in three channels, whichever comes first
    torch.testing.assert_close(mixed[0], torch.from_numpy(pixels[0]).expand(3, 8, 8) / 255)
    torch.testing.assert_close(mixed[2], torch.from_numpy(colored).movedim(2, 0) / 255)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "it is empty"),
        (b"<!DOCTYPE html><html>", "it is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1", "git lfs pull"),
        (b"\xff\x00\x01", "its format is none that is read"),
        (None, "a link to nothing"),
    ],
)
def test_what_is_no_picture_is_told_without_a_librarys_words(
    tmp_path: Path, content: bytes | None, words: str
) -> None:
    picture(tmp_path / "x/a.png")
    damaged = tmp_path / "x/b.png"
    if content is None:
        damaged.symlink_to(tmp_path / "gone.png")
    else:
        damaged.write_bytes(content)
    with pytest.raises(DataError, match=rf"b\.png is not a picture that can be read \(.*{words}"):
        load_dataset(str(tmp_path)).images[0:2]


@pytest.mark.parametrize("suffix", [".heic", ".AVIF", ".svg", ".npy"])
def test_a_picture_of_another_format_is_not_left_out(
    animals: tuple[Path, list[Any]], suffix: str
) -> None:
    (animals[0] / "cat" / f"z{suffix}").write_bytes(b"x")
    with pytest.raises(DataError, match=rf"z{suffix} is of a format that is not read"):
        load_dataset(str(animals[0]))


@pytest.mark.parametrize(
    ("inside", "hint"),
    [
        (("fold1/cat", "fold1/dog", "fold2/cat", "fold2/dog"), "fold1"),
        (("images/cat", "images/dog"), "images"),
        (("test/cat", "test/dog", "cat"), "test"),
    ],
)
def test_folders_of_folders_of_classes_are_no_classes(
    tmp_path: Path, inside: tuple[str, ...], hint: str
) -> None:
    for name in inside:
        picture(tmp_path / name / "1.png")
    with pytest.raises(DataError, match=rf"has no folders of classes but .*, such as .*{hint}$"):
        load_dataset(str(tmp_path))
    assert load_dataset(str(tmp_path / hint)).classes == 2


def test_each_class_may_have_its_pictures_in_a_folder(tmp_path: Path) -> None:
    """As Tiny ImageNet has them."""
    for name in ("n01", "n02"):
        picture(tmp_path / name / "images" / "1.png")
    assert load_dataset(str(tmp_path)).labels.tolist() == [0, 1]


def test_sizes_and_damage_are_told(tmp_path: Path) -> None:
    picture(tmp_path / "x/a.png", 10, 12)
    picture(tmp_path / "x/b.png", 12, 10)
    with pytest.raises(DataError, match=r"a\.png is of size 12x10 and b\.png of 10x12; .*Res224"):
        load_dataset(str(tmp_path)).images[0:2]
    both = load_dataset(str(tmp_path), DataChoice(preprocess="Res224")).images[0:2]
    assert both.shape == (2, 3, 224, 224)
    assert load_dataset(str(tmp_path), DataChoice(resize="Crop288")).images[0:1].shape[-1] == 288
    with pytest.raises(DataError, match="preprocess is 'Res9'; allowed"):
        load_dataset(str(tmp_path), DataChoice(preprocess="Res9"))
    (tmp_path / "x/b.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"b\.png is not a picture that can be read"):
        load_dataset(str(tmp_path)).images[0:2]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no pictures in folders of their classes"):
        load_dataset(str(tmp_path / "empty"))


@pytest.mark.parametrize("size", [(300, 400), (401, 299), (224, 224), (200, 500), (260, 260)])
@pytest.mark.parametrize("name", PREPROCESSINGS)
def test_preprocessing_is_torchvisions(name: str, size: tuple[int, int]) -> None:
    transforms = pytest.importorskip("torchvision.transforms")
    bicubic = transforms.InterpolationMode.BICUBIC
    theirs = {
        "Res256Crop224": [transforms.Resize(256), transforms.CenterCrop(224)],
        "BicubicRes256Crop224": [transforms.Resize(256, bicubic), transforms.CenterCrop(224)],
        "BicubicRes224Crop224": [transforms.Resize(224, bicubic), transforms.CenterCrop(224)],
        "Res224": [transforms.Resize([224, 224])],
        "Crop288": [transforms.CenterCrop(288)],
    }
    shape = (*size, 3)
    image = Image.fromarray(RNG.integers(0, 256, shape, dtype=np.uint8))
    expected = transforms.Compose(theirs[name])(image)
    assert np.array_equal(np.asarray(PREPROCESSINGS[name](image)), np.asarray(expected))


def test_every_imagenet_card_names_its_preprocessing() -> None:
    actual = {card.resize for card in MODELS.values() if card.dataset == "imagenet"}
    assert actual <= set(PREPROCESSINGS) and len(actual) == 5
    assert not any(card.resize for card in MODELS.values() if card.dataset != "imagenet")


def test_robustbench_and_timm_name_the_same() -> None:
    pytest.importorskip("timm")
    from dentbench.zoo.robustbench.architectures import model_dicts

    model_dicts()
    data = sys.modules["robustbench.data"]
    assert set(data.PREPROCESSINGS) - {None} == set(PREPROCESSINGS) - {"BicubicRes224Crop224"}
    import timm

    for size in "sml":
        name = f"debenedetti2022light_xcit_{size}12_imagenet_linf"
        with torch.device("meta"):
            network = timm.create_model(name)
        config = getattr(network, "model", network).default_cfg
        assert (config["crop_pct"], config["interpolation"]) == (1.0, "bicubic")
        assert config["input_size"] == (3, 224, 224)


# ------------------------------------------------------------------ ImageNet


LIST = [("n02/B.JPEG", 1), ("n01/A.JPEG", 0), ("n02/C.JPEG", 1)]


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picture_folders, "robustbench_list", lambda: LIST)


def test_the_list_is_read_from_the_package() -> None:
    pytest.importorskip("timm")
    actual = robustbench_list()
    assert len(actual) == len(set(actual)) == 5000
    assert all(name.startswith("n") and name.endswith(".JPEG") for name, _ in actual)
    assert {number for _, number in actual} <= set(range(1000))
    theirs = dict(actual)
    assert theirs["n09468604/ILSVRC2012_val_00015253.JPEG"] == 979  # "valley"


@pytest.mark.parametrize("below", ["", "val", "imagenet/val"])
@pytest.mark.parametrize("flat", [False, True])
def test_imagenet_in_any_layout(listed: None, tmp_path: Path, below: str, flat: bool) -> None:
    for name, _ in LIST:
        picture(tmp_path / below / (Path(name).name if flat else name), 300, 280)
    picture(tmp_path / below / "n01/not-listed.JPEG")
    data = load_dataset("imagenet", DataChoice(folder=tmp_path, resize="Crop288"))
    assert (data.name, data.classes, len(data)) == ("ImageNet (RobustBench's 5,000)", 1000, 3)
    assert data.labels.tolist() == [1, 0, 1]
    assert data.images[1:3].shape == (2, 3, 288, 288)
    assert load_dataset("imagenet", DataChoice(folder=tmp_path)).images[0:1].shape[-1] == 224


def test_imagenet_that_is_not_there_is_told(listed: None, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"not free to download: .* --data-dir"):
        load_dataset("imagenet", cache=tmp_path)
    picture(tmp_path / "data/val/n02/B.JPEG")
    with pytest.raises(DataError, match=r"2 of the 3 images .* such as A\.JPEG"):
        load_dataset("imagenet", cache=tmp_path)
    with pytest.raises(FetchError, match="not free to download"):
        fetch_dataset_file(DATASETS["imagenet"], FetchOptions(cache=tmp_path))


def test_without_the_package_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picture_folders.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match="comes with the package robustbench"):
        robustbench_list()


def test_what_would_be_ignored_is_refused(tmp_path: Path) -> None:
    for name, choice, words in (
        ("digits", DataChoice(folder=tmp_path), "--data-dir is for imagenet"),
        ("digits", DataChoice(preprocess="Res224"), "--preprocess is for pictures"),
        (str(tmp_path), DataChoice(folder=tmp_path), "a path needs none"),
    ):
        with pytest.raises(DataError, match=words):
            load_dataset(name, choice)


def test_folders_and_files_of_other_programs_are_no_classes(
    animals: tuple[Path, list[Any]],
) -> None:
    folder = animals[0]
    for name in (".ipynb_checkpoints/a.png", "__MACOSX/cat/._a.png", "cat/.thumbs/a.png"):
        picture(folder / name)
    (folder / "cat" / "._y.png").write_bytes(b"\0\5\26\7")
    (folder / ".empty").mkdir()
    (folder / "README.txt").write_text("none of these counts")
    data = load_dataset(str(folder))
    assert (data.classes, data.labels.tolist()) == (3, [0, 1, 1, 2])
    assert len(data.images[0:4]) == 4


def test_an_empty_class_is_refused_by_name(animals: tuple[Path, list[Any]]) -> None:
    (animals[0] / "bird" / "below").mkdir(parents=True)
    with pytest.raises(DataError, match=r"class folders without a picture: bird;"):
        load_dataset(str(animals[0]))


def test_numbered_folders_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    made = {number: picture(tmp_path / "n" / str(number) / "a.png") for number in range(11)}
    data = load_dataset(str(tmp_path / "n"))
    assert data.labels.tolist() == [*range(11)]
    expected = torch.from_numpy(np.stack([made[number] for number in range(11)]))
    torch.testing.assert_close(data.images[0:11], expected.movedim(3, 1) / 255)
    picture(tmp_path / "n" / "02" / "a.png")
    with pytest.raises(DataError, match="two folders of the same number"):
        load_dataset(str(tmp_path / "n"))


@pytest.mark.parametrize("parts", [("train", "test"), ("Val",)])
def test_parts_of_a_data_set_are_no_classes(tmp_path: Path, parts: tuple[str, ...]) -> None:
    for part in parts:
        picture(tmp_path / "d" / part / "cat" / "a.png")
    with pytest.raises(DataError, match="parts of a data set, not classes; name one of them"):
        load_dataset(str(tmp_path / "d"))
    assert load_dataset(str(tmp_path / "d" / parts[0])).classes == 1


@pytest.mark.parametrize("name", ["CIFAR-10", "cifar10", "CIFAR-10 (test)", "Cifar_10"])
def test_an_official_name_is_of_official_data_alone(
    animals: tuple[Path, list[Any]], tmp_path: Path, name: str
) -> None:
    noise = tmp_path / f"{name}.npz"
    np.savez(noise, images=RNG.random((4, 8, 8, 3), dtype=np.float32), labels=np.arange(4))
    for named in (
        load_dataset(str(noise)),
        load_dataset(str(noise), data_name=name),
        load_dataset(str(animals[0]), data_name=name),
        load_dataset(str(animals[0].rename(tmp_path / name))),
    ):
        assert named.name == f"{name} (own data)"
