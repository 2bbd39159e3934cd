"""The kind of a file that cannot be read, by its first bytes: a page, a pointer, an archive."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Final

TORCH: Final = "a file of torch.save"
ZIP_OF: Final = "a zip archive of "

PARQUET: Final = b"PAR1"
"""How a parquet file begins and ends."""

HEAD: Final = 512
"""How many bytes at the beginning of a file are looked at."""

_TEXT: Final = (
    (b"version https://git-lfs", "a pointer of Git LFS, not the file itself; run git lfs pull"),
    (b"<", "a web page or XML, as of a download that was refused; fetch the file again"),
    (b"{", "JSON, as of a download that was refused; fetch the file again"),
)
"""How files of text begin, in lower case and after white space, and their kinds."""

_BINARY: Final = (
    (b"\x1f\x8b", "compressed by gzip; unpack it first"),
    (b"\xfd7zXZ", "compressed by xz; unpack it first"),
    (b"BZh", "compressed by bzip2; unpack it first"),
    (b"7z\xbc\xaf", "a 7z archive; unpack it first"),
    (b"Rar!", "a RAR archive; unpack it first"),
    (b"\x89HDF", "an HDF5 file, as of Keras"),
    (PARQUET, "a parquet file"),
    (b"\x93NUMPY", "a single NumPy array (.npy)"),
    (b"%PDF", "a PDF"),
)
"""How files of bytes begin, and their kinds."""


def kind_of(path: Path) -> str:
    """Return a file's kind, in words that follow "it is"; "" where its first bytes say nothing."""
    try:
        with path.open("rb") as file:
            head = file.read(HEAD)
    except OSError:
        return ""
    if is_safetensors(path):
        return "a safetensors file"
    if head.startswith(PARQUET) and not _tail(path).endswith(PARQUET):
        return "a parquet file that is cut off; fetch the file again"
    return _zip_kind(path) if head.startswith(b"PK\x03\x04") else kind_of_bytes(head)


def _tail(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(-min(len(PARQUET), path.stat().st_size), 2)
        return file.read()


def kind_of_bytes(content: bytes) -> str:
    """Return the kind of content, as :func:`kind_of` does of a file."""
    if not content:
        return "empty"
    if not content.strip(b"\0"):
        return "nothing but zeros; fetch the file again"
    text = content.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for kinds, begun in ((_BINARY, content), (_TEXT, text)):
        for start, words in kinds:
            if begun.startswith(start):
                return words
    if content[:HEAD].isascii() and content[:HEAD].decode("ascii").isprintable():
        return "plain text"
    return ""


def is_plain_pickle(path: Path) -> bool:
    """Return whether a file is a pickle, and not that of torch.save's older format.

    That begins, in protocol 2, with torch's magic number of ten bytes.
    """
    with path.open("rb") as file:
        head = file.read(4)
    return head[:1] == b"\x80" and head != b"\x80\x02\x8a\x0a"


def is_safetensors(path: Path) -> bool:
    """Return whether a file begins as safetensors does: the size of a JSON header, then it."""
    with path.open("rb") as file:
        head = file.read(9)
    size = int.from_bytes(head[:8], "little")
    return len(head) == 9 and head[8:] == b"{" and size <= path.stat().st_size


def _zip_kind(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile:
        return "a zip archive that is cut off or damaged; fetch the file again"
    if any("/code/" in name or name.startswith("code/") for name in names):
        return "a TorchScript archive"
    if names and all(name.endswith(".npy") for name in names):
        return "an .npz file"
    if any(name.endswith("/data.pkl") for name in names):
        return TORCH
    return ZIP_OF + (", ".join(names[:3]) or "nothing")
