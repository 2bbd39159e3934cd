"""Too little memory on a GPU: parts that answer the same, and a refusal where they would not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from dentbench import DentSpec
from dentbench.errors import DeviceMemoryError
from dentbench.records.outcome import Record
from tests.gpu.runs import on_resnet20


@pytest.fixture
def little_memory() -> Iterator[None]:
    """Give this process 4 GiB of the GPU, of which all but half a GiB is taken."""
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(4 * 2**30 / total)
    taken = torch.empty(
        4 * 2**30 - 2**29 - torch.cuda.memory_reserved(), dtype=torch.uint8, device="cuda"
    )
    yield
    del taken
    torch.cuda.set_per_process_memory_fraction(1.0)
    torch.cuda.empty_cache()


def large(results: Path, loss: str) -> Record:
    """Evaluate it in one batch of 1,024 images, which takes over a GiB."""
    return on_resnet20(results, 1024, 1024, DentSpec(steps=2, loss=loss))[0]


def test_parts_after_out_of_memory_answer_the_same(
    tmp_path: Path, little_memory: None, caplog: pytest.LogCaptureFixture
) -> None:
    parts = large(tmp_path / "parts", "entropy")
    assert "out of GPU memory with 1024 images at a time" in caplog.text
    assert "going on with 512 (same answers)" in caplog.text
    torch.cuda.set_per_process_memory_fraction(1.0)
    whole = large(tmp_path / "whole", "entropy")
    assert parts.natural_correct == whole.natural_correct
    difference = parts.protocol_counts["published"] - whole.protocol_counts["published"]
    assert abs(difference) <= 3  # sums in another order change an image or two of 1,024


def test_a_coupled_batch_that_does_not_fit_is_refused_in_words(
    tmp_path: Path, little_memory: None
) -> None:
    with pytest.raises(DeviceMemoryError, match="answers depend on batch mates"):
        large(tmp_path, "shot")
