"""Move bytes from a source to a ``.part`` file, resumed by range request, retried with backoff.

A download is not trusted here; :mod:`dentbench.zoo.download.cache` verifies it. Standard
library only, but for gdown, which is imported when Google Drive's direct address does not answer.
"""

from __future__ import annotations

import html
import http.client
import json
import re
import shutil
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

from dentbench.paths import expanded

Progress = Callable[[str, int, int | None], None]
"""Called with a file's name, the bytes that are there and the bytes in all (None: unknown)."""

DRIVE_DIRECT = "https://drive.usercontent.google.com/download?id={id}&export=download&confirm=t"
DRIVE_PAGE = "https://drive.google.com/uc?id={id}"
CHUNK: Final = 1 << 18
_RETRIED: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
_QUOTA: Final = ("quota", "too many users", "download limit")


@dataclass(frozen=True, kw_only=True)
class Policy:
    """How often a download is tried without any progress; seconds between tries, and per read."""

    tries: int = 5
    delay: float = 1.0
    longest_delay: float = 30.0
    timeout: float = 30.0


class SourceError(Exception):
    """A source that did not deliver; ``again`` says whether another try may help."""

    def __init__(self, reason: str, *, again: bool = False, wait: float | None = None) -> None:
        super().__init__(reason)
        self.again = again
        self.wait = wait


def download(
    source: str, part: Path, *, name: str, policy: Policy, progress: Progress | None = None
) -> bool:
    """Bring ``source`` to ``part``: an http(s) or file URL, a local path or ``gdrive:ID``.

    Continues a ``part`` left by an earlier attempt on the same source; returns whether the file
    was pieced together. Raises :class:`SourceError` with the reason in words; ``part`` then holds
    the bytes that had arrived.
    """
    if source.startswith("gdrive:"):
        return _from_drive(source.removeprefix("gdrive:"), part, name, policy, progress)
    if is_local(source):
        _copy(source, part)
        return False
    if not source.startswith(("http://", "https://")):
        raise SourceError("only http, https and file addresses and local paths can be fetched")
    return _patiently(source, part, name, policy, progress)


def is_local(source: str) -> bool:
    """Whether a source is a file of this machine, which takes no connection."""
    return "://" not in source.removeprefix("file://") and not source.startswith("gdrive:")


def _copy(source: str, part: Path) -> None:
    if source.startswith("file:"):
        source = urllib.request.url2pathname(urllib.parse.urlsplit(source).path)
    path = expanded(source)
    if not path.is_file():
        raise SourceError(f"there is no file {path}")
    shutil.copyfile(path, part)


def _from_drive(
    drive_id: str, part: Path, name: str, policy: Policy, progress: Progress | None
) -> bool:
    try:
        return _patiently(DRIVE_DIRECT.format(id=drive_id), part, name, policy, progress)
    except SourceError as error:
        if error.again:  # no connection to Drive: there is none for gdown either
            raise
        try:
            return _by_gdown(DRIVE_PAGE.format(id=drive_id), part)
        except SourceError as second:
            raise SourceError(f"{error}; then gdown: {second}") from second


def _by_gdown(url: str, part: Path) -> bool:
    """Let gdown find its way through Google Drive's pages, in a folder of its own to resume in."""
    try:
        import gdown
    except ImportError:
        raise SourceError("gdown is not installed") from None
    folder = part.with_suffix(".gdown")
    folder.mkdir(exist_ok=True)
    # gdown resumes only where a single temporary file is left.
    left = sorted(folder.iterdir(), key=lambda path: path.stat().st_size)
    for path in left[:-1]:
        path.unlink()
    try:
        got = gdown.download(
            url=url, output=str(folder / "file"), quiet=True, use_cookies=False, resume=True
        )
    except Exception as error:  # gdown raises requests' and its own errors
        reason = plain_reason(error)
        raise SourceError(f"{reason}{_quota(str(error))}") from error
    if got is None:
        raise SourceError("nothing was delivered")
    with Path(got).open("rb") as file:
        head = file.read(CHUNK)
    Path(got).replace(part)
    shutil.rmtree(folder, ignore_errors=True)
    if is_page(head):  # gdown does not look at the answer
        discard(part)
        raise SourceError(f"the server answered with {page_words(head)}")
    return bool(left)


def _patiently(url: str, part: Path, name: str, policy: Policy, progress: Progress | None) -> bool:
    """Try until the file is complete, or until ``policy.tries`` tries brought nothing new."""
    fruitless, resumed = 0, False
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            return _once(url, part, name, policy, progress) or resumed
        except SourceError as error:
            after = part.stat().st_size if part.exists() else 0
            resumed = resumed or after > 0
            fruitless = 0 if after > before else fruitless + 1
            if not error.again or fruitless >= policy.tries:
                raise
            delay = policy.delay * 2 ** max(fruitless - 1, 0)
            time.sleep(min(error.wait if error.wait is not None else delay, policy.longest_delay))


def _once(url: str, part: Path, name: str, policy: Policy, progress: Progress | None) -> bool:
    start, validator = _resume_point(url, part)
    headers = {"User-Agent": "dentbench", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
        if validator:
            headers["If-Range"] = validator
    try:
        request = urllib.request.Request(url, headers=headers)
        with urllib.request.urlopen(request, timeout=policy.timeout) as response:
            return _receive(response, url, part, start, name, progress)
    except urllib.error.HTTPError as error:
        if error.code == 416:
            part.unlink(missing_ok=True)
            raise SourceError("the server refused to continue the download", again=True) from error
        raise _http_error(error) from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error)
        words = "timed out" if isinstance(reason, TimeoutError) else plain_reason(reason)
        raise SourceError(f"connection failed ({words})", again=True) from error


_CAUSES: Final = (
    (
        r"name or service not known|name resolution|getaddrinfo|resolve",
        "this machine cannot resolve the host's name",
    ),
    (r"refused", "the connection was refused"),
    (r"certificate|ssl", "its certificate was not accepted"),
    (r"proxy", "the proxy did not let it through"),
    (r"unreachable", "the network cannot be reached"),
    (r"timed out|timeout", "timed out"),
    (r"reset|aborted|remote end closed", "the connection was cut"),
)
"""Texts in errors of libraries, and their meaning."""


def plain_reason(error: object) -> str:
    """Return why a connection failed, in our words in place of a library's."""
    text = re.sub(r"\s+", " ", str(error)).strip().rstrip(".")
    for pattern, words in _CAUSES:
        if re.search(pattern, text, re.I):
            return words
    return text.partition(": ")[0] if "Pool(" in text else text or type(error).__name__


def _receive(
    response: Any, url: str, part: Path, start: int, name: str, progress: Progress | None
) -> bool:
    """Write a response's body after the part that is there, or afresh where the server does."""
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
    resumed = response.status == 206 and match is not None and int(match[1]) == start
    if response.status == 206 and not resumed:
        part.unlink(missing_ok=True)
        raise SourceError("the server answered with another part of the file", again=True)
    start = start if resumed else 0
    length = response.headers.get("Content-Length")
    total = int(match[2]) if match and resumed else (int(length) if length else None)
    first = response.read(CHUNK)
    if not start:
        _refuse_page(response.headers.get("Content-Type", ""), first)
    _note(url, part, response.headers.get("ETag") or response.headers.get("Last-Modified"))
    with part.open("ab" if resumed else "wb") as file:
        done = _pour(response, first, file, start, total, name, progress)
    if total is not None and done < total:
        raise SourceError(f"connection closed after {done:,} of {total:,} bytes", again=True)
    return resumed


def _pour(
    response: Any,
    chunk: bytes,
    file: IO[bytes],
    done: int,
    total: int | None,
    name: str,
    progress: Progress | None,
) -> int:
    while chunk:
        file.write(chunk)
        done += len(chunk)
        if progress is not None:
            progress(name, done, total)
        chunk = response.read(CHUNK)
    return done


def _state_path(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _note(url: str, part: Path, validator: str | None) -> None:
    """Remember where ``part`` comes from, so that only the same file is ever continued."""
    weak = validator is None or validator.startswith("W/")
    state = {"url": url, "validator": None if weak else validator}
    _state_path(part).write_text(json.dumps(state), encoding="utf-8")


def _resume_point(url: str, part: Path) -> tuple[int, str | None]:
    """Bytes of ``part`` that can be kept, and the validator to send; another source's are not."""
    try:
        state = json.loads(_state_path(part).read_text(encoding="utf-8"))
        if state["url"] == url:
            return part.stat().st_size, state["validator"]
    except (OSError, ValueError, KeyError, TypeError):
        pass
    part.unlink(missing_ok=True)
    return 0, None


def discard(part: Path) -> None:
    """Remove a ``.part`` file and its notes."""
    part.unlink(missing_ok=True)
    _state_path(part).unlink(missing_ok=True)


def _http_error(error: urllib.error.HTTPError) -> SourceError:
    try:
        page = error.read(CHUNK)
    except (OSError, http.client.HTTPException):
        page = b""
    wait = error.headers.get("Retry-After") if error.headers else None
    seconds = float(wait) if wait and wait.isdecimal() else None
    words = f"the server answered {error.code} {error.reason or ''}".rstrip()
    again = error.code in _RETRIED
    return SourceError(words + _quota(page.decode("utf-8", "replace")), again=again, wait=seconds)


def _quota(text: str) -> str:
    if any(word in text.lower() for word in _QUOTA):
        return " (download quota exceeded: try again in a day, or use a mirror)"
    return ""


def is_page(head: bytes) -> bool:
    """Whether bytes begin like a web page, which no file of ours is."""
    return (
        re.match(rb"\s*(?:\xef\xbb\xbf)?\s*<(?:!doctype|html|head|\?xml)", head, re.I) is not None
    )


def page_words(head: bytes) -> str:
    """Describe a web page by its title."""
    text = head.decode("utf-8", "replace")
    title = re.search(r"<title[^>]*>(.*?)</title>", text, re.I | re.S)
    named = html.unescape(re.sub(r"\s+", " ", title[1])).strip() if title else ""
    return f"a web page{f' ({named!r})' if named else ''} instead of the file{_quota(text)}"


def _refuse_page(content_type: str, head: bytes) -> None:
    if is_page(head) or content_type.split(";")[0].strip().lower() == "text/html":
        raise SourceError(f"the server answered with {page_words(head)}")
