"""Pictures of any mode as 8-bit gray or RGB: converted without a loss, or refused."""

from __future__ import annotations

from typing import Any, Final

from dentbench.errors import joined_lines
from dentbench.zoo.file_kinds import kind_of_bytes

SUFFIXES: Final = frozenset(
    {
        *(".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff"),
        *(".ppm", ".pgm", ".pbm", ".pnm", ".jfif", ".jpe"),
    }
)
"""How files of pictures end."""

GRAY: Final = frozenset({"1", "L", "LA"})
"""The modes of PIL that have one channel of at most 8 bits, beside one of transparency."""

_COLORS: Final = frozenset({"RGB", "RGBX", "RGBA", "P", "PA", "CMYK", "YCbCr", "HSV"})

_STILL: Final = frozenset({"MPO"})
"""Formats of cameras, whose further frames are previews of the first."""


_OF_ANY_DEPTH: Final = frozenset({"JPEG2000", "AVIF"})
"""Formats that may have more than 8 bits per channel, which PIL does not tell."""


def plain(picture: Any, *, upright: bool = True) -> Any:
    """Return a PIL image in the mode "L" or "RGB", the same to the eye.

    ``upright``: turned as its EXIF orientation says. CMYK is converted as PIL does it, without a
    color profile. Raises ``ValueError`` for pictures that lose something: of more than 8 bits per
    channel, or of a format that may have more, with transparent pixels, or of several frames.
    """
    from PIL import ImageOps

    frames = getattr(picture, "n_frames", 1)
    if frames > 1 and picture.format not in _STILL:
        raise ValueError(f"it has {frames} frames; save a single frame")
    mode = picture.mode
    deep = mode[0] in "IF" or _is_deep(picture)
    if mode not in GRAY | _COLORS or deep:
        has = "more than 8 bits per channel" if deep else "other channels than gray or RGB"
        raise ValueError(f"it has {has} (mode {mode}); save it as 8-bit gray or RGB")
    if upright:
        picture = ImageOps.exif_transpose(picture)
    if mode in ("LA", "PA", "RGBA") or "transparency" in picture.info:
        picture = _opaque(picture)
    return picture.convert("L" if mode in GRAY else "RGB")


def _is_deep(picture: Any) -> bool:
    """Return whether PIL would shorten a picture of more than 8 bits per channel, and not say so.

    Its mode is RGB all the same. Its raw mode tells the bits, before it is decoded.
    """
    if picture.format in _OF_ANY_DEPTH:
        return True
    arguments = [argument for tile in getattr(picture, "tile", ()) for argument in _listed(tile[3])]
    deep = any(isinstance(argument, str) and ";16" in argument for argument in arguments)
    return deep or (picture.format == "PPM" and any(_exceeds(argument) for argument in arguments))


def _listed(arguments: Any) -> tuple[Any, ...]:
    return arguments if isinstance(arguments, tuple) else (arguments,)


def _exceeds(most: Any) -> bool:
    """Return whether a PPM's largest value does not fit into 8 bits."""
    return isinstance(most, int) and most > 255


def _opaque(picture: Any) -> Any:
    whole = picture.convert("LA" if picture.mode in GRAY else "RGBA")
    low, _ = whole.getchannel("A").getextrema()
    if low < 255:
        raise ValueError("it has transparent pixels; put it on a background and save it without")
    return whole


def reason(error: Exception, content: bytes) -> str:
    """Return why the content of a file of a picture cannot be decoded, without PIL's own words."""
    from PIL import UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):
        kind = kind_of_bytes(content)
        return f"it is {kind}" if kind else "its format is none that is read"
    return joined_lines(error)


def is_gray(picture: Any) -> bool:
    """Return whether :func:`plain` makes a gray picture of it."""
    return picture.mode in GRAY
