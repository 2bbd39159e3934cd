"""Arguments from Python, in the types that people have them in."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from dentbench.api.arguments import (
    attack_of,
    dataset_of,
    defense_spec_of,
    plain_number,
    protocols_listed,
    schedule_of,
)
from dentbench.errors import DataError, DentBenchError, SpecError
from dentbench.spec.evaluation import DentSpec, exact_eps


@pytest.mark.parametrize("four", [4, np.int64(4), np.array(4), torch.tensor(4)])
def test_a_number_is_one_in_any_writing(four: Any) -> None:
    number = plain_number(four)
    assert number == 4 and type(number) is int


def test_what_is_no_number_is_left_to_be_refused() -> None:
    assert len(plain_number(torch.ones(2))) == 2
    assert plain_number("x") == "x" and plain_number(None) is None and plain_number("8") == "8"


@pytest.mark.parametrize("half", ["0.5", 0.5, Decimal("0.5"), np.float32(0.5), torch.tensor(0.5)])
def test_eps_is_exact_in_any_type(half: Any) -> None:
    assert exact_eps(half) == Fraction(1, 2)


@pytest.mark.parametrize("eps", [np.array([0.1, 0.2]), torch.ones(2), Decimal("nan"), [0.1], 1j])
def test_eps_that_is_no_single_number_is_refused(eps: Any) -> None:
    with pytest.raises(SpecError, match="eps is"):
        exact_eps(eps)


@pytest.mark.parametrize(
    ("written", "norm"),
    [("L_inf", "Linf"), ("inf", "Linf"), (np.inf, "Linf"), (2, "L2"), ("2", "L2"), ("l_1", "L1")],
)
def test_a_norm_has_many_writings(written: Any, norm: str) -> None:
    assert attack_of("quick", "1/255", written).norm == norm


def test_a_norm_that_is_none_is_refused() -> None:
    with pytest.raises(SpecError, match="norm is '0'; allowed: Linf, L2, L1"):
        attack_of("quick", "1/255", 0)  # type: ignore[arg-type]


@pytest.mark.parametrize("defense", [3, {"steps": 2}, DentSpec])
def test_what_cannot_defend_is_refused(defense: Any) -> None:
    with pytest.raises(SpecError, match=r"give a name, a DentSpec\(\), an object"):
        defense_spec_of(defense)


@pytest.mark.parametrize("images", [None, "images.npz", 3, {1, 2}, iter([])])
def test_images_that_are_no_array_are_named_by_their_type(images: Any) -> None:
    with pytest.raises(DataError, match=f"of type {type(images).__name__}"):
        dataset_of(images, [0], "d")


COLORS = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
BYTES = (255 * COLORS).to(torch.uint8)
LABELS = torch.tensor([3, 1, 0, 2])


class Kind(torch.Tensor):
    """A subclass of tensors, as libraries of transforms have them."""


def made_in_inference_mode() -> torch.Tensor:
    with torch.inference_mode():
        return COLORS * 1


@pytest.mark.parametrize(
    "images",
    [
        COLORS,
        made_in_inference_mode(),
        COLORS.double(),
        COLORS.permute(0, 2, 3, 1),
        COLORS.to(memory_format=torch.channels_last),
        COLORS.clone().requires_grad_(),
        COLORS.as_subclass(Kind),
        torch.nn.Parameter(COLORS),
        COLORS.numpy(),
        COLORS.numpy().astype(">f4"),
        np.asfortranarray(COLORS.numpy()),
        COLORS.tolist(),
    ],
)
def test_images_of_any_kind_are_the_same_images(images: Any) -> None:
    assert torch.equal(dataset_of(images, LABELS, "d").images[0:4], COLORS)


@pytest.mark.parametrize(
    "images",
    [BYTES, BYTES.numpy(), BYTES.permute(0, 2, 3, 1).numpy(), list(BYTES), BYTES.as_subclass(Kind)],
)
def test_bytes_are_pixels_from_0_to_255(images: Any) -> None:
    assert torch.equal(dataset_of(images, LABELS, "d").images[0:4], BYTES.float() / 255)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_taken_as_it_is(dtype: torch.dtype) -> None:
    assert torch.equal(
        dataset_of(COLORS.to(dtype), LABELS, "d").images[0:4], COLORS.to(dtype).float()
    )


@pytest.mark.parametrize(
    "labels",
    [
        LABELS.int(),
        LABELS.to(torch.uint8),
        LABELS.numpy().astype(">i8"),
        LABELS.numpy().astype(np.uint64),
        tuple(LABELS.tolist()),
        pd.Series(LABELS.numpy()),
    ],
)
def test_labels_of_any_kind_are_the_same_labels(labels: Any) -> None:
    actual = dataset_of(COLORS, labels, "d").labels
    assert torch.equal(actual, LABELS) and actual.dtype == torch.int64


@pytest.mark.parametrize(
    ("images", "labels", "words"),
    [
        (
            BYTES.long(),
            LABELS,
            r"of type int64; uint8 or floats are wanted: images.astype\('uint8'",
        ),
        (COLORS > 0.5, LABELS, "of type bool"),
        (255 * COLORS, LABELS, "divide them by 255"),
        (2 * COLORS - 1, LABELS, "must be in .0, 1., not normalized"),
        (COLORS[0], LABELS[:1], r"a single image is images\[None\]"),
        (COLORS[:, 0], LABELS, r"gray images get a channel by images\[:, None\]"),
        (COLORS[:0], LABELS[:0], "no images"),
        (COLORS.transpose(1, 2), LABELS, "neither the second nor the last"),
        (COLORS.log(), LABELS, "pixels from"),
        (COLORS / 0 * 0, LABELS, "not finite"),
        (COLORS, LABELS.float(), r"float32; whole numbers are wanted: labels.astype\(int\)"),
        (COLORS, LABELS > 1, "of type bool; whole numbers are wanted"),
        (COLORS, torch.eye(4, dtype=torch.long)[LABELS], r"labels.argmax\(1\) of one-hot rows"),
        (COLORS, torch.eye(4)[LABELS], r"labels.argmax\(1\) of one-hot rows"),
        (COLORS, LABELS[:, None], r"labels\[:, 0\]"),
        (COLORS, LABELS[:3], "4 images but 3 labels"),
        (COLORS, LABELS - 1, "from -1 to 2; they must be whole numbers from 0"),
        (COLORS, ["cat", "dog", "cat", "dog"], "give each class its number"),
        (COLORS, LABELS[0], "labels of shape"),
        (COLORS.to_sparse(), LABELS, "no tensor, NumPy array or list"),
        (COLORS.to("meta"), LABELS, "no tensor, NumPy array or list"),
    ],
)
def test_other_images_and_labels_are_refused_with_what_to_write(
    images: Any, labels: Any, words: str
) -> None:
    with pytest.raises(DataError, match=words) as caught:
        dataset_of(images, labels, "d")
    assert "\n" not in str(caught.value) and "0x" not in str(caught.value)


@pytest.mark.parametrize("kind", ["loader", "subset", "dataset"])
def test_what_holds_images_and_labels_is_refused_with_a_recipe_that_works(kind: str) -> None:
    data = torch.utils.data
    x, y = torch.rand(6, 1, 4, 4), torch.arange(6)
    dataset: Any = data.TensorDataset(x, y)
    dataset = data.Subset(dataset, range(6)) if kind == "subset" else dataset
    loader = data.DataLoader(dataset, batch_size=4)
    with pytest.raises(DataError, match="hand in its images and labels themselves") as caught:
        dataset_of(loader if kind == "loader" else dataset, None, "d")
    recipe = str(caught.value).partition("images, labels = ")[2]
    images, labels = eval(recipe, {"torch": torch, "dataset": dataset, "loader": loader})
    assert torch.equal(images, x) and torch.equal(labels, y)


def test_labels_that_are_left_out_are_asked_for() -> None:
    with pytest.raises(DataError, match=r"call evaluate\(model, images, labels\)"):
        dataset_of(torch.rand(2, 1, 4, 4), None, "d")


def test_lists_of_tensors_and_their_sizes() -> None:
    x = torch.rand(3, 1, 4, 4)
    listed = dataset_of([image.requires_grad_() for image in x.clone()], list(torch.arange(3)), "d")
    assert torch.equal(listed.images[0:3], x) and listed.labels.tolist() == [0, 1, 2]
    with pytest.raises(DataError, match=r"their shapes are \(1, 4, 4\), \(1, 5, 4\)"):
        dataset_of([torch.rand(1, 4, 4), torch.rand(1, 5, 4)], [0, 1], "d")
    with pytest.raises(DataError, match=r"their shapes are \(1, 2\), \(1,\)"):
        dataset_of([[[1, 2]], [3]], [0, 1], "d")


def test_limits_are_taken_as_on_the_command_line() -> None:
    for passes in (1_000_000, 1e6, "1e6", np.int64(10**6)):
        assert schedule_of(None, "90m", passes).pass_limit == 1_000_000
    assert protocols_listed(None) == ()
    for limits in (("2", None), (2, None), (None, -1), (None, "x")):
        with pytest.raises(DentBenchError, match="-limit is"):
            schedule_of(None, *limits)
