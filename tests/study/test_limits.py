"""Durations and numbers of passes as texts."""

from __future__ import annotations

import pytest

from dentbench.errors import SpecError
from dentbench.evaluation.progress.events import duration_text
from dentbench.study.limits import parse_duration, parse_passes


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("2h", 7200), ("90m", 5400), ("1h30m", 5400), ("45s", 45), ("1.5 h", 5400), ("2 min", 120)],
)
def test_a_duration_is_a_sum_of_parts(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "2", "h", "-2h", "0s", "2h soon", "2 weeks", "1e9"])
def test_another_duration_is_refused_with_what_to_write(text: str) -> None:
    with pytest.raises(SpecError, match="such as 2h, 90m"):
        parse_duration(text)


@pytest.mark.parametrize(("text", "count"), [("1", 1), ("1,000", 1000), ("1e9", 10**9)])
def test_passes_are_whole_numbers(text: str, count: int) -> None:
    assert parse_passes(text) == count


@pytest.mark.parametrize("text", ["", "0", "-1", "1.5", "many", "inf", "nan"])
def test_other_passes_are_refused(text: str) -> None:
    with pytest.raises(SpecError, match="whole number of passes"):
        parse_passes(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.25, "0.2 s"), (59, "59 s"), (300, "5 min"), (12_240, "3.4 h"), (864_000, "10 days")],
)
def test_a_duration_is_told_in_few_words(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text
