"""Which rank of a swarm has died? Each holds a connection to rank 0; the kernel closes it when its process ends."""

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

__all__ = ["Address", "Watch"]

_LOST = "its process died"


class Address(NamedTuple):
    """Where rank 0 listens, and the word by which it knows its ranks."""

    host: str
    port: int
    token: str


class Watch:
    """Tells every rank of the death or failure of any other, within a moment, whatever the ranks are doing.

    Without it a rank learns of another's death at their next collective at the earliest, and with NCCL after a timeout of
    many minutes. Ranks that are :meth:`busy <enter>` with a ``fit`` must not end; those that have finished theirs may.

    Args:
        rank: This process.
        size: How many ranks there are.
        grace: Seconds that a rank has for ending by itself once another is gone (its training raises
            :class:`SwarmError` at its next step); then it is ended, with the error on standard error and exit code 1.
    """

    def __init__(self, rank: int, size: int, grace: float = 5.0) -> None:
        self.rank, self.size, self.grace = rank, size, grace
        self.connected = False
        self.explain: Callable[[int], str | None] = lambda rank: None
        """Says how a rank's process ended, where that can be known."""
        self._gone: tuple[int, str] | None = None
        self._known = threading.Event()
        self._busy = False
        self._timer: threading.Timer | None = None
        self._peers: dict[int, socket.socket] = {}
        self._at_work: set[int] = set()
        self._sending = threading.Lock()
        _close_in_children(self)

    # -- connecting ----------------------------------------------------------------------------------------------------

    def listen(self, host: str) -> Address:
        """Start to watch, as rank 0; the others :meth:`connect` to what it returns.

        Args:
            host: The address under which the others reach this machine.
        """
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        # Everywhere, unless all ranks are on this machine: the name by which others know it may not be its own.
        listener = socket.create_server(("127.0.0.1" if host in ("127.0.0.1", "localhost") else "", 0), family=family)
        address = Address(host, listener.getsockname()[1], secrets.token_hex(16))
        threading.Thread(target=self._serve, args=(listener, address.token), name="swarm-watch", daemon=True).start()
        self.connected = True
        return address

    def connect(self, address: Address, timeout: float = 60.0) -> None:
        """Start to watch, as any other rank.

        Raises:
            OSError: If rank 0 can't be reached.
        """
        connection = socket.create_connection((address.host, address.port), timeout=timeout)
        connection.settimeout(None)
        connection.sendall(f"{address.token} {json.dumps({'rank': self.rank, 'busy': self._busy})}\n".encode())
        self._peers[0] = connection
        self._at_work.add(0)
        threading.Thread(target=self._follow, args=(connection,), name="swarm-watch", daemon=True).start()
        self.connected = True

    # -- what this rank does -------------------------------------------------------------------------------------------

    def enter(self) -> None:
        """Begin a ``fit`` (or the like), during which no rank may end."""
        self._busy = True
        self._send({"rank": self.rank, "busy": True})

    def leave(self, failure: str | None = None) -> None:
        """End it, well or by a ``failure``, of which the others are told."""
        self._busy = False
        if self._timer is not None:
            self._timer.cancel()
        self._send({"rank": self.rank, "busy": False, "failure": failure})

    # -- what became of the others -------------------------------------------------------------------------------------

    @property
    def error(self) -> SwarmError | None:
        """What to raise, if a rank is gone."""
        if self._gone is None:
            return None
        rank, why = self._gone
        return SwarmError(
            f"rank {rank} of {self.size} is gone: {why}; rank {self.rank} can't go on without it. "
            "Checkpoints written before are complete: resume from one with ckpt_path"
        )

    def check(self) -> None:
        """Raise if a rank is gone.

        Raises:
            SwarmError: Naming the rank.
        """
        if self._gone is not None and (error := self.error) is not None:
            raise error

    def wait(self, seconds: float) -> bool:
        """Whether a rank is known to be gone, or becomes so within that time."""
        return self._known.wait(seconds)

    def declare(self, rank: int, why: str) -> None:
        """Take it that ``rank`` is gone, and tell the others."""
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

    # -- threads -------------------------------------------------------------------------------------------------------

    def _serve(self, listener: socket.socket, token: str) -> None:
        """Rank 0's: hear the others, and tell all of them who is gone."""
        unread: dict[socket.socket, bytes] = {}
        ranks: dict[socket.socket, int] = {}
        with selectors.DefaultSelector() as selector:
            selector.register(listener, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    heard = key.fileobj
                    assert isinstance(heard, socket.socket)
                    if heard is listener:
                        connection, _ = listener.accept()
                        selector.register(connection, selectors.EVENT_READ)
                        unread[connection] = b""
                        continue
                    data = _receive(heard)
                    *lines, unread[heard] = (unread[heard] + data).split(b"\n")
                    for line in lines:
                        if heard not in ranks:
                            # Nothing a stranger sends is parsed.
                            word, _, line = line.partition(b" ")
                            if not secrets.compare_digest(word, token.encode()):
                                data = b""
                                break
                            ranks[heard] = json.loads(line)["rank"]
                            self._peers[ranks[heard]] = heard
                        self._hear(json.loads(line))
                    if not data:
                        selector.unregister(heard)
                        heard.close()
                        if heard in ranks:
                            self._lose(ranks[heard])

    def _follow(self, connection: socket.socket) -> None:
        """Any other rank's: hear rank 0."""
        unread = b""
        while data := _receive(connection):
            *lines, unread = (unread + data).split(b"\n")
            for line in lines:
                message = json.loads(line)
                if "gone" in message:
                    self.declare(message["gone"], message["why"])
                else:
                    self._hear(message)
        self._lose(0)

    def _hear(self, message: dict) -> None:
        rank = message["rank"]
        (self._at_work.add if message["busy"] else self._at_work.discard)(rank)
        if message.get("failure"):
            self.declare(rank, f"it failed with {message['failure']}")

    def _lose(self, rank: int) -> None:
        self._peers.pop(rank, None)
        if rank in self._at_work:
            self.declare(rank, self.explain(rank) or _LOST)

    def _send(self, message: dict) -> None:
        with self._sending:
            for peer in list(self._peers.values()):
                try:
                    peer.sendall(json.dumps(message).encode() + b"\n")
                except OSError:
                    continue  # its end is noticed where it is listened to


def _receive(connection: socket.socket) -> bytes:
    """What has come, or nothing if the other end is closed."""
    try:
        return connection.recv(65536)
    except OSError:
        return b""


def _close_in_children(watch: Watch) -> None:
    """A process forked from this one (a DataLoader's worker) must not keep its connections open when it dies."""
    reference = weakref.ref(watch)

    def close() -> None:
        if (found := reference()) is not None:
            for peer in found._peers.values():
                peer.close()

    os.register_at_fork(after_in_child=close)
