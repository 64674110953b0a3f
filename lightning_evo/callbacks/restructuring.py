"""How does a training go on in a network of another structure? Its checkpoint is fitted to the network as it is restored."""

from __future__ import annotations

import copy
from typing import Any

from lightning.pytorch import LightningModule
from torch import Tensor
from torch.optim import Optimizer

from lightning_evo.functional import Inheritance, inherit, inherit_optimizer

__all__ = ["Restructuring"]


class Restructuring:
    """A parent's training state on its way into a module whose structure may differ.

    Where the shapes are the checkpoint's, nothing is done, and the training goes on exactly. Elsewhere the module inherits
    the weights when Lightning loads them (:func:`~lightning_evo.functional.inherit`), and :meth:`translate` fits the
    optimizers' states before Lightning restores those. All else in the checkpoint holds as it is.

    Args:
        module: Into which the checkpoint will be loaded.
        inheriting: Arguments of ``inherit``.
    """

    def __init__(self, module: LightningModule, **inheriting: Any) -> None:
        self.module = module
        self.done: Inheritance | None = None
        self.checkpoint: dict[str, Any] = {}
        self._inheriting = inheriting
        self._parent: dict[str, Tensor] = {}
        self._handle = module.register_load_state_dict_pre_hook(self._load)

    def _load(self, module: Any, state: dict[str, Any], prefix: str, *_: Any) -> None:
        own = module.state_dict()
        if {name: tensor.shape for name, tensor in own.items()} == {n: t.shape for n, t in state.items()}:
            return
        self._parent = dict(state)
        self.done = inherit(module, self._parent, **self._inheriting)
        state.clear()
        state.update(module.state_dict())

    def translate(self, optimizers: list[Optimizer]) -> str:
        """Fit the optimizers' states in the checkpoint to the module; says what became of them.

        Moments follow their weights; settings (such as the rate that a schedule has reached) are the checkpoint's.
        """
        self._handle.remove()
        if self.done is None:
            return "kept"
        states, kept = self.checkpoint["optimizer_states"], "kept"
        for i, (optimizer, state) in enumerate(zip(optimizers, states, strict=True)):
            try:
                inherit_optimizer(optimizer, self.module, self.done, state, self._parent)
            except ValueError as error:
                kept = f"fresh: {error}"
            fitted = copy.deepcopy(optimizer.state_dict())
            for mine, theirs in zip(fitted["param_groups"], state["param_groups"], strict=True):
                mine.update({name: theirs[name] for name in set(theirs) - {"params", "param_names"}})
            states[i] = fitted
        return kept
