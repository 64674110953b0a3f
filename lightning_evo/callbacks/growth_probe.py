"""On what is a growing network tried? On some of the last epoch's first batch, without a trace of it being left."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from lightning.pytorch.utilities.seed import isolate_rng
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn

from lightning_evo.swarms.logs import catching

__all__ = ["Probe"]

_BYTES = 4 * 2**20
_FEWEST = 2  # batch statistics of one example are none


class Probe:
    """Some examples of the training data, and what the module makes of them.

    They are part of the state, so that a resumed training tries its growth on what an undisturbed one does. At most 4 MiB of
    a batch are kept, at least two examples.
    """

    def __init__(self) -> None:
        self._batch: Any = None
        self._warned = False

    def keep(self, batch: Any) -> None:
        """Keep some examples of a batch."""
        self._batch = _few(batch)

    def inputs(self, trainer: Trainer, module: LightningModule) -> tuple[Any, ...] | None:
        """What the module's ``forward`` is given for them in a training step; ``None`` if nothing, or nobody knows."""
        caught: list[tuple[Any, ...]] = []
        names = inspect.signature(module.forward)

        def catch(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            bound = names.bind(*args, **kwargs)
            if not caught and not bound.kwargs:
                caught.append(apply_to_collection(bound.args, Tensor, lambda value: value.detach().clone()))

        handle = module.register_forward_pre_hook(catch, with_kwargs=True)
        try:
            with torch.no_grad():
                self._step(trainer, module)
        except Exception as error:  # whatever a user's step raises when it is called out of turn
            if not self._warned:
                rank_zero_warn(
                    f"StructuralGrowth: growth is not tried on data, as training_step failed on a part: {error}"
                )
            self._warned = True
        finally:
            handle.remove()
        return caught[0] if caught else None

    def loss(self, trainer: Trainer, module: LightningModule) -> Callable[[nn.Module], Tensor] | None:
        """A function that gives the module's training loss on them; ``None`` where there is none to be had."""
        if self._batch is None or not module.automatic_optimization:
            return None

        def loss(_: nn.Module) -> Tensor:
            with torch.enable_grad():
                made = self._step(trainer, module)
            value = made.get("loss") if isinstance(made, Mapping) else made
            if not isinstance(value, Tensor):
                raise ValueError(f"{type(module).__name__}.training_step returned no loss")
            return value

        return loss

    def state_dict(self) -> Any:
        """The examples, where a checkpoint can hold them."""
        if not _holdable(self._batch):
            return None
        return apply_to_collection(self._batch, Tensor, lambda value: value.detach().cpu())

    def load_state_dict(self, state: Any) -> None:
        """Take them up again."""
        self._batch = state

    def _step(self, trainer: Trainer, module: LightningModule) -> Any:
        """One training step that leaves nothing changed but gradients."""
        if self._batch is None or not module.automatic_optimization:
            return None  # a step that optimises by itself can't be tried
        batch = trainer.strategy.batch_to_device(self._batch)
        takes = inspect.signature(module.training_step).parameters
        arguments = (batch, 0) if len(takes) > 1 else (batch,)
        holders = [part for part in module.modules() if isinstance(part, LightningModule)]
        with (
            isolate_rng(),
            _undisturbed(module),
            catching(holders, _Silence()),  # type: ignore[arg-type]
            torch.compiler.set_stance("force_eager"),
            trainer.precision_plugin.train_step_context(),
        ):
            torch.manual_seed(0)
            return module.training_step(*arguments)


class _Silence:
    """Takes what is logged, and forgets it."""

    def log(self, *args: Any, **options: Any) -> None: ...

    def log_dict(self, *args: Any, **options: Any) -> None: ...


@contextmanager
def _undisturbed(module: nn.Module) -> Iterator[None]:
    """Give every attribute, buffer and metric state of a module its value back afterwards; parameters aren't looked at."""
    before = []
    for part in module.modules():
        held = dict(vars(part))
        tensors = [value for value in [*held.values(), *part._buffers.values()] if isinstance(value, Tensor)]
        lists = [(value, list(value)) for value in held.values() if type(value) is list]
        before.append((part, held, [(value, value.detach().clone()) for value in tensors], lists))
    try:
        yield
    finally:
        with torch.no_grad():
            for part, held, copies, lists in before:
                vars(part).clear()
                vars(part).update(held)
                for value, was in copies:
                    if not torch.equal(value, was):  # else nobody is told that it was written to
                        value.copy_(was)
                for values, had in lists:
                    values[:] = had


def _few(batch: Any) -> Any:
    """A batch's first examples, as many as :data:`_BYTES` hold."""
    tensors: list[Tensor] = []
    apply_to_collection(batch, Tensor, lambda value: tensors.append(value) or value)  # type: ignore[func-returns-value]
    size = next((len(value) for value in tensors if value.ndim), 0)
    along = [value for value in tensors if value.ndim and len(value) == size]
    each = sum(value.nbytes for value in along) / size if size else 0
    count = size if not each else min(size, max(_FEWEST, int(_BYTES / each)))

    def cut(value: Tensor) -> Tensor:
        return (value[:count] if value.ndim and len(value) == size else value).detach().clone()

    return apply_to_collection(batch, Tensor, cut)


def _holdable(value: Any) -> bool:
    """Whether it is of tensors and plain data, which any checkpoint holds."""
    if type(value) is dict:
        return all(isinstance(name, (str, int)) and _holdable(one) for name, one in value.items())
    if type(value) in (list, tuple):
        return all(_holdable(one) for one in value)
    return type(value) is Tensor or value is None or isinstance(value, (bool, int, float, str))
