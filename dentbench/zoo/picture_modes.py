"""Pictures of any mode as 8-bit gray or RGB: converted without a loss, or refused."""

from __future__ import annotations

from typing import Any, Final

GRAY: Final = frozenset({"1", "L", "LA"})
"""The modes of PIL that have one channel of at most 8 bits, beside one of transparency."""

_COLORS: Final = frozenset({"RGB", "RGBX", "RGBA", "P", "PA", "CMYK", "YCbCr", "HSV"})

_STILL: Final = frozenset({"MPO"})
"""Formats of cameras, whose further frames are previews of the first."""


def plain(picture: Any, *, upright: bool = True) -> Any:
    """Return a PIL image in the mode "L" or "RGB", the same to the eye.

    ``upright``: turned as its EXIF orientation says. CMYK is converted as PIL does it, without a
    color profile. Raises ``ValueError`` for pictures that lose something: of more than 8 bits per
    channel, with transparent pixels, or of several frames.
    """
    from PIL import ImageOps

    frames = getattr(picture, "n_frames", 1)
    if frames > 1 and picture.format not in _STILL:
        raise ValueError(f"it has {frames} frames; save the one that counts")
    mode = picture.mode
    if mode not in GRAY | _COLORS:
        bits = "more than 8 bits per channel " if mode[0] in "IF" else ""
        raise ValueError(f"it has {bits}(mode {mode}); save it as 8-bit gray or RGB")
    if upright:
        picture = ImageOps.exif_transpose(picture)
    if mode in ("LA", "PA", "RGBA") or "transparency" in picture.info:
        picture = _opaque(picture)
    return picture.convert("L" if mode in GRAY else "RGB")


def _opaque(picture: Any) -> Any:
    whole = picture.convert("LA" if picture.mode in GRAY else "RGBA")
    low, _ = whole.getchannel("A").getextrema()
    if low < 255:
        raise ValueError("it has transparent pixels; put it on a background and save it without")
    return whole


def is_gray(picture: Any) -> bool:
    """Return whether :func:`plain` makes a gray picture of it."""
    return picture.mode in GRAY
