"""torch.compile on a GPU: the same answers, alone and recorded. It takes long, so it comes last."""

from __future__ import annotations

import pytest
import torch

from dentbench import Dent, DentSpec
from dentbench.compute.torch_compile import Compiled, compiled_if_right
from tests.compute.networks import network
from tests.gpu.test_cuda_graphs import dents, gradient, require_same, small
from tests.gpu.test_numbers import far


def test_a_compiled_network_answers_the_same() -> None:
    plain = network().cuda().requires_grad_(False)
    x = torch.rand(8, 3, 6, 6, device="cuda")
    fast = compiled_if_right(plain, x)
    assert isinstance(fast, Compiled)
    for wrap in (lambda one: one, lambda one: Dent(one, DentSpec(steps=2))):
        pairs = zip(gradient(wrap(fast), x), gradient(wrap(plain), x), strict=True)
        assert all(far(one, other) < 1e-3 for one, other in pairs)
    assert not fast._failed


def test_of_a_compiled_network(caplog: pytest.LogCaptureFixture) -> None:
    plain, *_ = dents(small(), DentSpec(steps=2))
    compiled = Compiled(small())
    _, graphs, *_ = dents(compiled, DentSpec(steps=2))
    require_same(plain, graphs, (8, 3, 6, 6), 1e-4)
    assert graphs._descent._recordings, caplog.text
    assert not any(isinstance(one, Compiled) and one._failed for one in graphs.modules())
