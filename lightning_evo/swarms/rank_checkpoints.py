"""How is a swarm saved whose particles are in several processes? Each as a plain checkpoint, all of them or none.

Rank 0's checkpoint is at the path that was asked for; it makes the others valid by a word that all files of one save
hold. The other ranks' stand beside it, as ``rank1.last.ckpt`` beside ``last.ckpt``: written first, while the files of the
save before are kept. So a run that dies at any moment leaves a complete set, that of the checkpoint at the path.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lightning.fabric.utilities.cloud_io import get_filesystem

from lightning_evo.swarms.errors import SwarmError

if TYPE_CHECKING:
    from lightning_evo.swarms.strategy import SwarmStrategy

__all__ = ["load", "rank_path", "remove", "save"]

_KEY = "swarm"
_PREVIOUS = ".previous"
_PART = ".part"


def rank_path(path: str, rank: int) -> str:
    """Where a rank's particle is when a swarm is saved at ``path``.

    >>> rank_path("runs/last.ckpt", 0), rank_path("runs/last.ckpt", 2)
    ('runs/last.ckpt', 'runs/rank2.last.ckpt')
    """
    if rank == 0:
        return path
    folder, name = os.path.split(path)
    return os.path.join(folder, f"rank{rank}.{name}")


def save(strategy: SwarmStrategy, checkpoint: dict[str, Any], path: str, storage_options: Any = None) -> None:
    """Write this rank's checkpoint; called by all ranks, which take rank 0's path."""
    # Ranks name files after metrics of their own (`{val_acc:.2f}.ckpt`).
    path, token = strategy.broadcast((path, secrets.token_hex(8)))
    rank, size = strategy.global_rank, strategy.world_size
    checkpoint[_KEY] = {"rank": rank, "size": size, "save": token}
    own = rank_path(path, rank)
    if rank > 0:
        strategy.checkpoint_io.save_checkpoint(checkpoint, own + _PART, storage_options=storage_options)
        if get_filesystem(own).exists(own):
            _move(own, own + _PREVIOUS)
        _move(own + _PART, own)
    strategy.barrier("swarm checkpoint: the other ranks' files are written")
    if rank == 0:
        strategy.checkpoint_io.save_checkpoint(checkpoint, path, storage_options=storage_options)
    strategy.barrier("swarm checkpoint: rank 0's makes them valid")
    if rank > 0:
        _remove(own + _PREVIOUS)


def load(strategy: SwarmStrategy, path: str, **options: Any) -> dict[str, Any]:
    """Read this rank's checkpoint; called by all ranks, which take rank 0's path.

    A checkpoint that no swarm wrote is every rank's.

    Raises:
        SwarmError: Another number of ranks wrote it, or a rank's file is missing or of another save; in every rank.
    """
    path = strategy.broadcast(path)
    if os.path.islink(path):
        path = os.path.realpath(path)  # ModelCheckpoint(save_last="link")
    rank = strategy.global_rank
    checkpoint, problem = None, None
    if rank == 0:
        try:
            checkpoint = strategy.checkpoint_io.load_checkpoint(path, **options)
        except Exception as error:  # whatever it is, the other ranks wait to hear of it
            problem = error
    saved, trouble = strategy.broadcast((None if checkpoint is None else checkpoint.get(_KEY), repr(problem)))
    if problem is not None:
        raise problem
    if trouble != "None":
        raise SwarmError(f"rank 0 can't read the checkpoint {path}: {trouble}")
    if saved is not None and saved["size"] != strategy.world_size:
        raise SwarmError(
            f"{path} was written by a swarm of {saved['size']} ranks, and this one has {strategy.world_size}; "
            f"set trainer.devices (times num_nodes) to {saved['size']}, or start from a single rank's file without a swarm"
        )
    if rank > 0:
        checkpoint, problem = _load_own(strategy, rank_path(path, rank) if saved else path, saved, options)
    for other, said in enumerate(strategy.gather_objects(None if problem is None else str(problem))):
        if said is not None:
            raise SwarmError(f"rank {other} can't resume from {path}: {said}")
    assert checkpoint is not None
    return checkpoint


def remove(strategy: SwarmStrategy, path: str) -> None:
    """Delete this rank's checkpoint; called by all ranks, which take rank 0's path."""
    strategy.checkpoint_io.remove_checkpoint(rank_path(strategy.broadcast(path), strategy.global_rank))


def _load_own(
    strategy: SwarmStrategy, own: str, saved: Mapping[str, Any] | None, options: Mapping[str, Any]
) -> tuple[dict[str, Any] | None, Exception | None]:
    """A rank's own checkpoint, of the same save as rank 0's; whichever of two it is takes its proper place."""
    found = []
    try:
        for path in (own, own + _PREVIOUS):
            if saved is None or get_filesystem(path).exists(path):
                checkpoint = strategy.checkpoint_io.load_checkpoint(path, **options)
                if saved is None or checkpoint.get(_KEY, {}).get("save") == saved["save"]:
                    if path != own:
                        _move(path, own)
                    elif saved is not None:
                        _remove(own + _PREVIOUS)
                    return checkpoint, None
                found.append(checkpoint.get("global_step"))
    except Exception as error:  # told to all ranks
        return None, error
    if found:
        return None, SwarmError(f"{own} is of another save (global step {found[0]}) than rank 0's; delete both")
    return None, SwarmError(f"there is no {own}, where its particle should be")


def _move(source: str, target: str) -> None:
    if os.path.exists(source):
        os.replace(source, target)  # fsspec's own move isn't atomic on a local disk
    else:
        get_filesystem(source).mv(source, target, recursive=True)


def _remove(path: str) -> None:
    files = get_filesystem(path)
    if files.exists(path):
        files.rm(path, recursive=True)
