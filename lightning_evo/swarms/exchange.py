"""How do candidates that train at the same time average, without waiting for each other? Through files in one directory.

Each candidate publishes its particle as one file, written under a temporary name and renamed, and reads those of its peers:
others of the same architecture and ancestry, published not long before its own. Nobody waits for anybody.
"""

from __future__ import annotations

import json
import os
import re
import warnings
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor

from lightning_evo.functional.mixing import combine
from lightning_evo.swarms.errors import SwarmError
from lightning_evo.swarms.swarm import Particles, Swarm, architecture_of
from lightning_evo.utils.files import write_atomically

__all__ = ["Exchange", "ExchangeSwarm", "Peer", "architecture_of"]

_SUFFIX = ".safetensors"
_UNREADABLE = (OSError, SafetensorError, ValueError, KeyError, TypeError)
"""What reading a file raises that is torn, has vanished, or is none of ours."""


@dataclass(frozen=True)
class Peer:
    """What another candidate has published.

    Args:
        name: Its name in the exchange.
        losses: The losses of its particles, most often of one.
        step: How often it had published before.
        age: Seconds between its publication and one's own last one, by the file system's clock; below 0: it came later.
        path: The file that holds its weights.
    """

    name: str
    losses: tuple[float, ...]
    step: int
    age: float
    path: Path

    def weights(self) -> dict[str, Tensor] | None:
        """Its particles' tensors, each with the particles along the first axis, on the CPU; ``None`` if it has vanished."""
        try:
            # Read, not mapped: a mapped file that somebody truncates kills the process that touches it.
            return load(self.path.read_bytes())
        except _UNREADABLE:
            return None


class Exchange:
    """One candidate's place in a directory through which candidates meet.

    Clocks of different machines don't matter: ages come from the file system alone. The file is removed by :meth:`close`,
    or when the exchange is forgotten; that of a killed process is ignored once it is too old, and replaced when the
    candidate trains again.

    Args:
        directory: Where the files are; made if absent.
        name: This candidate's, unique among those that run.
        architecture: :func:`~lightning_evo.swarms.swarm.architecture_of` its model.
        ancestry: Whose descendant it is: only weights of common ancestry are averaged.
        max_age: How old, in seconds, a publication may be beside one's own last one. Default: an hour.

    Raises:
        ValueError: The name can't be a file's.

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
            raise ValueError(f"Exchange: name {name!r} is not made of letters, digits, _ and - alone")
        if not max_age > 0:
            raise ValueError(f"Exchange: max_age {max_age} is not above 0")
        self.directory, self.name = Path(directory), name
        self.architecture, self.ancestry, self.max_age = architecture, ancestry, max_age
        self._path = self.directory / f"{name}{_SUFFIX}"
        self._step = 0
        self._warned = False
        # In a process that trains one candidate after another, nothing but the exchange's own end tells the candidate's.
        self.close = weakref.finalize(self, _delete, self._path, os.getpid())
        """Remove what was published; further calls do nothing."""

    def publish(self, losses: Sequence[float], weights: Mapping[str, Tensor]) -> bool:
        """Make this candidate's particles known, in place of what it published before.

        A disk that can't take them fails nothing: a warning says so, once, and the candidate trains on without being seen.

        Args:
            losses: Of its particles, (count,).
            weights: Name -> (count, ...).

        Returns:
            Whether it was written.
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
            write_atomically(self._path, save(tensors, metadata={"about": json.dumps(about)}))
        except OSError as error:
            # What is there of an earlier time would be taken for the present.
            with suppress(OSError):
                self._path.unlink(missing_ok=True)
            if not self._warned:
                warnings.warn(f"nothing is published in {self.directory}: {error}; training goes on", stacklevel=2)
                self._warned = True
            return False
        self._step += 1
        return True

    def peers(self) -> list[Peer]:
        """Who else trains this architecture, of this ancestry, and has published not too long ago; by name."""
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
        """When this candidate last published, by the clock of the file system; else, the newest file's time."""
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

    The particles here come first; :attr:`size` changes from one :meth:`meet` to the next. Only weights can be combined, and
    each candidate changes only its own: where a rule moves several, each moves by itself, when it meets.

    Args:
        particles: Those of this candidate.
        exchange: Its place in the exchange.
    """

    averages_anything = False

    def __init__(self, particles: Particles, exchange: Exchange) -> None:
        super().__init__(particles)
        self.exchange = exchange
        self._peers: list[Peer] = []

    @property
    def size(self) -> int:
        """This candidate's particles and those of the peers found by the last :meth:`meet`."""
        return self.particles.count + sum(len(peer.losses) for peer in self._peers)

    def meet(self, losses: Tensor) -> Tensor:
        """Publish, and see who is there: this candidate's losses, then its peers'."""
        known = [float(loss) for loss in losses.detach().cpu()]
        self.exchange.publish(known, self.particles.weights())
        self._peers = self.exchange.peers()
        return torch.tensor([*known, *(loss for peer in self._peers for loss in peer.losses)], dtype=torch.float64)

    def gather(self, values: Tensor) -> Tensor:
        """Refused: nobody publishes anything but losses and weights.

        Raises:
            SwarmError: Always.
        """
        raise SwarmError(
            "candidates of a search publish losses and weights alone: nothing else can be gathered of them"
        )

    def combine(self, values: Mapping[str, Tensor], coefficients: Tensor) -> dict[str, Tensor]:
        """Linear combinations of this candidate's weights and its peers', for the particles here.

        Only peers with a share in these are read. The share of one that has vanished since falls to the particle itself.

        Raises:
            SwarmError: ``values`` are no weights.
        """
        unknown = sorted(set(values) - set(self.particles.weights()))
        if unknown:
            raise SwarmError(
                f"candidates of a search exchange weights alone, not {unknown[0]}; keep optimizer_state 'own' or 'reset', "
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
        """Take what was published out of the exchange."""
        self.exchange.close()


def _unlike(theirs: Tensor | None, ours: Tensor, peer: Peer) -> bool:
    """Whether a peer's tensor isn't one of as many particles as it said, of the same shape and dtype."""
    return theirs is None or theirs.dtype != ours.dtype or theirs.shape != (len(peer.losses), *ours.shape[1:])


def _delete(path: Path, process: int) -> None:
    if os.getpid() == process:  # not at the end of a process that was forked meanwhile
        with suppress(OSError):
            path.unlink(missing_ok=True)
