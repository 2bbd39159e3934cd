"""A real HTTP server on this machine that misbehaves on request; nothing leaves loopback."""

from __future__ import annotations

import http.server
import re
import threading
import time
from collections import defaultdict
from collections.abc import Callable

PAGE = b"<!DOCTYPE html>\n<html><head><title>%s</title></head><body>%s</body></html>"


class Loopback:
    """Serves ``files`` by path with ranges and ETags; ``faults`` per path are used up in order.

    A fault is a function of the handler and the file's content that answers instead.
    ``requests`` logs (path, Range header).
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.faults: dict[str, list[Fault]] = defaultdict(list)
        self.requests: list[tuple[str, str | None]] = []
        self.etags = True
        owner = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                owner.requests.append((self.path, self.headers.get("Range")))
                path = self.path.split("?")[0]
                faults = owner.faults[path]
                content = owner.files.get(path)
                if faults:
                    faults.pop(0)(self, content or b"")
                elif content is None:
                    status(404)(self, b"")
                else:
                    serve(self, content, etag=owner.etags)

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(
            target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )

    def __enter__(self) -> Loopback:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def url(self, path: str = "") -> str:
        """The address of a path."""
        return f"http://127.0.0.1:{self.server.server_address[1]}{path}"


Handler = http.server.BaseHTTPRequestHandler
Fault = Callable[[Handler, bytes], None]


def _etag(content: bytes) -> str:
    return f'"{len(content)}-{content[:4].hex()}"'


def serve(handler: Handler, content: bytes, *, etag: bool = True, stop: int | None = None) -> None:
    """Answer well, ranges included; with ``stop`` close after that many bytes of the answer."""
    asked = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
    condition = handler.headers.get("If-Range")
    start = int(asked[1]) if asked and condition in (None, _etag(content)) else 0
    if start and start >= len(content):
        return status(416)(handler, content)
    handler.send_response(206 if start else 200)
    handler.send_header("Content-Length", str(len(content) - start))
    handler.send_header("Content-Type", "application/octet-stream")
    if etag:
        handler.send_header("ETag", _etag(content))
    if start:
        handler.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
    handler.end_headers()
    body = content[start:]
    handler.wfile.write(body if stop is None else body[:stop])
    handler.close_connection = True
    return None


def drop(stop: int) -> Fault:
    """Close the connection after ``stop`` bytes."""
    return lambda handler, content: serve(handler, content, stop=stop)


def status(code: int, body: bytes = b"", **headers: str) -> Fault:
    """Answer with an error."""

    def answer(handler: Handler, _: bytes) -> None:
        handler.send_response(code)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def page(title: bytes, text: bytes = b"", content_type: str = "text/html; charset=utf-8") -> Fault:
    """Answer 200 with a web page, as log-in and quota pages do."""
    return status(200, PAGE % (title, text), Content_Type=content_type)


def no_ranges(handler: Handler, content: bytes) -> None:
    """Answer with the whole file, whatever was asked."""
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content)


def cut(length: int) -> Fault:
    """Serve a truncated file as if it were whole."""
    return lambda handler, content: serve(handler, content[:length])


def other(content: bytes) -> Fault:
    """Serve other bytes."""
    return lambda handler, _: serve(handler, content)


def stall(seconds: float, after: int = 0) -> Fault:
    """Send ``after`` bytes, then nothing for a while."""

    def answer(handler: Handler, content: bytes) -> None:
        serve(handler, content, stop=after)
        handler.wfile.flush()
        time.sleep(seconds)

    return answer
