"""Stacked memory of the particles' tensors, (N, ...), and each particle's own tensors as views of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from lightning_evo._compat.lightning import set_device
from lightning_evo._compat.torch import modules_dict, non_persistent_buffers

__all__ = ["bind_gradients", "bind_tensors", "follow_device", "memory_of", "stack_tensors"]


def stack_tensors(modules: Sequence[nn.Module]) -> nn.Module:
    """The parameters and buffers of N modules, stacked along a first axis, under their names in each.

    A parameter ``conv.weight`` of shape (C, K) becomes a parameter ``conv.weight`` of shape (N, C, K), a leaf that autograd
    and optimizers know.

    Args:
        modules: Modules of one architecture.

    Returns:
        A module that holds only the stacked tensors.

    >>> nets = [nn.Linear(3, 2) for _ in range(4)]
    >>> stacked = stack_tensors(nets)
    >>> stacked.weight.shape
    torch.Size([4, 2, 3])
    >>> bind_tensors(memory_of(stacked), nets)
    >>> with torch.no_grad():
    ...     _ = nets[1].weight.fill_(7.0)
    >>> stacked.weight[1, 0, 0].item()
    7.0
    """
    root = nn.Module()
    parameters = [dict(module.named_parameters()) for module in modules]
    buffers = [dict(module.named_buffers()) for module in modules]
    transient = _transient_buffers(modules[0])
    for name, tensor in parameters[0].items():
        node, leaf = _node(root, name)
        stack = _stack([tensors[name] for tensors in parameters])
        node.register_parameter(leaf, nn.Parameter(stack, requires_grad=tensor.requires_grad))
    for name in buffers[0]:
        node, leaf = _node(root, name)
        stack = _stack([tensors[name] for tensors in buffers])
        node.register_buffer(leaf, stack, persistent=name not in transient)
    return root


def memory_of(stacked: nn.Module) -> dict[str, Tensor]:
    """All stacked tensors by name, parameters first."""
    return {**dict(stacked.named_parameters()), **dict(stacked.named_buffers())}


def bind_tensors(stacked: Mapping[str, Tensor], modules: Sequence[nn.Module]) -> None:
    """Make the tensors of each module views of the stacked memory; their own gradients are dropped.

    The tensors stay the same objects, so that an optimizer built over a module's parameters keeps working; writing to one
    changes the other.
    """
    for index, module in enumerate(modules):
        for name, tensor in (*module.named_parameters(), *module.named_buffers()):
            tensor.grad = None
            tensor.data = stacked[name].data[index]


def bind_gradients(stacked: Mapping[str, Tensor], modules: Sequence[nn.Module]) -> None:
    """Make each module's gradients views of the stacked ones."""
    for index, module in enumerate(modules):
        for name, tensor in module.named_parameters():
            gradient = stacked[name].grad
            tensor.grad = None if gradient is None else gradient[index]


def follow_device(modules: Sequence[nn.Module], holder: LightningModule) -> None:
    """Set the device and data type of LightningModules whose tensors were moved to those of the memory's holder."""
    for module in modules:
        for child in module.modules():
            if isinstance(child, LightningModule):
                set_device(child, holder)


def _node(root: nn.Module, name: str) -> tuple[nn.Module, str]:
    *path, leaf = name.split(".")
    node = root
    for part in path:
        if part not in modules_dict(node):
            node.add_module(part, nn.Module())
        node = node.get_submodule(part)
    return node, leaf


def _stack(tensors: Sequence[Tensor]) -> Tensor:
    """Stack tensors, keeping their memory format (channels last) behind the new axis."""
    first = tensors[0]
    strides = first.stride()
    order = sorted(range(first.dim()), key=lambda axis: -strides[axis])
    inverse = [order.index(axis) + 1 for axis in range(first.dim())]
    return torch.stack([tensor.detach().permute(order) for tensor in tensors]).permute(0, *inverse)


def _transient_buffers(module: nn.Module) -> set[str]:
    return {
        f"{path}.{name}" if path else name
        for path, child in module.named_modules()
        for name in non_persistent_buffers(child)
    }
