"""Initial weights of its own for a particle that is a copy: it is built again, or initialized layer by layer."""

from __future__ import annotations

import hashlib
import inspect
import io
import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from lightning_evo._compat.lightning import hparams_name
from lightning_evo.swarms.swarm import describe
from lightning_evo.utils.random_state_torch import isolated_random_state

__all__ = ["reinitialize", "weights_digest"]


def weights_digest(module: nn.Module) -> str:
    """A hash of all parameters and buffers, equal only for equal bits."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in module.state_dict().items():
        if isinstance(tensor, Tensor):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def reinitialize(module: LightningModule, seed: int) -> None:
    """Give a module the initial weights that another seed would have given it, in place.

    A module of the same class is built from its saved hyperparameters, as ``load_from_checkpoint`` does. If that fails, or
    gives another architecture, every layer that has ``reset_parameters`` is initialized by it; other parameters keep their
    values, and a warning names them.

    Args:
        module: The module.
        seed: The seed; no random state is changed.
    """
    with _seeded(seed):
        fresh = _rebuilt(module)
        if fresh is not None:
            given = module.state_dict()
            for name, tensor in fresh.state_dict().items():
                if isinstance(tensor, Tensor):
                    given[name].copy_(tensor)
            return
        drawn: set[int] = set()
        for layer in module.modules():
            if callable(reset := getattr(layer, "reset_parameters", None)):
                reset()
                drawn.update(id(parameter) for parameter in layer.parameters())
    kept = [name for name, parameter in module.named_parameters() if id(parameter) not in drawn]
    if kept:
        warnings.warn(
            f"{type(module).__name__} can't be rebuilt from its hyperparameters, and has weights that no layer's "
            f"reset_parameters initializes: {', '.join(kept[:3])}{', ...' if kept[3:] else ''} are the same in all "
            "particles. "
            "Call self.save_hyperparameters() in its constructor, or make its layers in configure_model",
            stacklevel=2,
        )


def _rebuilt(module: LightningModule) -> LightningModule | None:
    cls = type(module)
    checkpoint: dict[str, Any] = {"state_dict": {}, "pytorch-lightning_version": "2.0.0"}
    if module.hparams:
        checkpoint[cls.CHECKPOINT_HYPER_PARAMS_KEY] = dict(module.hparams)
        if name := hparams_name(module):
            checkpoint[cls.CHECKPOINT_HYPER_PARAMS_NAME] = name
    # Lightning before 2.6 takes what it doesn't know for a hyperparameter.
    takes = inspect.signature(cls.load_from_checkpoint).parameters
    options: dict[str, Any] = {"weights_only": False} if "weights_only" in takes else {}
    buffer = io.BytesIO()
    try:
        torch.save(checkpoint, buffer)
        buffer.seek(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the checkpoint holds no weights
            fresh = cls.load_from_checkpoint(buffer, map_location="cpu", strict=False, **options)
            if describe(fresh) != describe(module):
                fresh.configure_model()
    except (
        Exception
    ):  # of any kind, from the user's constructor where hyperparameters are missing: use reset_parameters
        return None
    return fresh if describe(fresh) == describe(module) else None


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed everything inside, and put all random states back."""
    with isolated_random_state(seed):
        random.seed(seed)
        np.random.seed(seed)
        yield
