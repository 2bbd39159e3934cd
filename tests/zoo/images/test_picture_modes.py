"""Pictures of every mode, in folders and in parquet: converted rightly, or refused."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from dentbench.errors import DataError
from dentbench.zoo.datasets import load_dataset

RNG = np.random.default_rng(0)
COLORS = RNG.integers(0, 256, (6, 8, 3), dtype=np.uint8)
GRAY = RNG.integers(0, 256, (6, 8), dtype=np.uint8)
FEW = Image.fromarray(COLORS).quantize(16)
OPAQUE = np.full((6, 8), 255, np.uint8)


def with_alpha(mode: str, alpha: Any) -> Any:
    picture = Image.fromarray(GRAY if mode == "LA" else COLORS).convert(mode)
    picture.putalpha(Image.fromarray(alpha))
    return picture


def png_of_16_bits(channels: int) -> bytes:
    """A PNG file by its specification: PIL writes none of 16 bits but gray."""
    pixels = (RNG.random((6, 8, channels)) * 65535).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)

    def chunk(name: bytes, data: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(name + data))
        return struct.pack(">I", len(data)) + name + data + checksum

    head = struct.pack(">IIBBBBB", 8, 6, 16, {2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    chunks = chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


class Written:
    """A file as it is, to be saved as PIL saves a picture."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    def save(self, target: Any, *_: Any) -> None:
        """Write it to a path or a stream."""
        if isinstance(target, Path):
            target.write_bytes(self.content)
        else:
            target.write(self.content)


def turned(number: int) -> dict[str, Any]:
    exif = Image.Exif()
    exif[0x0112] = number
    return {"exif": exif}


def palette(transparency: int | None = None) -> Any:
    picture = FEW.copy()
    if transparency is not None:
        picture.info["transparency"] = transparency
    return picture


Case = tuple[Any, str, dict[str, Any], Any]
RIGHT: dict[str, Case] = {
    "RGB": (Image.fromarray(COLORS), "png", {}, COLORS),
    "L": (Image.fromarray(GRAY), "png", {}, GRAY),
    "1": (Image.fromarray(GRAY > 127), "png", {}, np.uint8(255) * (GRAY > 127)),
    "P": (palette(), "png", {}, np.asarray(FEW.convert("RGB"))),
    "gif": (palette(), "gif", {}, np.asarray(FEW.convert("RGB"))),
    "RGBA": (with_alpha("RGBA", OPAQUE), "png", {}, COLORS),
    "LA": (with_alpha("LA", OPAQUE), "png", {}, GRAY),
    "CMYK": (
        Image.fromarray(COLORS).convert("CMYK"),
        "tiff",
        {},
        np.asarray(Image.fromarray(COLORS).convert("CMYK").convert("RGB")),
    ),
    "turned": (Image.fromarray(COLORS), "tiff", turned(6), np.rot90(COLORS, -1)),
    "mirrored": (Image.fromarray(GRAY), "png", turned(2), GRAY[:, ::-1]),
}
REFUSED: dict[str, tuple[Any, str, dict[str, Any], str]] = {
    "16 bits": (Image.fromarray(GRAY.astype(np.uint16) * 257), "png", {}, "more than 8 bits"),
    **{
        f"16 bits, {channels} channels": (
            Written(png_of_16_bits(channels)),
            "png",
            {},
            "more than 8 bits per channel",
        )
        for channels in (2, 3, 4)
    },
    "32 bits": (Image.fromarray(GRAY.astype(np.int32)), "tiff", {}, "more than 8 bits"),
    "floats": (Image.fromarray(GRAY.astype(np.float32)), "tiff", {}, "more than 8 bits"),
    "transparent": (with_alpha("RGBA", GRAY), "png", {}, "transparent pixels"),
    "gray transparent": (with_alpha("LA", GRAY), "png", {}, "transparent pixels"),
    "palette transparent": (
        palette(int(np.asarray(FEW)[0, 0])),
        "png",
        {"transparency": int(np.asarray(FEW)[0, 0])},
        "transparent pixels",
    ),
    "animated": (
        FEW,
        "gif",
        {"save_all": True, "append_images": [FEW.rotate(90), FEW.rotate(180)]},
        "frames",
    ),
    "pages": (
        Image.fromarray(COLORS),
        "tiff",
        {"save_all": True, "append_images": [Image.fromarray(COLORS)]},
        "2 frames",
    ),
}


def in_a_folder(folder: Path, picture: Any, ending: str, how: dict[str, Any]) -> Any:
    (folder / "pics" / "cat").mkdir(parents=True)
    picture.save(folder / "pics" / "cat" / f"a.{ending}", **how)
    return load_dataset(str(folder / "pics")).images[0:1]


def in_parquet(folder: Path, picture: Any, ending: str, how: dict[str, Any]) -> Any:
    content = io.BytesIO()
    picture.save(content, ending, **how)
    table = pa.table({"img": [{"bytes": content.getvalue()}], "label": [0]})
    pq.write_table(table, folder / "a.parquet")
    return load_dataset(str(folder / "a.parquet")).images[0:1]


PLACES = pytest.mark.parametrize("place", [in_a_folder, in_parquet])


@PLACES
@pytest.mark.parametrize("name", RIGHT)
def test_it_is_the_picture(tmp_path: Path, place: Callable[..., Any], name: str) -> None:
    picture, ending, how, pixels = RIGHT[name]
    actual = place(tmp_path, picture, ending, how)
    expected = torch.from_numpy(np.ascontiguousarray(pixels)).float() / 255
    expected = expected[None] if pixels.ndim == 2 else expected.movedim(2, 0)
    torch.testing.assert_close(actual[0], expected, rtol=0, atol=0)


@PLACES
@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused(tmp_path: Path, place: Callable[..., Any], name: str) -> None:
    picture, ending, how, words = REFUSED[name]
    with pytest.raises(DataError, match=words):
        place(tmp_path, picture, ending, how)


@pytest.mark.parametrize("form", ["PPM", "JPEG2000"])
def test_other_formats_of_more_than_8_bits_in_parquet(tmp_path: Path, form: str) -> None:
    content = io.BytesIO()
    if form == "PPM":
        content.write(b"P6 8 6 65535\n" + RNG.bytes(8 * 6 * 6))
    else:
        Image.fromarray(COLORS).save(content, form)
    picture = Written(content.getvalue())
    with pytest.raises(DataError, match="more than 8 bits per channel"):
        in_parquet(tmp_path, picture, form, {})
    if form == "PPM":
        actual = in_parquet(tmp_path, Image.fromarray(COLORS), form, {})
        assert torch.equal(actual[0], torch.from_numpy(COLORS).movedim(2, 0) / 255)


def test_gray_ones_among_colors_in_parquet(tmp_path: Path) -> None:
    cells = []
    for pixels in (GRAY, COLORS):
        content = io.BytesIO()
        Image.fromarray(pixels).save(content, "png")
        cells.append({"bytes": content.getvalue()})
    pq.write_table(pa.table({"img": cells, "label": [0, 1]}), tmp_path / "a.parquet")
    images = load_dataset(str(tmp_path / "a.parquet")).images[0:2]
    assert images.shape == (2, 3, 6, 8) and torch.equal(images[0, 0], images[0, 2])
