"""The benchmark of adaptation in its dry form, and its arithmetic by hand."""

from __future__ import annotations

import pytest
import torch

from tests.benchmarks import adaptation
from tests.benchmarks.pairs import times


@pytest.mark.sweep  # in processes of its own: ten seconds of a core
def test_a_configuration_is_measured_in_a_process_of_its_own() -> None:
    avx2 = {"AVX2": adaptation.INSTRUCTION_SETS["AVX2"]}
    ((actual,),) = adaptation.configurations(avx2, [1], dry=True)
    assert (actual["instructions allowed"], actual["threads"]) == ("AVX2", 1)
    if torch.backends.cpu.get_cpu_capability().startswith("AVX"):
        assert actual["PyTorch"] == "AVX2"
        assert actual["oneDNN"].split()[-1] == "AVX2"
    for clock in ("CPU time", "wall time"):
        measured = actual["networks"]["digits-robust"][clock]
        assert all(item > 0 for item in measured["seconds"].values())
        floor = 3 * measured["seconds"]["static"]  # two steps, and the last forward
        assert measured["dent over floor"] == pytest.approx(
            measured["seconds"]["dent"] / floor, rel=0.02
        )


def test_ratios_are_medians_over_the_rounds() -> None:
    seconds = {
        "static": [1.0, 2.0, 1.0],
        "dent": [9.0, 12.0, 6.0],
        "released in one process": [9.0, 24.0, 12.0],
        "released alone": [18.0, 24.0, 18.0],
    }
    actual = adaptation.summary(seconds, steps=2)
    assert actual["dent over floor"] == 2.0  # of 3, 2 and 2
    assert actual["released over dent, one process"] == 2.0  # of 1, 2 and 2
    assert actual["released over dent, alone"] == 2.0  # of 2, 2 and 3
    assert actual["seconds"]["dent"] == 9.0


@pytest.mark.parametrize(
    ("name", "pytorch", "onednn", "only"),
    [
        ("AVX2", "AVX2", "Intel AVX2", True),
        ("AVX2", "AVX512", "Intel AVX-512 with AVX512BW, AVX512VL, and AVX512DQ extensions", False),
        ("AVX2", "AVX2", "Intel AVX-512 with AVX512BW, AVX512VL, and AVX512DQ extensions", False),
        ("all", "AVX2", "Intel AVX2", False),
    ],
)
def test_what_a_cpu_has_alone_is_measured_once(
    name: str, pytorch: str, onednn: str, only: bool
) -> None:
    assert adaptation._has_only(name, {"PyTorch": pytorch, "oneDNN": onednn}) == only


class Elsewhere:
    """Stand in for a work of another process, which takes two seconds of CPU time there."""

    def __init__(self) -> None:
        self.used = 100.0

    def __call__(self) -> None:
        """Use two seconds."""
        self.used += 2

    def cpu_seconds(self) -> float:
        """Return the use so far."""
        return self.used


def test_cpu_time_is_that_of_the_process_that_computes() -> None:
    actual = times({"elsewhere": Elsewhere(), "here": lambda: None}, rounds=2, calls=3)
    assert actual["elsewhere"].cpu == [2, 2]
    assert max(actual["elsewhere"].wall) < 1
    assert max(actual["here"].cpu) < 1
