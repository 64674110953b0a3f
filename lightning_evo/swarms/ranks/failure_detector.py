"""Detection of ranks that have died: each holds a connection to rank 0, which the kernel closes when its process ends."""

from __future__ import annotations

import json
import os
import secrets
import selectors
import socket
import sys
import threading
import weakref
from collections.abc import Callable
from typing import NamedTuple

from lightning_evo.swarms.errors import SwarmError

__all__ = ["Address", "FailureDetector"]

_LOST = "its process died"


class Address(NamedTuple):
    """Where rank 0 listens, and the token by which ranks identify themselves."""

    host: str
    port: int
    token: str


class FailureDetector:
    """Reports the death or failure of a rank to all others at once, whatever they are doing.

    Without it, a rank learns of another's death at their next collective at the earliest, and with NCCL after a timeout of
    many minutes. A rank that is :meth:`busy <enter>` with a ``fit`` must not end; one that has finished may.

    Args:
        rank: This process.
        size: The number of ranks.
        grace: Seconds that a rank has to end by itself after another is gone (its training raises :class:`SwarmError` at
            its next step); then it exits with code 1 and the error on standard error.
    """

    def __init__(self, rank: int, size: int, grace: float = 5.0) -> None:
        self.rank, self.size, self.grace = rank, size, grace
        self.connected = False
        self.describe_exit: Callable[[int], str | None] = lambda rank: None
        """Describes how a rank's process ended, if that is known."""
        self._gone: tuple[int, str] | None = None
        self._known = threading.Event()
        self._busy = False
        self._timer: threading.Timer | None = None
        self._peers: dict[int, socket.socket] = {}
        self._busy_ranks: set[int] = set()
        self._sending = threading.Lock()
        _close_in_children(self)

    # Connecting.

    def listen(self, host: str) -> Address:
        """Start, as rank 0; the others :meth:`connect` to the address that is returned.

        Args:
            host: The address under which the others reach this machine.
        """
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        # On all interfaces, unless all ranks are on this machine: its name elsewhere may not be that of an interface.
        listener = socket.create_server(("127.0.0.1" if host in ("127.0.0.1", "localhost") else "", 0), family=family)
        address = Address(host, listener.getsockname()[1], secrets.token_hex(16))
        threading.Thread(
            target=self._serve, args=(listener, address.token), name="swarm-failure-detector", daemon=True
        ).start()
        self.connected = True
        return address

    def connect(self, address: Address, timeout: float = 60.0) -> None:
        """Start, as any other rank.

        Raises:
            OSError: If rank 0 can't be reached.
        """
        connection = socket.create_connection((address.host, address.port), timeout=timeout)
        connection.settimeout(None)
        connection.sendall(f"{address.token} {json.dumps({'rank': self.rank, 'busy': self._busy})}\n".encode())
        self._peers[0] = connection
        self._busy_ranks.add(0)
        threading.Thread(target=self._follow, args=(connection,), name="swarm-failure-detector", daemon=True).start()
        self.connected = True

    # The state of this rank.

    def enter(self) -> None:
        """Mark the beginning of a ``fit`` (or the like), during which no rank may end."""
        self._busy = True
        self._send({"rank": self.rank, "busy": True})

    def leave(self, failure: str | None = None) -> None:
        """Mark its end; a ``failure`` is reported to the others."""
        self._busy = False
        if self._timer is not None:
            self._timer.cancel()
        self._send({"rank": self.rank, "busy": False, "failure": failure})

    # The state of the others.

    @property
    def error(self) -> SwarmError | None:
        """The error to raise if a rank is gone, else ``None``."""
        if self._gone is None:
            return None
        rank, why = self._gone
        return SwarmError(
            f"rank {rank} of {self.size} is gone: {why}; rank {self.rank} can't go on without it. "
            "Earlier checkpoints are complete: resume from one with ckpt_path"
        )

    def check(self) -> None:
        """Raise if a rank is gone.

        Raises:
            SwarmError: Naming the rank.
        """
        if self._gone is not None and (error := self.error) is not None:
            raise error

    def wait(self, seconds: float) -> bool:
        """Wait until a rank is known to be gone, at most that long; return whether one is."""
        return self._known.wait(seconds)

    def declare(self, rank: int, why: str) -> None:
        """Record that ``rank`` is gone, and report it to the others."""
        if self._gone is not None or rank == self.rank:
            return
        self._gone = rank, why
        self._known.set()
        if self.rank == 0:
            self._send({"gone": rank, "why": why})
        if self._busy:
            self._timer = threading.Timer(self.grace, self._end)
            self._timer.daemon = True
            self._timer.start()

    def _end(self) -> None:
        if self._busy:
            print(f"lightning-evo: error: {self.error}", file=sys.stderr, flush=True)
            os._exit(1)

    # Threads.

    def _serve(self, listener: socket.socket, token: str) -> None:
        """Thread of rank 0: receive messages of the others, and report to all of them which rank is gone."""
        unread: dict[socket.socket, bytes] = {}
        ranks: dict[socket.socket, int] = {}
        with selectors.DefaultSelector() as selector:
            selector.register(listener, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    source = key.fileobj
                    assert isinstance(source, socket.socket)
                    if source is listener:
                        connection, _ = listener.accept()
                        selector.register(connection, selectors.EVENT_READ)
                        unread[connection] = b""
                        continue
                    data = _receive(source)
                    *lines, unread[source] = (unread[source] + data).split(b"\n")
                    for line in lines:
                        if source not in ranks:
                            # Nothing is parsed before the token is verified.
                            word, _, line = line.partition(b" ")
                            if not secrets.compare_digest(word, token.encode()):
                                data = b""
                                break
                            ranks[source] = json.loads(line)["rank"]
                            self._peers[ranks[source]] = source
                        self._handle(json.loads(line))
                    if not data:
                        selector.unregister(source)
                        source.close()
                        if source in ranks:
                            self._lose(ranks[source])

    def _follow(self, connection: socket.socket) -> None:
        """Thread of any other rank: receive messages of rank 0."""
        unread = b""
        while data := _receive(connection):
            *lines, unread = (unread + data).split(b"\n")
            for line in lines:
                message = json.loads(line)
                if "gone" in message:
                    self.declare(message["gone"], message["why"])
                else:
                    self._handle(message)
        self._lose(0)

    def _handle(self, message: dict) -> None:
        rank = message["rank"]
        (self._busy_ranks.add if message["busy"] else self._busy_ranks.discard)(rank)
        if message.get("failure"):
            self.declare(rank, f"it failed with {message['failure']}")

    def _lose(self, rank: int) -> None:
        self._peers.pop(rank, None)
        if rank in self._busy_ranks:
            self.declare(rank, self.describe_exit(rank) or _LOST)

    def _send(self, message: dict) -> None:
        with self._sending:
            for peer in list(self._peers.values()):
                try:
                    peer.sendall(json.dumps(message).encode() + b"\n")
                except OSError:
                    continue  # its end is detected where its messages are received


def _receive(connection: socket.socket) -> bytes:
    """Received bytes; empty if the other end is closed."""
    try:
        return connection.recv(65536)
    except OSError:
        return b""


def _close_in_children(detector: FailureDetector) -> None:
    """A process forked from this one (a DataLoader's worker) must not keep its connections open when it dies."""
    reference = weakref.ref(detector)

    def close() -> None:
        if (found := reference()) is not None:
            for peer in found._peers.values():
                peer.close()

    os.register_at_fork(after_in_child=close)
