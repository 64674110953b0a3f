"""Steps of all particles: as one batched computation or each in turn, and the choice between the two."""

from __future__ import annotations

import numbers
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any, Literal, TypeVar

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from lightning_evo._compat.torch import compiled_call, foreach_mul_, tree_flatten, tree_map, tree_unflatten
from lightning_evo.functional.stacking.stacking import stacked_call
from lightning_evo.swarms.errors import SwarmError
from lightning_evo.swarms.logs import Log, Logged, redirected_logs, stacked
from lightning_evo.swarms.stack.compatibility import NotStackable, guarded, unchanged
from lightning_evo.swarms.stack.metrics import DeferredValue, MetricCall, StackedMetrics, deferring, metrics_of
from lightning_evo.utils.random_state_torch import isolated_random_state

__all__ = [
    "LogCollector",
    "LoweringChoice",
    "StackedStep",
    "describe_error",
    "faster_lowering",
    "looped_losses",
    "looped_step",
    "losses_of",
    "merged",
    "particle_of",
    "state_restored",
]


class StackedStep:
    """Runs a step of all particles as one computation, with the first of them as the template.

    Args:
        particles: The particles, as modules over the stacked memory.
    """

    def __init__(self, particles: Sequence[LightningModule]) -> None:
        self.particles = particles
        self.differing: Mapping[str, Mapping[str, str]] = {}
        self._template = particles[0]
        self._metrics = metrics_of(self._template)
        self._stacked_metrics: dict[str, StackedMetrics] = {}
        self._paths = {
            id(module): path for path, module in self._template.named_modules() if isinstance(module, Metric)
        }
        self._holders = [child for child in self._template.modules() if isinstance(child, LightningModule)]
        self._seen: set[str] = set()

    def __call__(
        self, name: str, memory: Mapping[str, Tensor], args: Sequence[Any], own: bool, place: Log, count: bool = True
    ) -> tuple[Any, list[Logged]]:
        """Run the step.

        Args:
            name: The step, a method of the particles.
            memory: The stacked tensors.
            args: The step's arguments, the batch first.
            own: Whether each particle has its own batch, along the first axis of the batch's tensors.
            place: A log with the current hook and data loader.
            count: Whether metric objects count the step's calls.

        Returns:
            The step's outputs, each tensor stacked (N, ...); and what was logged, each value (N,) or N metrics.

        Raises:
            NotStackable: The step can't be computed for all particles at once.
            RuntimeError: The same, raised by vmap.
        """
        collector = LogCollector()
        collector.hook, collector.dataloader_idx = place.hook, place.dataloader_idx
        calls: list[MetricCall] = []
        leaves, structure = tree_flatten(args[0])
        places = [index for index, leaf in enumerate(leaves) if own and isinstance(leaf, Tensor)]
        method = getattr(self._template, name)
        kept: list[list[Any]] = []

        def step(*tensors: Tensor) -> tuple[Any, list[Any], list[Any]]:
            mine = list(leaves)
            for index, tensor in zip(places, tensors, strict=True):
                mine[index] = tensor
            collector.batch = batch = tree_unflatten(mine, structure)
            outputs = method(batch, *args[1:])
            kept[:] = [collector.take(), list(calls)]
            return outputs, [logged.value for logged in kept[0]], [(call.args, call.kwargs) for call in calls]

        thorough = name not in self._seen
        if thorough and any(compiled_call(module) is not None for module in self._template.modules()):
            raise NotStackable("the module is compiled; a stack computes by vmap, or loops over compiled particles")
        with (
            unchanged(self._template, thorough),
            guarded(self._template, self.differing),
            redirected_logs(self._holders, collector),
            deferring(self._metrics, calls),
        ):
            outputs, values, arguments = stacked_call(
                self._template, step, memory, [leaves[index] for index in places], [0] * len(places)
            )
        self._seen.add(name)
        logged, metric_calls = kept
        if not count:
            return outputs, []
        results = [
            self._count(replace(call, args=given, kwargs=named))
            for call, (given, named) in zip(metric_calls, arguments, strict=True)
        ]
        return outputs, [
            entry for call, value in zip(logged, values, strict=True) for entry in self._resolved(call, value, results)
        ]

    def metrics_of_all(self) -> list[Metric | MetricCollection]:
        """The metric objects of all particles."""
        return [metric for particle in self.particles for metric in metrics_of(particle).values()]

    def _count(self, call: MetricCall) -> list[Any] | None:
        if call.path not in self._stacked_metrics:
            metrics: list[Any] = [particle.get_submodule(call.path) for particle in self.particles]
            self._stacked_metrics[call.path] = StackedMetrics(metrics)
        return self._stacked_metrics[call.path](call)

    def _resolved(self, call: Logged, value: Any, results: Sequence[list[Any] | None]) -> Iterator[Logged]:
        number = len(self.particles)
        if isinstance(value, Metric):
            path = self._paths[id(value)]
            yield replace(call, value=[particle.get_submodule(path) for particle in self.particles])
        elif isinstance(value, DeferredValue):
            values = results[value.place]
            assert values is not None
            if isinstance(values[0], Mapping):
                for name in values[0]:
                    yield replace(call, name=call.name + name, value=stacked([mine[name] for mine in values]))
            else:
                yield replace(call, value=stacked(values))
        elif isinstance(value, Tensor):
            if value.numel() != number:
                raise SwarmError(
                    f"self.log({call.name!r}, ...) got a tensor of {value.numel() // number} elements, not one"
                )
            yield replace(call, value=value.detach().reshape(number))
        else:
            yield replace(call, value=torch.full((number,), float(value)))


def looped_step(
    particles: Sequence[LightningModule], name: str, args: Sequence[Any], own: bool, collectors: Sequence[LogCollector]
) -> tuple[list[Any], list[Logged]]:
    """Run each particle's step in turn.

    Returns:
        The output of each; and what they logged, each value (N,) or N metrics.
    """
    outputs = []
    for index, (particle, collector) in enumerate(zip(particles, collectors, strict=True)):
        batch = particle_of(args[0], index) if own else args[0]
        collector.batch = batch
        outputs.append(getattr(particle, name)(batch, *args[1:]))
    return outputs, merged([collector.take() for collector in collectors])


def looped_losses(
    particles: Sequence[LightningModule],
    memory: Mapping[str, Tensor],
    args: Sequence[Any],
    own: bool,
    collectors: Sequence[LogCollector],
    scaled: Callable[[Tensor], Tensor],
    count: bool = True,
) -> tuple[Tensor, list[Any], Tensor, list[Logged]]:
    """Run each particle's training step and its backward pass at once, so that only one graph is in memory at a time.

    Args:
        particles: The particles, as modules over the stacked memory.
        memory: The stacked tensors.
        args: The step's arguments, the batch first.
        own: Whether each particle has its own batch.
        collectors: The particles' logs.
        scaled: Multiplies a loss by the loss scale of mixed precision.
        count: Whether metric objects count the steps' calls, and logged values are merged.

    Returns:
        The sum of the losses, whose ``backward`` gives the stacked parameters the gradients computed here; the outputs of
        the steps; the losses (N,), detached; and what was logged.
    """
    names = [name for name, tensor in memory.items() if tensor.requires_grad]
    outputs, losses, gradients = [], [], []
    for index, (particle, collector) in enumerate(zip(particles, collectors, strict=True)):
        batch = particle_of(args[0], index) if own else args[0]
        collector.batch = batch
        with nullcontext() if count else deferring(metrics_of(particle), []):
            output = particle.training_step(batch, *args[1:])
        loss = losses_of(output, type(particle).__name__)
        with torch.autocast(loss.device.type, enabled=False):
            tensors = [particle.get_parameter(name) for name in names]
            gradients.append(torch.autograd.grad(scaled(loss), tensors, allow_unused=True))
        outputs.append(tree_map(_detached, output))
        losses.append(loss.detach())
    stacks = [_stack(of_one_name) for of_one_name in zip(*gradients, strict=True)]
    all_losses = torch.stack(losses)
    scale = scaled(torch.ones((), device=all_losses.device))
    total = _Differentiated.apply(all_losses.sum(), scale, stacks, *[memory[name] for name in names])
    calls = [collector.take() for collector in collectors]
    return total, outputs, all_losses, merged(calls) if count else []


class _Differentiated(torch.autograd.Function):
    """A sum of losses with gradients that are already known."""

    @staticmethod
    def forward(ctx: Any, total: Tensor, scale: Tensor, gradients: list[Tensor | None], *parameters: Tensor) -> Tensor:
        ctx.scale, ctx.gradients = scale, gradients
        return total.clone()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:
        factor = grad_outputs[0] / ctx.scale
        gradients, ctx.gradients = ctx.gradients, None
        if factor.device.type != "cpu" or factor.item() != 1.0:  # on an accelerator, item() would wait for it
            foreach_mul_([gradient for gradient in gradients if gradient is not None], factor)
        return None, None, None, *gradients


def _stack(gradients: Sequence[Tensor | None]) -> Tensor | None:
    known = [gradient for gradient in gradients if gradient is not None]
    if not known:
        return None
    return torch.stack([torch.zeros_like(known[0]) if gradient is None else gradient for gradient in gradients])


def _detached(leaf: Any) -> Any:
    return leaf.detach() if isinstance(leaf, Tensor) else leaf


def losses_of(output: Any, name: str, count: int = 1) -> Tensor:
    """The losses in the output of ``training_step`` of a class ``name``: of one particle, (), or of several, (N,)."""
    loss = output.get("loss") if isinstance(output, Mapping) else output
    if not isinstance(loss, Tensor):
        raise SwarmError(
            f"training_step of {name} returned {'no loss' if loss is None else f'a {type(loss).__name__}'}; "
            "in a stack every particle's every step needs a loss: a tensor, or a dict with a tensor under 'loss'"
        )
    if loss.numel() != count:
        raise SwarmError(f"training_step of {name} returned a loss of {loss.numel() // count} numbers; one is needed")
    return loss.reshape(count) if count > 1 else loss.reshape(())


def particle_of(tree: Any, index: int) -> Any:
    """One particle's part of a tree of stacked tensors."""
    return tree_map(lambda leaf: leaf[index] if isinstance(leaf, Tensor) and leaf.dim() else leaf, tree)


class LogCollector(Log):
    """Collects the calls of ``self.log``, instead of reducing them."""

    loggable = (numbers.Number, Tensor, Metric, DeferredValue)

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Logged] = []

    def record(self, logged: Logged) -> None:
        """Collect one call."""
        self.calls.append(logged)

    def take(self) -> list[Logged]:
        """Return the collected calls, and clear them."""
        calls, self.calls = self.calls, []
        return calls

    def log_dict(self, dictionary: Mapping[str, Any], *args: Any, **options: Any) -> None:
        """Collect a call for each entry; or one call for a metric collection's value that isn't known yet."""
        if isinstance(dictionary, DeferredValue):
            self.log("", dictionary, *args, **options)
        else:
            super().log_dict(dictionary, *args, **options)


def merged(calls: Sequence[Sequence[Logged]]) -> list[Logged]:
    """The calls of N particles as one: each value (N,), or N metrics. A value that a particle didn't log is NaN.

    Args:
        calls: The calls of each particle, in order.
    """
    keys = [_keys(of_one) for of_one in calls]
    if all(mine == keys[0] for mine in keys[1:]):
        return [_as_one(list(same)) for same in zip(*calls, strict=True)]
    found = [dict(zip(mine, of_one, strict=True)) for mine, of_one in zip(keys, calls, strict=True)]
    return [_as_one([mine.get(key) for mine in found]) for key in dict.fromkeys(key for mine in keys for key in mine)]


def _keys(calls: Sequence[Logged]) -> list[tuple[str, str, int]]:
    seen: dict[tuple[str, str], int] = {}
    keys = []
    for call in calls:
        number = seen[call.hook, call.name] = seen.get((call.hook, call.name), -1) + 1
        keys.append((call.hook, call.name, number))
    return keys


def _as_one(calls: Sequence[Logged | None]) -> Logged:
    first = next(call for call in calls if call is not None)
    if isinstance(first.value, Metric):
        if any(call is None for call in calls):
            raise NotStackable(f"metric {first.name} is logged by some particles only; log it in all of them")
        return replace(first, value=[call.value for call in calls if call is not None])
    return replace(first, value=stacked([float("nan") if call is None else call.value for call in calls]))


_ROUNDS = 3


_SIGNS = {
    ".item()": "it reads the number in a tensor, by .item(), float() or the like",
    "data-dependent control flow": "it branches on the value of a tensor",
    "data pointer": "it makes a NumPy array of a tensor",
    "in-place operation": "it changes in place a tensor that all particles share",
}


Result = TypeVar("Result")


Way = Literal["stack", "loop"]


class LoweringChoice:
    """How a stack's steps are computed, and the reason.

    Args:
        asked: ``auto``, ``stack`` or ``loop``.

    Raises:
        SwarmError: It is none of them.
    """

    def __init__(self, asked: str) -> None:
        if asked not in ("auto", "stack", "loop"):
            raise SwarmError(f"lowering: {asked!r} is not one of auto, stack, loop")
        self.asked = asked
        self.chosen: Way | None = None if asked == "auto" else "stack" if asked == "stack" else "loop"
        self.reason = "not chosen before the first training batch" if asked == "auto" else "asked for"
        self._looped: set[str] = set()

    def measure(self, stack: Callable[[], Tensor], loop: Callable[[], Tensor], memory: Mapping[str, Tensor]) -> None:
        """Choose by :func:`faster_lowering`, if no choice has been made yet."""
        if self.chosen is None:
            self.chosen, self.reason = faster_lowering(stack, loop, memory)

    def stacks(self, step: str) -> bool:
        """Whether a step is computed for all particles at once."""
        return self.chosen == "stack" and step not in self._looped

    def attempt(self, step: str, compute: Callable[[], Result]) -> Result | None:
        """Compute a step for all particles at once; return ``None`` if it has to be computed in a loop from now on.

        Raises:
            SwarmError: It can't be done, and ``stack`` was requested.
        """
        if not self.stacks(step):
            return None
        try:
            return compute()
        except Exception as error:
            reason = f"{step}: {describe_error(error)}"
            if self.asked == "stack":
                raise SwarmError(
                    f"the particles can't be stacked: {reason}; change that, or use lowering: auto, which then loops"
                ) from error
        if step == "training_step":
            self.chosen, self.reason = "loop", reason
        else:
            self._looped.add(step)
            self.reason += f"; {step} in a loop ({reason})"
        return None

    def state_dict(self) -> dict[str, Any]:
        """The choice and its reason, for a resumed training."""
        return {"lowering": self.chosen, "reason": self.reason, "looped": sorted(self._looped)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the choice, unless ``stack`` or ``loop`` was requested."""
        if self.asked == "auto":
            self.chosen, self.reason, self._looped = state["lowering"], state["reason"], set(state["looped"])


def faster_lowering(
    stack: Callable[[], Tensor], loop: Callable[[], Tensor], memory: Mapping[str, Tensor]
) -> tuple[Way, str]:
    """Time the losses and gradients of one batch in two ways: one warm-up and three steps each, alternating.

    Args:
        stack: Computes the sum of all particles' losses as one.
        loop: Computes the same, one particle after the other.
        memory: The stacked tensors; they, their gradients and the random states are restored afterwards.

    Returns:
        ``"stack"`` or ``"loop"``, and the reason: the medians, or the error of the stack.

    Raises:
        Exception: The loop's own error.
    """
    ways: dict[Way, Callable[[], Tensor]] = {"stack": stack, "loop": loop}
    seconds: dict[Way, list[float]] = {name: [] for name in ways}
    device = next(iter(memory.values())).device
    with state_restored(memory):
        try:
            _seconds(stack, memory, device)
        except Exception as error:
            return "loop", f"training_step: {describe_error(error)}"
        if torch.are_deterministic_algorithms_enabled():
            return "stack", "deterministic algorithms are requested, so nothing is measured"
        _seconds(loop, memory, device)
        for _ in range(_ROUNDS):
            for name, way in ways.items():
                seconds[name].append(_seconds(way, memory, device))
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    chosen = min(medians, key=lambda name: medians[name])
    return chosen, f"measured per step: stack {1e3 * medians['stack']:.2f} ms, loop {1e3 * medians['loop']:.2f} ms"


def describe_error(error: Exception) -> str:
    """An exception in one line; vmap's messages are explained in terms of the step."""
    if isinstance(error, torch.OutOfMemoryError):
        return "out of memory"
    if isinstance(error, NotStackable):
        return str(error)
    text = next(iter(str(error).strip().splitlines()), "")
    hint = next((f"{meaning} (" for sign, meaning in _SIGNS.items() if sign in text), "")
    return f"{hint}{type(error).__name__}: {text}{')' if hint else ''}"


def _seconds(way: Callable[[], Tensor], memory: Mapping[str, Tensor], device: torch.device) -> float:
    for tensor in memory.values():
        tensor.grad = None
    _wait(device)
    start = time.perf_counter()
    way().backward()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        getattr(torch, device.type).synchronize(device)


@contextmanager
def state_restored(memory: Mapping[str, Tensor]) -> Iterator[None]:
    """Restore tensors, gradients and random states at the end."""
    gradients = {name: tensor.grad for name, tensor in memory.items()}
    buffers = {name: tensor.clone() for name, tensor in memory.items() if not isinstance(tensor, torch.nn.Parameter)}
    device = next(iter(memory.values())).device
    try:
        with isolated_random_state(devices=[device]):
            yield
    finally:
        with torch.no_grad():
            for name, buffer in buffers.items():
                memory[name].copy_(buffer)
        for name, gradient in gradients.items():
            memory[name].grad = gradient
