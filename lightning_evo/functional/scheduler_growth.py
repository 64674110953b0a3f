"""What becomes of a learning rate's schedule when an optimizer has one more parameter group? The new one follows it too."""

from __future__ import annotations

from typing import Any

from torch.optim import lr_scheduler
from torch.optim.swa_utils import SWALR

__all__ = ["extend_scheduler", "why_not_extendable"]

_RATES = ("base_lrs", "_last_lr", "max_lrs", "min_lrs")
"""One learning rate for each parameter group."""
_ALIKE = ("lr_lambdas", "base_momentums", "max_momentums")
"""One function or number for each parameter group, of which the new one is given its source's."""

_KNOWN = (
    lr_scheduler.LambdaLR,
    lr_scheduler.MultiplicativeLR,
    lr_scheduler.StepLR,
    lr_scheduler.MultiStepLR,
    lr_scheduler.ConstantLR,
    lr_scheduler.LinearLR,
    lr_scheduler.ExponentialLR,
    lr_scheduler.PolynomialLR,
    lr_scheduler.CosineAnnealingLR,
    lr_scheduler.CosineAnnealingWarmRestarts,
    lr_scheduler.CyclicLR,
    lr_scheduler.OneCycleLR,
    lr_scheduler.ReduceLROnPlateau,
    lr_scheduler.SequentialLR,
    lr_scheduler.ChainedScheduler,
    SWALR,
)


def why_not_extendable(scheduler: Any) -> str:
    """Why a scheduler is bound to the number of parameter groups it was made with; empty if it isn't.

    >>> import torch
    >>> sgd = torch.optim.SGD([torch.nn.Parameter(torch.zeros(2))], lr=0.1)
    >>> why_not_extendable(lr_scheduler.StepLR(sgd, 1))
    ''
    """
    # A subclass may keep whatever it likes for each group.
    if type(scheduler) not in _KNOWN and not type(scheduler).__module__.startswith("lightning."):
        return f"{type(scheduler).__name__} may be bound to the number of parameter groups; torch.optim's own aren't"
    return next((why for part in _parts(scheduler) if (why := why_not_extendable(part))), "")


def extend_scheduler(scheduler: Any, source: int, rate: float) -> None:
    """Have a scheduler, in place, drive one more parameter group, which is its optimizer's last.

    Args:
        scheduler: Of ``torch.optim``, at any position.
        source: The group that the new one was copied from.
        rate: The new group's learning rate in relation to the source's.

    >>> import torch
    >>> sgd = torch.optim.SGD([torch.nn.Parameter(torch.zeros(2))], lr=0.4)
    >>> schedule = lr_scheduler.LambdaLR(sgd, lambda epoch: 0.5**epoch)
    >>> sgd.param_groups.append({**sgd.param_groups[0], "params": [], "lr": 0.2, "initial_lr": 0.2})
    >>> extend_scheduler(schedule, 0, 0.5)
    >>> sgd.step(); schedule.step(); schedule.get_last_lr()
    [0.2, 0.1]
    """
    for name in _RATES:
        rates = vars(scheduler).get(name)
        if isinstance(rates, list):  # before the first validation, a plateau's has no last rates
            rates.append(rates[source] * rate)
    for name in _ALIKE:
        if name in vars(scheduler):
            getattr(scheduler, name).append(getattr(scheduler, name)[source])
    for part in _parts(scheduler):
        extend_scheduler(part, source, rate)


def _parts(scheduler: Any) -> list[Any]:
    return list(getattr(scheduler, "_schedulers", []))
