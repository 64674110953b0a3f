"""The report served live: a local server whose page requests new data every few seconds."""

from __future__ import annotations

import hashlib
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

from lightning_evo.archive import Archive, ArchiveError
from lightning_evo.archive.database import ArchiveLocation
from lightning_evo.archive.lock import writer_lives
from lightning_evo.reporting.page.assemble import assemble, compress
from lightning_evo.reporting.page.payload import payload
from lightning_evo.reporting.page.report import open_runs, page_title
from lightning_evo.reporting.views import Importance, RunSnapshot, importance

__all__ = ["INTERVAL", "WatchServer"]

ADDRESS = "127.0.0.1"

INTERVAL = 2.0
"""Minimum number of seconds between two checks for changes."""

MAX_SHARE = 0.2
"""Maximum share of the time spent reading archives, because the machine is needed for the search."""

GROWTH = 1.1
"""Importances are recomputed once the number of results has grown by this factor: it takes a second or two."""


class WatchServer:
    """Serve the page on the loopback interface: ``/`` is the page, ``/data`` is what it requests every few seconds.

    The ``Host`` header must name this server, so that no other website can read the data through a domain name of its own
    (DNS rebinding). Archives are read again when they have changed, at most every 2 seconds, and for at most a fifth of
    the time.

    Args:
        locations: The runs' directories, archive files or database URLs.
        port: The port; 0 (default): any free port.
        run: Which run, where a database holds several.
        every: Minimum number of seconds between two checks for changes (default 2).

    Raises:
        ArchiveError: If there is no archive, or it can't be read.
        ValueError: If the port can't be used.

    Attributes:
        port: The port.
        url: The address of the page.
    """

    def __init__(
        self, locations: Sequence[str | Path], port: int = 0, run: str | None = None, every: float = INTERVAL
    ) -> None:
        if not 0 <= port <= 65535:
            raise ValueError(f"--port {port}: is not between 0 (any free port) and 65535")
        self._latest = _LivePayload(locations, run, every)
        self._latest.get()  # raises if something can't be read, before anything is served
        try:
            self._server = _Server((ADDRESS, port), _Handler)
        except OSError as error:
            raise ValueError(f"--port {port}: not available ({error.strerror}); 0 selects any free port") from error
        self._server.latest = self._latest
        self._serving = False
        self.port = self._server.server_address[1]
        self.url = f"http://{ADDRESS}:{self.port}/"

    def serve(self) -> None:
        """Serve until :meth:`close` is called or Ctrl-C is pressed (``KeyboardInterrupt``)."""
        self._serving = True
        self._server.serve_forever(poll_interval=0.1)

    def close(self) -> None:
        """Stop serving; call it from another thread than :meth:`serve`, or after it."""
        if self._serving:
            self._server.shutdown()  # would wait forever if serve() was never called
        self._server.server_close()

    def __enter__(self) -> WatchServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@dataclass(frozen=True)
class _Response:
    """A payload as it is sent, with its ETag and title."""

    data: bytes
    tag: str
    title: str


class _LivePayload:
    """The current payload, updated when an archive has changed; thread-safe."""

    def __init__(self, locations: Sequence[str | Path], run: str | None, every: float) -> None:
        self._locations, self._run, self._every = list(locations), run, every
        self._importance_of = _CachedImportance()
        self._mutex = threading.Lock()
        self._response: _Response | None = None
        self._state: Any = None
        self._next_check = 0.0

    def get(self) -> _Response:
        """Return the current payload.

        Raises:
            ArchiveError: If an archive can't be read.
        """
        with self._mutex:
            started = time.monotonic()
            if self._response is not None and started < self._next_check:
                return self._response
            with ExitStack() as stack:
                # Opened again every time: a search may start over or repair its archive.
                archives = [stack.enter_context(archive) for archive in open_runs(self._locations, self._run)]
                state = [_state(location, archive) for location, archive in zip(self._locations, archives, strict=True)]
                if self._response is None or state != self._state:
                    data = compress(payload(archives, live=True, importance_of=self._importance_of))
                    self._response = _Response(data, f'"{hashlib.sha256(data).hexdigest()[:32]}"', page_title(archives))
                    self._state = state
            ended = time.monotonic()
            self._next_check = ended + max(self._every, (ended - started) * (1 / MAX_SHARE - 1))
            return self._response


class _CachedImportance:
    """Importances that are recomputed only when there are enough new results."""

    def __init__(self) -> None:
        self._cache: dict[tuple[Path, str, str], tuple[int, Importance]] = {}

    def __call__(self, snapshot: RunSnapshot, monitor: str) -> Importance:
        key = snapshot.directory, snapshot.run, monitor
        count = len(snapshot.scored())
        cached = self._cache.get(key)
        if cached is not None and cached[1].genes and cached[0] <= count < GROWTH * cached[0]:
            return cached[1]
        computed = importance(snapshot, monitor)
        self._cache[key] = count, computed
        return computed


def _state(location: str | Path, archive: Archive) -> Any:
    """A value that changes whenever the archive has changed; for a file, determined without reading it."""
    opened = ArchiveLocation.of(location)
    if opened.file is None:
        return archive.run, archive.counts(), archive.meta
    stamps = []
    for path in (opened.file, opened.file.with_name(f"{opened.file.name}-wal"), opened.journal):
        try:
            found = None if path is None else path.stat()
            stamps.append(None if found is None else (found.st_mtime_ns, found.st_size))
        except FileNotFoundError:
            stamps.append(None)
    return archive.run, stamps, writer_lives(archive.directory)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    latest: _LivePayload

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore browsers that have closed the connection."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    """Answers the requests of one browser connection."""

    server: _Server

    protocol_version = "HTTP/1.1"
    server_version, sys_version = "lightning-evo", ""
    timeout = 60

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def _answer(self, body: bool) -> None:
        port = self.server.server_address[1]
        if self.headers.get("Host") not in (f"{ADDRESS}:{port}", f"localhost:{port}"):
            self._send(
                HTTPStatus.FORBIDDEN, b"this server only answers requests to its own address\n", "text/plain", body
            )
            return
        path = urlsplit(self.path).path
        if path not in ("/", "/data"):
            self._send(HTTPStatus.NOT_FOUND, b"not found; available: / and /data\n", "text/plain", body)
            return
        try:
            latest = self.server.latest.get()
        except (ArchiveError, ValueError) as error:
            self._send(HTTPStatus.SERVICE_UNAVAILABLE, f"{error}\n".encode(), "text/plain", body)
            return
        if path == "/":
            page = assemble(latest.data, latest.title, live=True).encode()
            self._send(HTTPStatus.OK, page, "text/html", body, {"Cache-Control": "no-store"})
        elif self.headers.get("If-None-Match") == latest.tag:
            self._send(HTTPStatus.NOT_MODIFIED, None, None, body, {"ETag": latest.tag})
        else:
            headers = {"ETag": latest.tag, "Content-Encoding": "gzip", "Cache-Control": "no-cache"}
            self._send(HTTPStatus.OK, latest.data, "application/json", body, headers)

    def _send(
        self,
        status: HTTPStatus,
        content: bytes | None,
        kind: str | None,
        body: bool,
        headers: dict[str, str] | None = None,
    ) -> None:
        self.send_response(status)
        if content is not None:
            self.send_header("Content-Type", f"{kind}; charset=utf-8")
            self.send_header("Content-Length", str(len(content)))
        for name, value in (_SECURITY_HEADERS | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if body and content is not None:
            self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: there is a request every few seconds."""


_SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
