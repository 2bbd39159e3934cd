"""Write files so that a crash leaves the old content or the new, and never a part."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from dentbench.errors import StoreError, os_reason


def is_stream(path: str | Path) -> bool:
    """Return whether a path is a device, a FIFO, a socket, or an open file by /dev or /proc.

    The last, such as /dev/stdout, may lead to a regular file, which others have open.
    """
    whole = Path(path).absolute()
    try:
        mode = whole.stat().st_mode
    except OSError:
        return False
    if stat.S_ISREG(mode) and whole.parts[1:2] in (("dev",), ("proc",)):
        return whole.parts[1:3] != ("dev", "shm")
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


def _write_into(path: Path, data: bytes) -> None:
    """Write into an existing file or pipe; a reader that has gone raises BrokenPipeError."""
    with explained("write", path):
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)


def write_atomic(path: str | Path, content: str | bytes) -> None:
    """Write a file so that a crash leaves either its old or its new content, never a part.

    Text is written as UTF-8 with its line ends as they are. A symbolic link is followed and the
    file's permissions are kept. A path that is no regular file (see :func:`is_stream`) is never
    replaced: the content is written into it. Raises :class:`~dentbench.errors.StoreError` when it
    cannot be written, for one because its folder does not exist.
    """
    data = content.encode() if isinstance(content, str) else content
    if is_stream(path):
        _write_into(Path(path), data)
        return
    target = Path(os.path.realpath(path))
    scratch = target.with_name(f".{target.name}.{os.urandom(4).hex()}.tmp")
    with explained("write", Path(path)):
        try:
            with scratch.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            with suppress(FileNotFoundError):
                scratch.chmod(target.stat().st_mode & 0o7777)
            scratch.replace(target)
        finally:
            scratch.unlink(missing_ok=True)
        _sync_folder(target.parent)


def append_bytes(path: Path, data: bytes) -> None:
    """Append in one write and sync; when that fails the file keeps its former length."""
    with path.open("ab", buffering=0) as file:
        length = file.seek(0, os.SEEK_END)
        try:
            if file.write(data) != len(data):
                raise OSError(28, "no space left for a whole row")
            os.fsync(file.fileno())
        except BaseException:
            with suppress(OSError):
                file.truncate(length)
            raise


def _sync_folder(folder: Path) -> None:
    with suppress(OSError):  # not every system can sync a folder
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


_ROOM: Final = "; make room, and the same command goes on: what was finished is kept"
_ELSEWHERE: Final = "; choose a folder that can be written"
_REMEDIES: Final = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), _ROOM),
    errno.EFBIG: "; raise the limit of a file's size (ulimit -f), and the same command goes on",
    **dict.fromkeys((errno.EROFS, errno.EACCES, errno.EPERM), _ELSEWHERE),
}
"""What to do about a file that cannot be written, by the operating system's number."""


@contextmanager
def explained(action: str, path: Path) -> Iterator[None]:
    """Turn the operating system's errors into a StoreError that names the file."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        reason = os_reason(error)
        if isinstance(error, FileNotFoundError) and not path.parent.exists():
            reason = f"there is no folder {path.parent}"
        remedy = _REMEDIES.get(error.errno or 0, "") if action == "write" else ""
        raise StoreError(f"cannot {action} {path}: {reason}{remedy}") from error
