"""How does the page follow a search? A server for this machine alone, asked again and again by the page it has served."""

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
from lightning_evo.reporting.page.assemble import assemble, packed
from lightning_evo.reporting.page.payload import payload
from lightning_evo.reporting.page.report import open_runs, title_of
from lightning_evo.reporting.views import Importance, Recorded, importance

__all__ = ["EVERY", "WatchServer"]

ADDRESS = "127.0.0.1"

EVERY = 2.0
"""Archives are looked at again after so many seconds at the earliest."""

SHARE = 0.2
"""The part of the time that is spent on reading at most: the machine is there for the search."""

GROWN = 1.1
"""Importances are found anew once so many times as many candidates have ended: each time takes a second or two."""


class WatchServer:
    """Serves the page about runs on the loopback interface: ``/`` the page, ``/data`` what it asks for every few seconds.

    Only requests to this very server by its name are answered, so that no page from elsewhere can read along (by a name
    of its own that it lets point here). The archives are read anew where they have changed, at most every 2 seconds, and
    never for more than a fifth of the time.

    Args:
        locations: The runs' directories, archive files or database URLs.
        port: Which port; 0 (default): any that is free.
        run: Which run, where a database holds several.
        every: Look for changes at most so often, in seconds (default 2).

    Raises:
        ArchiveError: If there is no archive, or it can't be read.
        ValueError: If the port can't be used.

    Attributes:
        url: Where the page is.
    """

    def __init__(
        self, locations: Sequence[str | Path], port: int = 0, run: str | None = None, every: float = EVERY
    ) -> None:
        if not 0 <= port <= 65535:
            raise ValueError(f"--port {port}: is no port; give 0 (any that is free) to 65535")
        self._latest = _Latest(locations, run, every)
        self._latest.get()  # what can't be read is refused before anything is served
        try:
            self._server = _Server((ADDRESS, port), _Handler)
        except OSError as error:
            raise ValueError(f"--port {port}: cannot be used ({error.strerror}); 0 takes any that is free") from error
        self._server.latest = self._latest
        self._serving = False
        self.port = self._server.server_address[1]
        self.url = f"http://{ADDRESS}:{self.port}/"

    def serve(self) -> None:
        """Answer until :meth:`close` is called, or Ctrl-C is pressed (``KeyboardInterrupt``)."""
        self._serving = True
        self._server.serve_forever(poll_interval=0.1)

    def close(self) -> None:
        """Stop answering; to be called from another thread than the one that serves, or after it."""
        if self._serving:
            self._server.shutdown()  # would wait for ever for one that never began
        self._server.server_close()

    def __enter__(self) -> WatchServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@dataclass(frozen=True)
class _Made:
    """A payload as it is sent."""

    data: bytes
    tag: str
    title: str


class _Latest:
    """The payload as it is now, made anew where an archive has changed. Several threads may ask."""

    def __init__(self, locations: Sequence[str | Path], run: str | None, every: float) -> None:
        self._locations, self._run, self._every = list(locations), run, every
        self._weigh = _KeptImportance()
        self._mutex = threading.Lock()
        self._made: _Made | None = None
        self._state: Any = None
        self._look_at = 0.0

    def get(self) -> _Made:
        """What is known now.

        Raises:
            ArchiveError: If an archive can't be read.
        """
        with self._mutex:
            begun = time.monotonic()
            if self._made is not None and begun < self._look_at:
                return self._made
            with ExitStack() as stack:
                # Opened each time: a search may begin over, or repair its archive.
                archives = [stack.enter_context(archive) for archive in open_runs(self._locations, self._run)]
                state = [_state(location, archive) for location, archive in zip(self._locations, archives, strict=True)]
                if self._made is None or state != self._state:
                    data = packed(payload(archives, live=True, weigh=self._weigh))
                    self._made = _Made(data, f'"{hashlib.sha256(data).hexdigest()[:32]}"', title_of(archives))
                    self._state = state
            ended = time.monotonic()
            self._look_at = ended + max(self._every, (ended - begun) * (1 / SHARE - 1))
            return self._made


class _KeptImportance:
    """Importances that are found anew only where there is much to add."""

    def __init__(self) -> None:
        self._kept: dict[tuple[Path, str, str], tuple[int, Importance]] = {}

    def __call__(self, recorded: Recorded, monitor: str) -> Importance:
        key = recorded.directory, recorded.run, monitor
        count = len(recorded.scored())
        known = self._kept.get(key)
        if known is not None and known[1].genes and known[0] <= count < GROWN * known[0]:
            return known[1]
        found = importance(recorded, monitor)
        self._kept[key] = count, found
        return found


def _state(location: str | Path, archive: Archive) -> Any:
    """What differs once the archive has something new; of a file without reading it."""
    place = ArchiveLocation.of(location)
    if place.file is None:
        return archive.run, archive.counts(), archive.meta
    stamps = []
    for path in (place.file, place.file.with_name(f"{place.file.name}-wal"), place.journal):
        try:
            found = None if path is None else path.stat()
            stamps.append(None if found is None else (found.st_mtime_ns, found.st_size))
        except FileNotFoundError:
            stamps.append(None)
    return archive.run, stamps, writer_lives(archive.directory)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    latest: _Latest

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a browser that has gone on."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    """One connection of a browser's."""

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
            self._send(HTTPStatus.FORBIDDEN, b"this server answers to its own address alone\n", "text/plain", body)
            return
        path = urlsplit(self.path).path
        if path not in ("/", "/data"):
            self._send(HTTPStatus.NOT_FOUND, b"there is / and /data\n", "text/plain", body)
            return
        try:
            made = self.server.latest.get()
        except (ArchiveError, ValueError) as error:
            self._send(HTTPStatus.SERVICE_UNAVAILABLE, f"{error}\n".encode(), "text/plain", body)
            return
        if path == "/":
            page = assemble(made.data, made.title, live=True).encode()
            self._send(HTTPStatus.OK, page, "text/html", body, {"Cache-Control": "no-store"})
        elif self.headers.get("If-None-Match") == made.tag:
            self._send(HTTPStatus.NOT_MODIFIED, None, None, body, {"ETag": made.tag})
        else:
            headers = {"ETag": made.tag, "Content-Encoding": "gzip", "Cache-Control": "no-cache"}
            self._send(HTTPStatus.OK, made.data, "application/json", body, headers)

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
        for name, value in (_PROTECTING | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if body and content is not None:
            self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: the page asks every few seconds."""


_PROTECTING = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
