"""GradMax: outgoing weights of new units that make the gradient of their incoming weights as large as possible."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from lightning_evo._compat.torch import ConvBase
from lightning_evo.functional.graph.operations import ACTIVATIONS, DROPS, NOTHING, call_of, kind_of
from lightning_evo.functional.growth.steps import GrowthError
from lightning_evo.utils.random_state_torch import isolated_random_state

__all__ = ["initialise"]

Loss = Callable[[nn.Module], Tensor]
_SMALL = 1e-6
"""How far the consumer's output may move, as a share of its largest number, where new units need a bias above 0."""
_DENSE = 1024
"""Up to this many rows or columns a gradient matrix is decomposed exactly."""
_ROUNDS = 8
_CHUNK = 2**24
"""How many numbers are handled at a time while a convolution's gradient matrix is summed."""


def initialise(
    root: nn.Module,
    graph: fx.Graph,
    layer: str,
    new: Sequence[int],
    loss: Loss,
    *,
    whole: nn.Module | None = None,
    seed: int = 0,
) -> str:
    """Set new units' weights so that the network computes the same and their gradient is as large as possible.

    With incoming weights of 0 a unit gives f(0) = 0, whatever its outgoing weights W. The gradient of the k new units'
    incoming weights is f'(0) WᵀM, where M is the gradient of the loss with respect to the consumer's output times the
    layer's input, summed over the batch. For orthogonal W of given norm it is largest if W's columns are M's k
    first left singular vectors. Each is given the mean norm of the existing columns. If there are more units than M has
    rows, the surplus gets random columns of that norm.

    At 0 the gradient of torch's ReLU and ReLU6 is 0, that of LeakyReLU a fraction. There a new unit's bias is not 0 but just
    above, so that the unit is active for every input; the consumer's output changes by at most 1e-6 of its largest number.

    Args:
        root: The network, in which the layer is wider already.
        graph: The network's graph, traced before or after.
        layer: Name of the layer that got new units, linear or a convolution, in ``root.named_modules()``.
        new: The indices of its new outputs; their incoming and outgoing weights are overwritten.
        loss: Returns the loss of a module on a batch. It is called once, in the present mode, without side effects:
            gradients, statistics of batch normalization and random state are restored.
        whole: The module that ``loss`` is called with, if ``root`` is a part of it.
        seed: Seed of surplus columns.

    Returns:
        Why nothing was done; empty if it was.

    Raises:
        GrowthError: If the loss is not a finite scalar, or doesn't run the layer.

    Source:
        Evci et al. 2022, GradMax: Growing neural networks using gradient information, arXiv:2201.05125.

    >>> from lightning_evo.functional.graph.tracing import trace
    >>> net = nn.Sequential(nn.Linear(2, 5), nn.GELU(), nn.Linear(5, 3))
    >>> inputs = torch.randn(16, 2)
    >>> initialise(net, trace(net), "0", [3, 4], lambda net: net(inputs).square().mean())
    ''
    >>> net[0].weight[3:].abs().sum().item(), net[2].weight[:, 3:].norm(dim=0).min().item() > 0
    (0.0, True)
    """
    modules = dict(root.named_modules(remove_duplicate=False))
    found = _route(graph, modules, layer)
    if isinstance(found, str):
        return found
    producer, consumer = modules[layer], modules[found.consumer]
    assert isinstance(producer, nn.Linear | ConvBase)
    assert isinstance(consumer, nn.Linear | ConvBase)
    bias = found.bias
    if bias and producer.bias is None:
        return f"{layer} has no bias, and {found.activation} has no gradient at 0"
    if not len(new) or len(new) >= producer.weight.shape[0]:
        return f"{layer} has no old units to go by" if len(new) else ""
    observed = _observe(whole or root, producer, consumer, loss, layer, found.consumer)
    matrix = _gradient_matrix(producer, consumer, observed)
    if not bool(torch.isfinite(matrix).all()):
        raise GrowthError(f"{layer}: gradmax: the gradient of the loss is not finite")
    if not bool(matrix.any()):
        return f"the gradient at {found.consumer} is 0"
    columns = _columns(matrix, len(new), seed)
    _write(producer, consumer, torch.as_tensor(new), columns, observed.largest if bias else 0.0)
    return ""


# The layer, its activation and its consumer


@dataclass(frozen=True)
class _Route:
    """From a layer to its consumer: the consumer's path, the activation in between, and whether that needs a bias."""

    consumer: str
    activation: str
    bias: bool


def _route(graph: fx.Graph, modules: dict[str, nn.Module], layer: str) -> _Route | str:
    """Return the route from a layer to its consumer, or why GradMax isn't applicable."""
    calls = [node for node in graph.nodes if node.op == "call_module" and modules[str(node.target)] is modules[layer]]
    if len(calls) != 1:
        return f"{layer} is called {len(calls)} times"
    kind = kind_of(modules[layer])
    if kind not in ("linear", "conv") or getattr(modules[layer], "groups", 1) != 1:
        return f"{layer} is neither linear nor a convolution of one group"
    node, activation, at_zero = calls[0], "", (1.0, 1.0)
    while True:
        if len(node.users) != 1:
            return f"{layer} has {len(node.users)} consumers"
        node = next(iter(node.users))
        call, target = call_of(node, modules), str(node.target)
        if node.op == "call_module" and kind_of(modules[target]) in ("linear", "conv"):
            break
        if call in DROPS | NOTHING:
            continue
        if call not in ACTIVATIONS | {"prelu"} or len(node.all_input_nodes) != 1:
            return f"{node.name} stands between {layer} and its consumer"
        if activation:
            return f"two activations follow {layer}"
        activation = call
        slopes = _at_zero(node, modules.get(target) if node.op == "call_module" else None)
        if slopes is None:
            return f"{call} isn't 0 at 0, or has no gradient there"
        at_zero = slopes
    path = target
    if any(getattr(modules[name], "padding_mode", "zeros") != "zeros" for name in (layer, path)):
        return f"{layer} or {path} doesn't pad with zeros"
    if kind_of(modules[path]) != kind or getattr(modules[path], "groups", 1) != 1:
        return f"{path}, which takes {layer}'s units, is of another kind"
    if sum(other.op == "call_module" and modules[str(other.target)] is modules[path] for other in graph.nodes) != 1:
        return f"{path} is called several times"
    return _Route(path, activation, abs(at_zero[1]) > 1.01 * abs(at_zero[0]))


def _at_zero(node: fx.Node, module: nn.Module | None) -> tuple[float, float] | None:
    """Return an activation's slopes at 0 and just above, as torch has them; ``None`` if it isn't 0 there, or is flat."""
    points = torch.tensor([0.0, _SMALL], requires_grad=True)
    with torch.enable_grad():
        if isinstance(module, nn.PReLU):
            values = F.prelu(points, module.weight.detach().to(points).abs().max().reshape(1))
        elif module is not None:
            values = module(points.clone())
        elif isinstance(node.target, str):
            values = getattr(points.clone(), node.target)(*node.args[1:], **node.kwargs)
        else:
            assert callable(node.target)
            values = node.target(points.clone(), *node.args[1:], **node.kwargs)
        slopes = torch.autograd.grad(values.sum(), points)[0]
    at, above = slopes.tolist()
    return None if values[0].item() != 0 or above == 0 else (at, above)


# The gradient


@dataclass(frozen=True)
class _Observation:
    """The result of one call of the loss: the layer's input, the gradient at the consumer's output, the latter's size."""

    inputs: Tensor
    gradient: Tensor
    largest: float


def _observe(
    root: nn.Module, producer: nn.Module, consumer: nn.Module, loss: Loss, layer: str, taking: str
) -> _Observation:
    """Run the loss once, without side effects."""
    inputs: list[Tensor] = []
    probes: list[Tensor] = []
    largest: list[float] = []

    def see(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        inputs.append(args[0].detach())

    def probe(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        # Added, not hooked: so it works for frozen layers, and where an activation changes the output in place.
        probes.append(torch.zeros_like(output, requires_grad=True))
        largest.append(output.detach().abs().max().item())
        return output + probes[-1]

    with ExitStack() as stack:
        stack.enter_context(_without_traces(root))
        stack.enter_context(torch.enable_grad())
        for handle in (producer.register_forward_pre_hook(see), consumer.register_forward_hook(probe)):
            stack.callback(handle.remove)
        value = loss(root)
        if not isinstance(value, Tensor) or value.numel() != 1:
            raise GrowthError(f"{layer}: gradmax: the loss is a {type(value).__name__}, not a scalar")
        if len(inputs) != 1 or len(probes) != 1:
            raise GrowthError(
                f"{layer}: gradmax: the loss runs {layer} {len(inputs)} times and {taking} {len(probes)} times"
            )
        gradient = torch.autograd.grad(value.reshape(()), probes, allow_unused=True)[0] if value.requires_grad else None
    if gradient is None:
        raise GrowthError(f"{layer}: gradmax: the loss doesn't depend on {taking}")
    return _Observation(inputs[0].float(), gradient.detach().float(), largest[0])


@contextmanager
def _without_traces(root: nn.Module) -> Iterator[None]:
    """Restore buffers and random state afterwards."""
    buffers = [(buffer, buffer.detach().clone()) for buffer in root.buffers()]
    with isolated_random_state(devices=root):
        try:
            yield
        finally:
            with torch.no_grad():
                for buffer, before in buffers:
                    buffer.copy_(before)


@torch.no_grad()
def _gradient_matrix(producer: nn.Linear | ConvBase, consumer: nn.Linear | ConvBase, observed: _Observation) -> Tensor:
    """Return the loss's gradient by the product of a unit's outgoing (rows) and incoming weights (columns)."""
    if isinstance(producer, nn.Linear):
        return observed.gradient.flatten(0, -2).T @ observed.inputs.flatten(0, -2)
    assert isinstance(consumer, ConvBase)
    return _of_convolutions(producer, consumer, observed)


def _of_convolutions(producer: ConvBase, consumer: ConvBase, observed: _Observation) -> Tensor:
    """Return the same for two convolutions, whatever their strides, dilations and paddings.

    A unit whose only outgoing weight is 1, at one output and one position of the kernel, has the consumer's gradient, moved
    by that position; the layer's weight gradient under it is a row.
    """
    inputs = observed.inputs if observed.inputs.ndim == producer.weight.ndim else observed.inputs[None]
    gradient = observed.gradient if observed.gradient.ndim == producer.weight.ndim else observed.gradient[None]
    outputs, kernel = consumer.out_channels, consumer.weight.shape[2:]
    positions = list(torch.cartesian_prod(*(torch.arange(size) for size in kernel)).reshape(-1, len(kernel)).tolist())
    shape = _map_size(producer, inputs)
    rows = []
    for position in positions:
        moved = _moved(consumer, gradient, position, shape)
        step = max(1, _CHUNK // max(1, moved[0].numel()))
        pieces = range(0, len(inputs), step)
        one = [_weight_gradient(producer, inputs[i : i + step], moved[i : i + step]) for i in pieces]
        rows.append(torch.stack(one).sum(0))
    return torch.stack(rows, 1).reshape(outputs * len(positions), -1)


def _map_size(layer: ConvBase, inputs: Tensor) -> tuple[int, ...]:
    """Return the size of a convolution's output maps."""
    with torch.device("meta"):
        meta = torch.empty((1, *inputs.shape[1:]))
        weight = torch.empty((1, *layer.weight.shape[1:]))
    return tuple(_convolved(layer, meta, weight).shape[2:])


def _convolved(layer: ConvBase, inputs: Tensor, weight: Tensor) -> Tensor:
    """Convolve like the layer, with another weight, zero padding and no bias."""
    return _FUNCTIONS[inputs.ndim - 2](inputs, weight, None, layer.stride, layer.padding, layer.dilation)


_FUNCTIONS: dict[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


def _moved(consumer: ConvBase, gradient: Tensor, position: list[int], shape: tuple[int, ...]) -> Tensor:
    """Return the gradient of units with an outgoing weight of 1 at one position of the kernel, one unit per output."""
    with torch.enable_grad():
        units = torch.zeros(*gradient.shape[:2], *shape, device=gradient.device, requires_grad=True)
        weight = torch.zeros(1, 1, *consumer.weight.shape[2:], device=gradient.device)
        weight[(0, 0, *position)] = 1.0
        out = _convolved(consumer, units.flatten(0, 1)[:, None], weight)
        return torch.autograd.grad(out, units, gradient.flatten(0, 1)[:, None])[0]


def _weight_gradient(producer: ConvBase, inputs: Tensor, gradient: Tensor) -> Tensor:
    """Return the layer's weight gradient, (units, incoming weights), under a gradient of its output."""
    with torch.enable_grad():
        weight = torch.zeros(gradient.shape[1], *producer.weight.shape[1:], device=inputs.device, requires_grad=True)
        return torch.autograd.grad(_convolved(producer, inputs, weight), weight, gradient)[0].flatten(1)


# The weights


def _columns(matrix: Tensor, count: int, seed: int) -> Tensor:
    """Return the first left singular vectors, (rows, count), completed by random directions."""
    generator = torch.Generator().manual_seed(seed)
    rows, columns = matrix.shape
    small = min(rows, columns) <= _DENSE
    vectors = _exact(matrix.double().cpu()) if small else _iterated(matrix, count, generator)
    vectors = vectors[:, :count]
    if vectors.shape[1] < count:
        more = torch.randn(rows, count - vectors.shape[1], generator=generator, dtype=torch.float64)
        vectors = torch.cat([vectors, (more / more.norm(dim=0)).to(vectors)], 1)
    return vectors


def _exact(matrix: Tensor) -> Tensor:
    left, values, _ = torch.linalg.svd(matrix, full_matrices=False)
    return left[:, values > values[0] * 1e-7]


def _iterated(matrix: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Return the first left singular vectors by subspace iteration."""
    width = min(count + 16, *matrix.shape)
    basis = torch.randn(matrix.shape[1], width, generator=generator).to(matrix)
    scaled = matrix / matrix.abs().max()
    for _ in range(_ROUNDS):
        basis = torch.linalg.qr(scaled @ basis)[0]
        basis = torch.linalg.qr(scaled.T @ basis)[0]
    left, values, _ = torch.linalg.svd(scaled @ basis, full_matrices=False)
    return left[:, values > values[0] * 1e-7]


@torch.no_grad()
def _write(
    producer: nn.Linear | ConvBase, consumer: nn.Linear | ConvBase, new: Tensor, columns: Tensor, largest: float
) -> None:
    """Set the weights; ``largest`` is the consumer's largest output if new units need a bias above 0, else 0."""
    index = new.to(consumer.weight.device)
    outgoing = consumer.weight.transpose(0, 1)  # (units, outputs, kernel...)
    old = torch.ones(len(outgoing), dtype=torch.bool, device=index.device)
    old[index] = False
    norm = outgoing[old].flatten(1).norm(dim=1).mean()
    laid = columns.T.reshape(len(new), *outgoing.shape[1:]).to(outgoing) * (norm if norm > 0 else 1.0)
    outgoing[index] = laid
    producer.weight[index] = 0.0
    if producer.bias is not None:
        # What an output of the consumer gains is at most the bias times the sum of its new weights' sizes.
        gain = laid.abs().sum(0).reshape(laid.shape[1], -1).sum(1).max()
        producer.bias[index] = _SMALL * largest / gain
