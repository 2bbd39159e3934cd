"""Dry runs for GPUs that are not at hand."""

from __future__ import annotations

import pytest

from tests.helpers import Run


def test_the_time_names_what_it_is_scaled_from(dentbench: Run) -> None:
    words = ("--dry-run", "--device", "H100", "--precision", "tf32", "--examples", "8")
    code, printed, errors = dentbench("evaluate", *words)
    text = " ".join(printed.split())
    assert code == 0, errors
    assert "on one H100, tf32: ResNet-20 as measured on an NVIDIA H200" in text
    assert "1.43 times the H200's time" in text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--device", "h100"], "names a kind of GPU for --dry-run"),
        (["--dry-run", "--device", "a100"], "a GPU whose speed is known: h200, h100"),
    ],
)
def test_other_gpus_are_refused(words: list[str], said: str, dentbench: Run) -> None:
    code, _, errors = dentbench("evaluate", *words)
    assert code == 2 and said in " ".join(errors.split()), errors
