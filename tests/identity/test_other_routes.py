"""What changes answers by an unusual route counts: order, operators, modes, kinds of tensors."""

from __future__ import annotations

import contextvars
import ctypes
import functools
import logging
import shutil
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from dentbench.errors import ModelError
from dentbench.identity import code
from dentbench.identity.fingerprint import fingerprint
from dentbench.identity.user_code import load
from dentbench.zoo.models import code_of
from dentbench.zoo.weights import weights_sha256
from tests.helpers import forget_modules


def doubled(x: Tensor) -> Tensor:
    return x * 2


def raised(x: Tensor) -> Tensor:
    return x + 1


@pytest.mark.parametrize("kind", [dict, OrderedDict])
@pytest.mark.parametrize(
    "items", [[("a", doubled), ("b", raised)], [("mul", 2.0), ("add", 1.0)], [(1, "a"), (2, "b")]]
)
def test_the_order_of_a_dictionary_counts(
    kind: Callable[[Any], Any], items: list[tuple[Any, Any]]
) -> None:
    """Code goes through it in that order: other orders of the same steps are another network."""
    first, same, other = (
        fingerprint(SimpleNamespace(steps=kind(i))) for i in (items, items, items[::-1])
    )
    assert first == same != other


def test_the_order_of_attributes_and_of_arguments_by_name_says_nothing() -> None:
    assert fingerprint(SimpleNamespace(a=1, b=2)) == fingerprint(SimpleNamespace(b=2, a=1))
    partials = functools.partial(dict, a=1, b=2), functools.partial(dict, b=2, a=1)
    assert fingerprint(partials[0]) == fingerprint(partials[1])


TENSORS: dict[str, Callable[[float], Tensor]] = {
    "sparse": lambda by: torch.tensor([[0.0, by]]).to_sparse(),
    "of compressed rows": lambda by: torch.tensor([[0.0, by]]).to_sparse_csr(),
    "conjugated": lambda by: torch.tensor([1 + by * 1j]).conj(),
    "the imaginary part": lambda by: torch.tensor([1 + by * 1j]).conj().imag,
    "one number of many": lambda by: torch.tensor([[by, 0.0]])[:, 0],
    "every second": lambda by: torch.tensor([by, 0.0, 1.0])[::2],
    "repeated": lambda by: torch.tensor([by]).expand(3),
    "quantized": lambda by: torch.quantize_per_tensor(torch.zeros(2), by, 0, torch.qint8),
    "half": lambda by: torch.tensor([by]).half(),
    "empty": lambda by: torch.zeros(0, int(by)),
}


@pytest.mark.filterwarnings("ignore:.*quantize.*deprecated", "ignore:Sparse CSR")
@pytest.mark.parametrize("kind", TENSORS)
def test_a_tensor_of_any_kind_counts(kind: str) -> None:
    known = []
    for by in (2.0, 2.0, 3.0):
        network = nn.Module()
        network.register_buffer("kept", TENSORS[kind](by))
        network.register_buffer("left_out", TENSORS[kind](by), persistent=False)
        known.append((weights_sha256(network), code_of(network)))
    assert known[0] == known[1]
    assert all(first != other for first, other in zip(known[0], known[2], strict=True))


def test_a_view_is_the_tensor_that_it_shows() -> None:
    plain, view = nn.Module(), nn.Module()
    plain.register_buffer("mean", torch.tensor([2.0]))
    view.register_buffer("mean", torch.tensor([[2.0, 5.0]])[:, 0])
    assert weights_sha256(plain) == weights_sha256(view)


OPERATOR = """
import torch
from torch import nn

lib = torch.library.Library("dentbench_routes", "DEF")
lib.define("op(Tensor x) -> Tensor")
lib.impl("op", lambda x: x * 2.0, "CompositeImplicitAutograd")
OP = torch.ops.dentbench_routes.op


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.op = {HELD}

    def forward(self, x):
        return {CALL}


def make():
    return Net().eval()
"""


@pytest.mark.parametrize(
    ("call", "held"),
    [
        ("torch.ops.dentbench_routes.op(x)", "1"),
        ("OP(x)", "1"),
        ("self.op(x)", "OP"),
        ("self.op(x)", "OP.default"),
    ],
)
def test_an_operator_registered_in_python_counts(call: str, held: str, tmp_path: Path) -> None:
    known = []
    for factor in ("2.0", "2.0", "3.0"):
        source = OPERATOR.replace("{CALL}", call).replace("{HELD}", held)
        (tmp_path / "routes_operator.py").write_text(source.replace("2.0", factor))
        forget_modules("routes_operator")
        make, _ = load(f"{tmp_path}/routes_operator.py:make")
        known.append(code_of(make()))
        sys.modules["routes_operator"].lib._destroy()
    forget_modules("routes_operator")
    assert known[0] == known[1] != known[2]


class Doubling(TorchFunctionMode):
    def __init__(self, by: float) -> None:
        super().__init__()
        self.by = by

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return function(*args, **(kwargs or {}))


class Dispatching(TorchDispatchMode):
    def __init__(self, by: float) -> None:
        super().__init__()
        self.by = by

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", [Doubling, Dispatching])
def test_a_mode_that_sees_every_function_of_torch_counts(kind: Callable[[float], Any]) -> None:
    network = nn.ReLU()
    plain = fingerprint(network)
    known = []
    for by in (2.0, 2.0, 3.0):
        with ExitStack() as stack:
            stack.enter_context(kind(by))
            known.append(fingerprint(network))
    assert known[0] == known[1]
    assert len({plain, *known}) == 3
    with torch.device("cpu"):
        assert fingerprint(network) == plain, "a mode of torch's own"


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_traced_function_counts_by_its_constants() -> None:
    def traced(by: float) -> Any:
        constant = torch.tensor([by, 1.0])
        return torch.jit.trace(lambda x: x * constant, torch.rand(2))

    first, same, other = (fingerprint(traced(by)) for by in (2.0, 2.0, 3.0))
    assert first == same != other


def chosen_by_type(by: float) -> Callable[[Any], Any]:
    @functools.singledispatch
    def change(x: Any) -> Any:
        return x

    @change.register
    def _(x: Tensor) -> Tensor:
        return x * by

    return change


def test_a_function_chosen_by_type_is_the_same_once_it_was_called() -> None:
    first, other = chosen_by_type(2.0), chosen_by_type(3.0)
    before = fingerprint(first)
    first(torch.ones(1))
    assert fingerprint(first) == before != fingerprint(other)


LEVEL: contextvars.ContextVar[float] = contextvars.ContextVar("LEVEL", default=1.0)
UNSET: contextvars.ContextVar[float] = contextvars.ContextVar("UNSET")


class OfContext(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * LEVEL.get() * UNSET.get(1.0)


def test_a_variable_of_the_context_counts() -> None:
    plain = code_of(OfContext())
    token = LEVEL.set(2.0)
    assert code_of(OfContext()) != plain
    LEVEL.reset(token)
    assert code_of(OfContext()) == plain


def test_a_patch_inside_a_library_of_networks_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    transforms = pytest.importorskip("torchvision.transforms")
    blur = transforms.GaussianBlur(3)
    plain = fingerprint(blur)
    known = set()
    for by in (2.0, 3.0):
        monkeypatch.setattr(transforms.functional, "gaussian_blur", lambda x, *_, by=by: x * by)
        known.add(fingerprint(blur))
    assert len({plain, *known}) == 3
    monkeypatch.undo()
    assert fingerprint(blur) == plain


def test_a_compiled_library_counts_by_its_file(tmp_path: Path) -> None:
    original = next((Path(torch.__file__).parent / "lib").glob("libtorch_global_deps.so"), None)
    if original is None:
        pytest.skip("torch has no such library here")
    known = []
    for number, more in enumerate((b"", b"", b"other")):
        (tmp_path / str(number)).mkdir()
        copy = Path(shutil.copy(original, tmp_path / str(number)))
        with copy.open("ab") as file:
            file.write(more)
        known.append(fingerprint(SimpleNamespace(library=ctypes.CDLL(str(copy)))))
    assert known[0] == known[1] != known[2]


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], str]]:
    """Return what installs a package under one version, and returns the identity of its user."""
    place = tmp_path / "site-packages"
    monkeypatch.syspath_prepend(str(place))

    def install(level: str) -> str:
        info = place / "routes_installed-1.0.dist-info"
        for folder in (place / "routes_installed", info):
            folder.mkdir(parents=True, exist_ok=True)
        (place / "routes_installed" / "__init__.py").write_text(
            f"def f(x):\n    return x * {level}"
        )
        (info / "METADATA").write_text(
            "Metadata-Version: 2.1\nName: routes-installed\nVersion: 1.0\n"
        )
        (info / "top_level.txt").write_text("routes_installed\n")
        (info / "RECORD").write_text(f"routes_installed/__init__.py,sha256={level},40\n")
        (tmp_path / "routes_user.py").write_text(
            "from torch import nn\nimport routes_installed\n\n\nclass Net(nn.Module):\n"
            "    def forward(self, x):\n        return routes_installed.f(x)\n"
        )
        code.version_of.cache_clear()
        forget_modules("routes_")
        make, _ = load(f"{tmp_path}/routes_user.py:Net")
        return code_of(make())

    yield install
    forget_modules("routes_")
    code.version_of.cache_clear()


def test_a_package_installed_again_under_its_version_counts(
    installed: Callable[[str], str],
) -> None:
    assert installed("2.0") == installed("2.0") != installed("3.0")


def test_a_file_that_is_written_to_says_nothing(tmp_path: Path) -> None:
    """Such as a log; one that is read would count, and cannot be written down."""
    plain = fingerprint(SimpleNamespace(level=1, log=None))
    with (tmp_path / "a.log").open("a") as log, (tmp_path / "b.log").open("wb") as other:
        first, second = (fingerprint(SimpleNamespace(level=1, log=log)) for log in (log, log))
        log.write("more")
        assert first == second == fingerprint(SimpleNamespace(level=1, log=log)) != plain
        assert fingerprint(SimpleNamespace(level=2, log=log)) != first
        assert fingerprint(logging.StreamHandler(log)) == fingerprint(logging.StreamHandler(log))
        assert fingerprint(SimpleNamespace(log=other)) == fingerprint(SimpleNamespace(log=other))
    with (tmp_path / "a.log").open() as read, pytest.raises(ModelError, match="log is a _io"):
        fingerprint(SimpleNamespace(log=read))
