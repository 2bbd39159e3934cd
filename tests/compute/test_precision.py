"""Precision below float32: nearly the same answers, judged again."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from dentbench import Dent, DentSpec
from dentbench.compute import precision
from dentbench.compute.precision import Bfloat16, bfloat16_time, tensor_float32
from dentbench.errors import SpecError
from dentbench.evaluation.context import RunOptions
from dentbench.evaluation.preflight import Preflight
from dentbench.evaluation.runner import Evaluation
from dentbench.records.checkpoint import RunFolder
from dentbench.records.outcome import Record
from dentbench.spec.evaluation import EvalSpec
from dentbench.zoo.download.sources import FetchOptions
from tests.compute.networks import attacked_network, network


def attacked(results: Path, **how: Any) -> tuple[Evaluation, EvalSpec, Record]:
    """Run dent against a short attack on images that the network is right about."""
    subject, static = attacked_network(16, iterations=4, **how)
    spec = replace(static, defense=DentSpec(steps=2))
    evaluation = Evaluation(
        subject,
        RunOptions(results=results, save_adversarial=True),
    )
    return evaluation, spec, evaluation.run([static, spec], ["published", "transfer"])[1]


def test_bfloat16_is_judged_again_in_float32(tmp_path: Path) -> None:
    evaluation, spec, record = attacked(tmp_path, precision="bf16")
    exact, low = evaluation.classifier(spec), evaluation.worker.model.attacked(spec).of(spec)
    changed = right = 0
    for unit in range(2):
        points = torch.from_numpy(RunFolder(tmp_path, spec).load_points("published", unit))
        labels = evaluation.inputs.labels[8 * unit : 8 * unit + 8]
        fine = exact(points).argmax(1) == labels
        coarse = low(points).argmax(1) == labels
        assert low(points).dtype == torch.float32
        assert not torch.equal(low(points), exact(points))
        changed += int((fine != coarse).sum())
        right += int(fine.sum())
    assert record.protocol_counts["published"] == right
    assert json.loads(record.rechecked or "")["published"] == changed
    assert record.precision == "bf16"


def test_bfloat16_predicts_nearly_what_float32_does() -> None:
    plain = network().requires_grad_(False)
    x = torch.rand(256, 3, 6, 6)
    for wrap in (lambda model: model, lambda model: Dent(model, DentSpec(steps=3))):
        exact, low = wrap(plain)(x), wrap(Bfloat16(plain))(x)
        assert (exact.argmax(1) == low.argmax(1)).float().mean() > 0.95
        torch.testing.assert_close(exact, low, rtol=0.05, atol=0.05)


@pytest.mark.parametrize(("seconds", "words"), [([1.0, 2.0], "2 times as long"), ([2.0, 1.0], "")])
def test_where_bfloat16_does_not_pay_a_sentence_says_so(
    seconds: list[float],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(precision, "least_seconds", lambda *_: seconds)
    subject, static = attacked_network(2, iterations=1, precision="bf16")
    options = RunOptions(results=tmp_path, fetch=FetchOptions(cache=tmp_path / "cache"))
    with caplog.at_level(logging.WARNING):
        Preflight(Evaluation(subject, options).context).advise_precision([static])
    assert [words in text for text in caplog.messages] == [True] * bool(words)
    monkeypatch.setattr(precision, "least_seconds", None)  # remembered: not timed again
    images = subject.images
    (tmp_path / "file").touch()
    assert bfloat16_time(network(), images[:1], tmp_path / "file") is None
    evaluation = Evaluation(subject, options)
    ratio = bfloat16_time(evaluation.worker.network, images, tmp_path / "cache")
    assert ratio == seconds[1] / seconds[0]


def test_float32_is_not_judged_again(tmp_path: Path) -> None:
    assert attacked(tmp_path)[2].rechecked is None


def test_tensor_float32_is_for_gpus(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="precision is 'tf32'"):
        attacked(tmp_path, precision="tf32")
    before = torch.backends.cudnn.allow_tf32
    with tensor_float32(not before):
        assert torch.backends.cudnn.allow_tf32 is not before
    assert torch.backends.cudnn.allow_tf32 is before


def test_an_unknown_precision_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="precision is 'fp8'; allowed: fp32, tf32, bf16"):
        attacked(tmp_path, precision="fp8")
