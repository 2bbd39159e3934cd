"""C code compiled by the machine's compiler, and what is done where it cannot be."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from dentbench.compute.cpu_kernels import c_library

HALF = "double half(double x) { return x / 2; }\n"


@pytest.fixture(autouse=True)
def _afterwards_none() -> Iterator[None]:
    yield
    c_library.build_in(None)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "half.c"
    path.write_text(HALF)
    return path


def libraries(folder: Path) -> list[str]:
    return [path.name for path in folder.glob("*.so")]


needs_compiler = pytest.mark.skipif(
    not c_library.compiler() or c_library._openmp() is None, reason="this machine has no C compiler"
)


@needs_compiler
def test_it_is_compiled_once(tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = tmp_path / "calls"
    compiler = tmp_path / "compiler"
    compiler.write_text(f'#!/bin/sh\necho called >> {calls}\nexec {shutil.which("cc")} "$@"\n')
    compiler.chmod(0o755)
    monkeypatch.setenv("CC", str(compiler))
    c_library.build_in(tmp_path / "made")
    for _ in range(2):
        c_library._library.cache_clear()  # as in another process
        assert c_library.library(source) is not None
    assert calls.read_text().splitlines() == ["called"] * 2  # compiled, and linked
    assert len(libraries(tmp_path / "made")) == 1


@needs_compiler
def test_code_that_was_changed_is_compiled_again(tmp_path: Path, source: Path) -> None:
    c_library.build_in(tmp_path / "made")
    assert c_library.library(source) is not None
    source.write_text(HALF.replace("2", "3"))
    c_library._library.cache_clear()
    assert c_library.library(source) is not None
    assert len(libraries(tmp_path / "made")) == 2


def test_nothing_is_compiled_unless_asked(source: Path) -> None:
    assert c_library.library(source) is None


@pytest.mark.parametrize("compiler", ["no-such-compiler", "false"])
def test_without_a_compiler_it_is_done_without(
    compiler: str, tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", compiler)
    c_library.build_in(tmp_path / "made")
    assert c_library.library(source) is None
    assert not libraries(tmp_path / "made")


def test_no_compiler_is_found(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    c_library.build_in(tmp_path / "made")
    assert c_library.library(source) is None


def test_without_the_openmp_of_pytorch_it_is_done_without(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(c_library, "_openmp", lambda: None)
    c_library.build_in(tmp_path / "made")
    assert c_library.library(source) is None


def test_what_is_no_c_is_done_without(tmp_path: Path, source: Path) -> None:
    source.write_text("this is no C")
    c_library.build_in(tmp_path / "made")
    assert c_library.library(source) is None


def test_without_a_folder_to_write_to_it_is_done_without(source: Path) -> None:
    c_library.build_in(source / "made")  # a file is no folder
    assert c_library.library(source) is None


@needs_compiler
@pytest.mark.parametrize("mode", [0o770, 0o707])
def test_a_library_that_others_can_write_is_not_loaded(
    mode: int, tmp_path: Path, source: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = tmp_path / "made"
    made.mkdir()
    made.chmod(mode)
    c_library.build_in(made)
    assert c_library.library(source) is None and not libraries(made)
    assert "is not this user's alone" in caplog.text


@needs_compiler
def test_what_another_left_in_the_folder_is_not_loaded(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    c_library.build_in(tmp_path / "made")
    assert c_library.library(source) is not None
    monkeypatch.setattr(os, "getuid", lambda: -1)  # to whom none of it belongs
    c_library._library.cache_clear()
    assert c_library.library(source) is None
    monkeypatch.undo()
    (library,) = (tmp_path / "made").glob("*.so")
    library.rename(tmp_path / "elsewhere.so")
    library.symlink_to(tmp_path / "elsewhere.so")
    c_library._library.cache_clear()
    assert c_library.library(source) is None
