"""The cache: whatever a server does, the right file arrives or one sentence says why not."""

import contextlib
import hashlib
import json
import os
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dentbench.errors import FetchError, ModelError
from dentbench.zoo.download import transfer
from dentbench.zoo.download.cache import default_cache, fetch_file, is_offline
from dentbench.zoo.download.transfer import Policy
from tests.zoo.download.loopback import (
    Loopback,
    cut,
    drop,
    no_ranges,
    other,
    page,
    serve,
    stall,
    status,
)

CONTENT = random.Random(0).randbytes(700_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
QUICK = Policy(tries=3, delay=0.01, longest_delay=0.05, timeout=0.5)
PATH = "/models/net.pt"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Loopback]:
    for name in ("DENTBENCH_OFFLINE", "DENTBENCH_MIRRORS", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with Loopback() as loopback:
        loopback.files[PATH] = CONTENT
        yield loopback


def bring(server: Loopback, folder: Path, *more: str, **options: object) -> Path:
    known: dict[str, object] = {"sha256": SHA256, "policy": QUICK}
    sources = more or (server.url(PATH),)
    return fetch_file(sources, folder / "net.pt", **(known | options))  # type: ignore[arg-type]


def leftovers(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if not path.name.startswith(".")}


# ------------------------------------------------------------------ cases that end well


@pytest.mark.parametrize(
    ("faults", "requests"),
    [
        pytest.param([], 1, id="plain"),
        pytest.param([drop(300_000)], 2, id="dropped midway"),
        pytest.param([drop(1), drop(70_000), drop(300_000), drop(9)], 5, id="dropped often"),
        pytest.param([drop(0), drop(0)], 3, id="dropped before the first byte"),
        pytest.param([drop(300_000), no_ranges], 2, id="dropped, then no ranges"),
        pytest.param([stall(1.0, after=5_000)], 2, id="stalled"),
        pytest.param([status(500)], 2, id="500 then right"),
        pytest.param([status(503), status(502)], 3, id="503, 502 then right"),
        pytest.param([status(429, Retry_After="0")], 2, id="429 then right"),
        pytest.param([drop(300_000), status(416)], 3, id="range refused"),
    ],
)
def test_the_file_arrives_whole(
    server: Loopback, tmp_path: Path, faults: list[object], requests: int
) -> None:
    server.faults[PATH] = list(faults)  # type: ignore[arg-type]
    path = bring(server, tmp_path)
    assert path.read_bytes() == CONTENT
    assert len(server.requests) == requests
    assert leftovers(tmp_path) == {"net.pt", "hashes.json"}


def test_an_interrupted_download_is_continued_by_the_next_call(
    server: Loopback, tmp_path: Path
) -> None:
    server.faults[PATH] = [drop(300_000)] + [status(500)] * 3
    with pytest.raises(FetchError, match="500"):
        bring(server, tmp_path)
    assert (tmp_path / "net.pt.part").stat().st_size == 300_000
    assert not (tmp_path / "net.pt").exists()
    bring(server, tmp_path)
    assert server.requests[-1] == (PATH, "bytes=300000-")
    assert (tmp_path / "net.pt").read_bytes() == CONTENT


def test_a_file_that_changed_meanwhile_is_fetched_from_the_start(
    server: Loopback, tmp_path: Path
) -> None:
    server.files[PATH] = bytes(600_000)
    server.faults[PATH] = [drop(300_000)] + [status(500)] * 3
    with pytest.raises(FetchError):
        bring(server, tmp_path)
    server.files[PATH] = CONTENT
    assert bring(server, tmp_path).read_bytes() == CONTENT


def test_a_changed_file_without_an_etag_is_found_out_by_its_hash(
    server: Loopback, tmp_path: Path
) -> None:
    server.etags = False
    server.files[PATH] = bytes(700_000)
    server.faults[PATH] = [lambda handler, content: serve(handler, content, etag=False, stop=9)]
    server.faults[PATH] += [status(500)] * 3
    with pytest.raises(FetchError):
        bring(server, tmp_path)
    server.files[PATH] = CONTENT
    assert bring(server, tmp_path).read_bytes() == CONTENT
    assert [asked for _, asked in server.requests[-2:]] == ["bytes=9-", None]


def test_mirrors_are_tried_in_order(server: Loopback, tmp_path: Path) -> None:
    server.faults["/wrong"] = [other(b"something else")]
    urls = [server.url("/absent"), server.url("/wrong"), server.url(PATH)]
    assert bring(server, tmp_path, *urls).read_bytes() == CONTENT
    assert [path for path, _ in server.requests] == ["/absent", "/wrong", PATH]


def test_a_local_path_and_a_file_url_are_sources(server: Loopback, tmp_path: Path) -> None:
    copy = tmp_path / "by hand.pt"
    copy.write_bytes(CONTENT)
    for number, source in enumerate((str(copy), copy.as_uri())):
        folder = tmp_path / str(number)
        assert bring(server, folder, source, offline=True).read_bytes() == CONTENT
    assert copy.exists()


def test_a_verified_file_is_not_fetched_again(server: Loopback, tmp_path: Path) -> None:
    bring(server, tmp_path)
    bring(server, tmp_path)
    bring(server, tmp_path, offline=True)
    assert len(server.requests) == 1


def test_progress_is_told(server: Loopback, tmp_path: Path) -> None:
    progress: list[tuple[str, int, int | None]] = []
    bring(server, tmp_path, progress=lambda *values: progress.append(values))
    assert progress[-1] == ("net.pt", len(CONTENT), len(CONTENT))
    assert [done for _, done, _ in progress] == sorted(done for _, done, _ in progress)


# ------------------------------------------------------------------ cases that end in a sentence


@pytest.mark.parametrize(
    ("faults", "words"),
    [
        pytest.param([status(403)], "answered 403", id="403"),
        pytest.param([status(404)], "answered 404", id="404"),
        pytest.param([status(500)] * 3, "answered 500", id="500 for good"),
        pytest.param([status(429)] * 3, "answered 429", id="429 for good"),
        pytest.param([drop(0)] * 3, "connection closed after 0 of 700,000", id="dropped for good"),
        pytest.param([stall(1.0)] * 3, "timed out|closed after 0", id="stalled for good"),
        pytest.param([page(b"Sign in")], "a web page .'Sign in'. instead", id="page"),
        pytest.param(
            [page(b"Sign in", content_type="application/octet-stream")],
            "a web page .'Sign in'. instead",
            id="page that denies it",
        ),
        pytest.param(
            [page(b"Google Drive - Quota exceeded", b"Too many users have viewed this file")],
            "quota exceeded: try again in a day",
            id="quota page",
        ),
        pytest.param(
            [status(403, b"<html>download quota exceeded</html>")], "403.*quota", id="quota 403"
        ),
        pytest.param([cut(650_000)], "its sha256 is", id="truncated"),
        pytest.param([other(CONTENT[::-1])], "its sha256 is", id="wrong bytes"),
        pytest.param([other(b"")], "it is empty", id="empty"),
    ],
)
def test_a_bad_answer_is_told_in_one_sentence(
    server: Loopback, tmp_path: Path, faults: list[object], words: str
) -> None:
    server.faults[PATH] = list(faults)  # type: ignore[arg-type]
    with pytest.raises(FetchError, match=words) as caught:
        bring(server, tmp_path, hint="do this instead")
    assert str(caught.value).startswith("net.pt could not be fetched from http://127.0.0.1:")
    assert str(caught.value).endswith("; do this instead")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "net.pt").exists()


def test_a_wrong_size_is_told(server: Loopback, tmp_path: Path) -> None:
    with pytest.raises(FetchError, match="700,000 bytes instead of 5"):
        bring(server, tmp_path, size=5)


def test_a_wrong_file_is_kept_aside_with_the_reason(server: Loopback, tmp_path: Path) -> None:
    server.files[PATH] = b"not the file"
    with pytest.raises(FetchError, match=r"kept as net\.pt\.rejected"):
        bring(server, tmp_path)
    assert (tmp_path / "net.pt.rejected").read_bytes() == b"not the file"
    assert "sha256" in (tmp_path / "net.pt.rejected.txt").read_text(encoding="utf-8")
    assert leftovers(tmp_path) == {"net.pt.rejected", "net.pt.rejected.txt"}


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/net.pt"
    with pytest.raises(FetchError, match="connection failed"):
        fetch_file([url], tmp_path / "net.pt", policy=QUICK)


def test_a_folder_that_cannot_be_written(server: Loopback, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(FetchError, match="cannot write"):
        bring(server, tmp_path / "file" / "below")


def test_other_addresses_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FetchError, match="only http, https and file"):
        fetch_file(["ftp://127.0.0.1/net.pt"], tmp_path / "net.pt", policy=QUICK)


def test_credentials_in_a_url_are_not_shown(server: Loopback, tmp_path: Path) -> None:
    with pytest.raises(FetchError) as caught:
        bring(server, tmp_path, "http://me:secret@127.0.0.1:9/net.pt?token=secret")
    assert "secret" not in str(caught.value)


# ------------------------------------------------------------------ trust on first use


def test_the_first_download_is_recorded_and_later_ones_must_equal_it(
    server: Loopback, tmp_path: Path
) -> None:
    path = bring(server, tmp_path, sha256=None)
    entry = json.loads((tmp_path / "hashes.json").read_text())["net.pt"]
    assert (entry["sha256"], entry["size"]) == (SHA256, len(CONTENT))
    path.unlink()
    server.files[PATH] = CONTENT[:-1] + b"!"
    with pytest.raises(FetchError, match="its sha256 is"):
        bring(server, tmp_path, sha256=None)
    server.files[PATH] = CONTENT
    assert bring(server, tmp_path, sha256=None).read_bytes() == CONTENT


def test_a_cached_file_that_was_damaged_is_set_aside_and_fetched_again(
    server: Loopback, tmp_path: Path
) -> None:
    path = bring(server, tmp_path, sha256=None)
    path.write_bytes(CONTENT[:1000])
    assert bring(server, tmp_path, sha256=None).read_bytes() == CONTENT
    assert (tmp_path / "net.pt.rejected").stat().st_size == 1000


def test_a_check_refuses_a_first_download(server: Loopback, tmp_path: Path) -> None:
    def refuse(_: Path) -> None:
        raise ModelError("it does not load")

    with pytest.raises(FetchError, match="it does not load"):
        bring(server, tmp_path, sha256=None, check=refuse)
    assert leftovers(tmp_path) == {"net.pt.rejected", "net.pt.rejected.txt"}


def test_a_damaged_record_is_told(server: Loopback, tmp_path: Path) -> None:
    (tmp_path / "hashes.json").write_text("{")
    with pytest.raises(FetchError, match="record of hashes"):
        bring(server, tmp_path, sha256=None)


# ------------------------------------------------------------------ offline


@pytest.mark.parametrize("how", ["option", "environment"])
def test_offline_makes_no_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a socket was made")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.delenv("DENTBENCH_OFFLINE", raising=False)
    if how == "environment":
        monkeypatch.setenv("DENTBENCH_OFFLINE", "1")
    with pytest.raises(FetchError, match="offline mode allows no connection"):
        fetch_file(
            ["http://127.0.0.1:9/net.pt", "gdrive:some-id"],
            tmp_path / "net.pt",
            offline=how == "option",
        )


def test_settings_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DENTBENCH_CACHE", str(tmp_path))
    assert default_cache() == tmp_path
    for value, offline in (("1", True), ("0", False), ("", False), ("yes", True)):
        monkeypatch.setenv("DENTBENCH_OFFLINE", value)
        assert is_offline() is offline


# ------------------------------------------------------------------ Google Drive


@pytest.fixture
def drive(server: Loopback, monkeypatch: pytest.MonkeyPatch) -> Loopback:
    """Google Drive's two addresses, both on loopback."""
    monkeypatch.setattr(transfer, "DRIVE_DIRECT", server.url("/direct?id={id}"))
    monkeypatch.setattr(transfer, "DRIVE_PAGE", server.url("/page?id={id}"))
    return server


def test_google_drive_is_asked_directly_and_resumed(drive: Loopback, tmp_path: Path) -> None:
    drive.files["/direct"] = CONTENT
    drive.faults["/direct"] = [drop(400_000)]
    assert bring(drive, tmp_path, "gdrive:abc").read_bytes() == CONTENT
    assert drive.requests == [("/direct?id=abc", None), ("/direct?id=abc", "bytes=400000-")]


def test_gdown_is_the_second_way_to_google_drive(drive: Loopback, tmp_path: Path) -> None:
    pytest.importorskip("gdown")
    drive.faults["/direct"] = [page(b"Sorry")]
    drive.files["/page"] = CONTENT
    assert bring(drive, tmp_path, "gdrive:abc").read_bytes() == CONTENT
    assert leftovers(tmp_path) == {"net.pt", "hashes.json"}


def test_a_quota_page_of_google_drive_is_told(drive: Loopback, tmp_path: Path) -> None:
    pytest.importorskip("gdown")
    drive.faults["/direct"] = [page(b"Google Drive - Quota exceeded")]
    drive.faults["/page"] = [page(b"Google Drive - Quota exceeded")]
    with pytest.raises(FetchError, match=r"from Google Drive: .*quota exceeded: try") as caught:
        bring(drive, tmp_path, "gdrive:abc")
    assert not (tmp_path / "net.pt").exists()
    assert "\n" not in str(caught.value)


# ------------------------------------------------------------------ two at once, and kills


def test_threads_that_want_the_same_file_download_it_once(server: Loopback, tmp_path: Path) -> None:
    threads = [threading.Thread(target=bring, args=(server, tmp_path)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "net.pt").read_bytes() == CONTENT
    assert len(server.requests) == 1


FETCH = """
import sys
from pathlib import Path
from dentbench.zoo.download.cache import fetch_file
fetch_file([sys.argv[1]], Path(sys.argv[2]), sha256=sys.argv[3])
"""


def start(server: Loopback, folder: Path) -> "subprocess.Popen[bytes]":
    arguments = [sys.executable, "-c", FETCH, server.url(PATH), str(folder / "net.pt"), SHA256]
    return subprocess.Popen(arguments)


def slowly(handler: object, content: bytes) -> None:
    """Serve in forty pieces over a second."""
    handler.send_response(200)  # type: ignore[attr-defined]
    handler.send_header("Content-Length", str(len(content)))  # type: ignore[attr-defined]
    handler.end_headers()  # type: ignore[attr-defined]
    step = len(content) // 40
    with contextlib.suppress(OSError):  # the client may be killed
        for first in range(0, len(content), step):
            handler.wfile.write(content[first : first + step])  # type: ignore[attr-defined]
            time.sleep(0.025)


def test_processes_that_want_the_same_file_download_it_once(
    server: Loopback, tmp_path: Path
) -> None:
    server.faults[PATH] = [slowly]
    processes = [start(server, tmp_path) for _ in range(2)]
    assert [process.wait(timeout=300) for process in processes] == [0, 0]
    assert (tmp_path / "net.pt").read_bytes() == CONTENT
    assert len(server.requests) == 1


def test_a_killed_download_is_completed_by_the_next(server: Loopback, tmp_path: Path) -> None:
    server.faults[PATH] = [slowly]
    process = start(server, tmp_path)
    part = tmp_path / "net.pt.part"
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and not (part.exists() and part.stat().st_size):
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not (tmp_path / "net.pt").exists()
    assert bring(server, tmp_path).read_bytes() == CONTENT


KILLS = """
import os, random, signal, sys
from pathlib import Path
from dentbench.zoo.download.cache import fetch_file

url, folder = sys.argv[1], Path(sys.argv[2])

def fetch_until(place, last):
    count = 0
    def trace(frame, event, _):
        nonlocal count
        if "dentbench" not in frame.f_code.co_filename:
            return None
        if event == "line":
            count += 1
            if count == last:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace
    sys.settrace(trace)
    fetch_file([url], folder / place / "net.pt")
    sys.settrace(None)
    return count

lines = fetch_until("whole", None)
for number, last in enumerate(random.Random(6).sample(range(1, lines + 1), 20)):
    child = os.fork()
    if not child:
        fetch_until(str(number), last)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL, (number, last, status)
"""
"""Fetches, each killed before one line of ours, of all lines that a whole fetch executes."""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills are of forked processes")
def test_after_a_kill_at_any_of_twenty_points_the_next_fetch_completes(
    server: Loopback, tmp_path: Path
) -> None:
    subprocess.run([sys.executable, "-c", KILLS, server.url(PATH), str(tmp_path)], check=True)
    states = set()
    for number in range(20):
        folder = tmp_path / str(number)
        path = folder / "net.pt"
        states |= leftovers(folder) if folder.exists() else {"nothing"}
        assert not path.exists() or path.read_bytes() == CONTENT
        assert bring(server, folder, sha256=None).read_bytes() == CONTENT
        entry = json.loads((folder / "hashes.json").read_text())["net.pt"]
        assert (entry["sha256"], entry["size"]) == (SHA256, len(CONTENT))
        assert leftovers(folder) == {"net.pt", "hashes.json"}
    assert {"nothing", "net.pt.part", "net.pt"} <= states  # before, in the middle, at the end
    assert any(asked for _, asked in server.requests), "none was continued"
