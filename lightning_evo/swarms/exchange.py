"""Averaging of candidates that train at the same time: they exchange weights through files, without waiting for each other.

Each candidate publishes its particle as one file, written atomically, and reads those of its peers: candidates of the same
architecture and ancestry that published not long before.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import warnings
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor

from lightning_evo.functional.mixing import combine
from lightning_evo.swarms.errors import SwarmError
from lightning_evo.swarms.swarm import Particles, Swarm
from lightning_evo.utils.files import open_unlinked, write_atomically

__all__ = ["Exchange", "ExchangeSwarm", "Peer"]

_SUFFIX = ".safetensors"
_UNREADABLE = (OSError, SafetensorError, ValueError, KeyError, TypeError)
"""The exceptions of reading a file that is incomplete, has been removed, or is of another kind."""


@dataclass(frozen=True)
class Peer:
    """A publication of another candidate.

    Args:
        name: Its name in the exchange.
        losses: The losses of its particles, usually of one.
        step: The number of its earlier publications.
        age: Seconds from its publication to one's own last one, by the file system's clock; negative if it is later.
        path: The file that holds its weights.
    """

    name: str
    losses: tuple[float, ...]
    step: int
    age: float
    path: Path

    def weights(self) -> dict[str, Tensor] | None:
        """Its particles' tensors, each with the particles along the first axis, on the CPU; ``None`` if they aren't whole.

        The file may have been removed, or is not what was published.
        """
        try:
            # Read, not mapped: if a mapped file is truncated, a process that accesses it is killed.
            with open_unlinked(self.path, "rb") as file:
                content = file.read()
            return load(content) if _is_whole(content) else None
        except _UNREADABLE:
            return None


class Exchange:
    """One candidate's access to a directory through which candidates exchange weights.

    The clocks of different machines don't matter: ages are measured by the file system. The file is removed by
    :meth:`close`, or when the exchange is garbage-collected; that of a killed process is ignored when it is too old, and
    replaced when the candidate trains again.

    Args:
        directory: The directory of the files; made if it doesn't exist.
        name: The candidate's name, unique among those that run.
        architecture: :func:`~lightning_evo.swarms.swarm.architecture_of` its model.
        ancestry: Identifies its ancestors: only weights of equal ancestry are averaged.
        max_age: The largest age of a publication, in seconds before one's own last one. Default: an hour.

    Raises:
        ValueError: The name isn't valid as a file name.

    Example:
        >>> import tempfile
        >>> folder = tempfile.mkdtemp()
        >>> ours, theirs = (Exchange(folder, name, "net", "0") for name in ("a", "b"))
        >>> theirs.publish([0.5], {"w": torch.ones(1, 2)})
        True
        >>> [(peer.name, peer.losses) for peer in ours.peers()]
        [('b', (0.5,))]
        >>> theirs.close()
        >>> ours.peers()
        []
    """

    def __init__(
        self, directory: str | Path, name: str, architecture: str, ancestry: str, max_age: float = 3600.0
    ) -> None:
        if not re.fullmatch(r"[\w-]+", name):
            raise ValueError(f"name: {name!r} is not made of letters, digits, _ and - alone")
        if not max_age > 0:
            raise ValueError(f"max_age: {max_age!r} is not above 0")
        self.directory, self.name = Path(directory), name
        self.architecture, self.ancestry, self.max_age = architecture, ancestry, max_age
        self._path = self.directory / f"{name}{_SUFFIX}"
        self._step = 0
        self._warned = False
        # In a process that trains one candidate after another, the candidate's end shows only in that of the exchange.
        self.close = weakref.finalize(self, _delete, self._path, os.getpid())
        """Remove what was published; further calls do nothing."""

    def publish(self, losses: Sequence[float], weights: Mapping[str, Tensor]) -> bool:
        """Publish this candidate's particles, in place of its earlier publication.

        If they can't be written, a warning says so, once, and the candidate trains on without being seen by others.

        Args:
            losses: The losses of its particles, (count,).
            weights: Name -> (count, ...).

        Returns:
            Whether they were written.
        """
        about = {
            "architecture": self.architecture,
            "ancestry": self.ancestry,
            "losses": [float(loss) for loss in losses],
            "step": self._step,
        }
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            # Copies: safetensors refuses tensors that share memory, as tied weights do.
            tensors = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in weights.items()}
            write_atomically(self._path, _hashed(save(tensors, metadata={"about": json.dumps(about)})))
        except OSError as error:
            # An earlier publication would be taken for the present one.
            with suppress(OSError):
                self._path.unlink(missing_ok=True)
            if not self._warned:
                warnings.warn(
                    f"the weights can't be published in {self.directory}: {error}; training continues", stacklevel=2
                )
                self._warned = True
            return False
        self._step += 1
        return True

    def peers(self) -> list[Peer]:
        """Other candidates of this architecture and ancestry with a publication that isn't too old, by name."""
        now = self._now()
        found = []
        for path in sorted(self.directory.glob(f"*{_SUFFIX}")):
            if path == self._path:
                continue
            try:
                age = now - path.stat().st_mtime
                if age > self.max_age:
                    continue
                with safe_open(path, framework="pt") as file:
                    about = json.loads(file.metadata()["about"])
                if about["architecture"] == self.architecture and about["ancestry"] == self.ancestry:
                    losses = tuple(float(loss) for loss in about["losses"])
                    found.append(Peer(path.stem, losses, int(about["step"]), age, path))
            except _UNREADABLE:
                continue
        return found

    def _now(self) -> float:
        """The time of this candidate's last publication by the file system's clock, otherwise that of the newest file."""
        try:
            return self._path.stat().st_mtime
        except OSError:
            times = []
            for path in self.directory.glob(f"*{_SUFFIX}"):
                with suppress(OSError):
                    times.append(path.stat().st_mtime)
            return max(times, default=0.0)


class ExchangeSwarm(Swarm):
    """A candidate's particles, and those of its peers as they were last published.

    The candidate's own come first; :attr:`size` changes from one :meth:`synchronize` to the next. Only weights can be
    combined, and each candidate changes only its own: if a rule moves several particles, each moves in its own averaging.

    Args:
        particles: The candidate's particles.
        exchange: Its access to the exchange.
    """

    combines_all_tensors = False

    def __init__(self, particles: Particles, exchange: Exchange) -> None:
        super().__init__(particles)
        self.exchange = exchange
        self._peers: list[Peer] = []

    @property
    def size(self) -> int:
        """This candidate's particles and those of the peers found by the last :meth:`synchronize`."""
        return self.particles.count + sum(len(peer.losses) for peer in self._peers)

    def synchronize(self, losses: Tensor) -> Tensor:
        """Publish, and find peers: this candidate's losses, followed by those of its peers."""
        known = [float(loss) for loss in losses.detach().cpu()]
        self.exchange.publish(known, self.particles.weights())
        self._peers = self.exchange.peers()
        return torch.tensor([*known, *(loss for peer in self._peers for loss in peer.losses)], dtype=torch.float64)

    def gather(self, values: Tensor) -> Tensor:
        """Not supported: candidates publish only losses and weights.

        Raises:
            SwarmError: Always.
        """
        raise SwarmError(
            "candidates of a search publish only losses and weights: nothing else can be gathered from them"
        )

    def combine(self, values: Mapping[str, Tensor], coefficients: Tensor) -> dict[str, Tensor]:
        """Linear combinations of this candidate's weights and its peers', for the candidate's particles.

        Only peers with a nonzero coefficient are read. The coefficient of one whose file is gone is added to the particle's.

        Raises:
            SwarmError: ``values`` aren't weights.
        """
        unknown = sorted(set(values) - set(self.particles.weights()))
        if unknown:
            raise SwarmError(
                f"candidates of a search exchange only weights, not {unknown[0]}; keep optimizer_state 'own' or 'reset', "
                "or train the particles in one ParticleStack"
            )
        count = self.particles.count
        matrix = coefficients.detach().double().cpu()[:count].clone()
        stacks, columns = [dict(values)], [matrix[:, :count]]
        first = count
        for peer in self._peers:
            share = matrix[:, first : first + len(peer.losses)]
            first += len(peer.losses)
            if not bool((share != 0).any()):
                continue
            weights = peer.weights()
            if weights is None or any(_unlike(weights.get(name), tensor, peer) for name, tensor in values.items()):
                columns[0] = columns[0] + torch.diag(share.sum(dim=1))
                continue
            stacks.append(weights)
            columns.append(share)
        mixed = torch.cat(columns, dim=1)
        result: dict[str, Tensor] = {}
        for name, tensor in values.items():
            together = torch.cat([stack[name].to(tensor.device) for stack in stacks])
            result |= combine({name: together}, mixed, own=range(count))
        return result

    def close(self) -> None:
        """Remove what was published from the exchange."""
        self.exchange.close()


def _hashed(content: bytes) -> bytes:
    """The content of a safetensors file with metadata, and its hash added to these."""
    header, data = _parts(content)
    header["__metadata__"]["digest"] = _digest(header, data)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data


def _is_whole(content: bytes) -> bool:
    """Whether the content is as :func:`_hashed` gave it."""
    header, data = _parts(content)
    digest = header["__metadata__"].pop("digest")
    return bool(digest == _digest(header, data))


def _parts(content: bytes) -> tuple[dict[str, Any], bytes]:
    end = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:end]), content[end:]


def _digest(header: Mapping[str, Any], data: bytes) -> str:
    hashed = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    hashed.update(data)
    return hashed.hexdigest()


def _unlike(theirs: Tensor | None, ours: Tensor, peer: Peer) -> bool:
    """Whether a peer's tensor differs in the number of its particles, in shape or in dtype."""
    return theirs is None or theirs.dtype != ours.dtype or theirs.shape != (len(peer.losses), *ours.shape[1:])


def _delete(path: Path, process: int) -> None:
    if os.getpid() == process:  # not at the end of a forked process
        with suppress(OSError):
            path.unlink(missing_ok=True)
