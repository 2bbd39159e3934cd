"""The hash of a file's contents is that of hashlib; a large file's follows its ends and samples."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from dentbench.identity import contents
from dentbench.identity.contents import contents_sha256


def test_it_is_the_hash_of_the_contents(tmp_path: Path) -> None:
    file = tmp_path / "levels.dat"
    for text in (b"", b"2", b"3" * 100_000):
        file.write_bytes(text)
        assert contents_sha256(file) == hashlib.sha256(text).hexdigest()


def test_a_file_written_again_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "levels.dat"
    file.write_bytes(b"2")
    first = contents_sha256(file)
    os.utime(file, ns=(1, 1))
    assert contents_sha256(file) == first, "when it was written says nothing"
    known = set()
    for text in b"3456789":
        file.write_bytes(bytes([text]))
        known.add(contents_sha256(file))
    assert len(known - {first}) == 7


def test_a_large_file_counts_by_its_size_its_ends_and_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contents, "LARGE", 1000)
    monkeypatch.setattr(contents, "_SAMPLES", 3)
    monkeypatch.setattr(contents, "_SAMPLE", 100)
    known = []
    for place in (None, None, 0, 1999, 1000):
        data = bytearray(b"2" * 2000)
        if place is not None:
            data[place] = ord("3")
        file = tmp_path / f"{len(known)}.dat"
        file.write_bytes(data)
        known.append(contents_sha256(file))
    file = tmp_path / "shorter.dat"
    file.write_bytes(b"2" * 1999)
    known.append(contents_sha256(file))
    assert known[0] == known[1]
    assert len({*known}) == len(known) - 1
