"""Text that users named, made safe for each format: nothing in it is ever run as markup."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final


def printable(text: str) -> str:
    """Return a text on one line, every unprintable character written as its Python escape.

    Control characters, line ends, terminal escapes, writing-direction overrides and lone
    surrogates all count as unprintable; a space does not.
    """
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii")
        for char in text
    )


_MARKDOWN: Final = re.compile(r"([\\`*\[\]|~#!])|(?<![0-9A-Za-z])_|_(?![0-9A-Za-z])")


@lru_cache(maxsize=1 << 14)
def markdown(text: str) -> str:
    """Return a text that Markdown shows as it is, also inside a table's cell."""
    safe = printable(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _MARKDOWN.sub(lambda match: "\\" + match[0], safe)


_LATEX: Final = {
    **{char: f"\\{char}" for char in "{}_%&#$"},
    "\u2713": r"$\checkmark$",
    "\u00d7": r"$\times$",
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "`": r"\textasciigrave{}",
    "'": r"\textquotesingle{}",
    # After a row's end these would be read as its options.
    **{char: f"{{{char}}}" for char in "[]*"},
}
_LIGATURE: Final = re.compile(r"([-,])(?=\1)")
"""Pairs that T1 fonts set as a dash or a low quotation mark."""


@lru_cache(maxsize=1 << 14)
def latex(text: str) -> str:
    """Return a text that LaTeX sets as it is, in text mode and with pdfTeX's own encodings.

    Characters beyond the letters of Western European languages, which a plain pdfTeX document
    cannot set, become their code point in brackets.
    """
    return _LIGATURE.sub(r"\1{}", "".join(map(_latex_char, printable(text))))


def _latex_char(char: str) -> str:
    if char in _LATEX or char < "\x7f" or "\xc0" <= char <= "\xff":
        return _LATEX.get(char, char)
    return f"{{[}}U+{ord(char):04X}{{]}}"
