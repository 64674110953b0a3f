"""Private names of torch, under public ones."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch._ops import HigherOrderOperator
from torch.nn.modules.batchnorm import _BatchNorm as BatchNormBase
from torch.nn.modules.batchnorm import _NormBase as NormBase
from torch.nn.modules.conv import _ConvNd as ConvBase
from torch.nn.modules.conv import _ConvTransposeNd as ConvTransposeBase
from torch.nn.modules.dropout import _DropoutNd as DropoutBase
from torch.optim import Optimizer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten
from torch.utils.data import DataLoader

# Without BatchNormBase, NormBase, ConvBase, ConvTransposeBase and DropoutBase, layers would have to be recognized by lists
# of classes: inheritance, growth and zero-cost proxies would miss those of later versions.
# Without TorchDispatchMode, the zero-cost proxy `naswot` can't see activations that are functions and not modules,
# and the FLOPs of many layers (LSTMs, attention on a CPU) are 0.
# Without HigherOrderOperator, a training that uses FlexAttention fails while its FLOPs are counted.
# Without the tree functions, nested batches and outputs can't be taken apart.
__all__ = [
    "AMP_SCALING",
    "COMPILED_MODULE",
    "CONV_PADDING",
    "FORWARD_HOOKS",
    "HAS_FUNCTORCH",
    "LAST_RATES",
    "PRELU_KERNEL",
    "REGISTRIES",
    "SCHEDULER_STEPS",
    "BatchNormBase",
    "ConvBase",
    "ConvTransposeBase",
    "DropoutBase",
    "FollowsTensors",
    "HigherOrderOperator",
    "NormBase",
    "TorchDispatchMode",
    "add_batch_dim",
    "apply_to_tensors",
    "begun_iterator",
    "buffers_dict",
    "chained_schedulers",
    "compiled_call",
    "current_vmap",
    "float32_precision",
    "foreach_add",
    "foreach_add_",
    "foreach_addcdiv_",
    "foreach_addcmul",
    "foreach_addcmul_",
    "foreach_div",
    "foreach_div_",
    "foreach_lerp_",
    "foreach_maximum_",
    "foreach_mul",
    "foreach_mul_",
    "foreach_neg",
    "foreach_sqrt",
    "has_gradient_hooks",
    "has_step_hooks",
    "interpreter_flags",
    "mark_stepped",
    "modules_dict",
    "non_persistent_buffers",
    "open_contexts",
    "parameters_dict",
    "plain_call",
    "remove_step_hooks",
    "set_compiled_call",
    "set_float32_precision",
    "set_last_rates",
    "set_tensors",
    "shallow_copy",
    "tensor_version",
    "tree_flatten",
    "tree_leaves",
    "tree_map",
    "tree_unflatten",
    "unwrap_batched",
]

_Module = TypeVar("_Module", bound=nn.Module)

# Modules --------------------------------------------------------------------------------------------------------------

REGISTRIES = ("_parameters", "_buffers", "_modules")
"""The attributes in which a module keeps its tensors and children. Without them, growth that fails can't be undone."""

FORWARD_HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
)
"""The attributes in which a module keeps its forward hooks. Without them, a layer put in another's place loses its hooks."""

COMPILED_MODULE = "_orig_mod"
"""The name under which a module made by ``torch.compile`` holds the original, so that names in its state dict contain it.

Without it, weights of compiled and plain modules don't find each other.
"""

CONV_PADDING = "_reversed_padding_repeated_twice"
"""What a convolution pads by where ``padding_mode`` isn't ``zeros``. Without it, a larger kernel pads by its former size."""


def parameters_dict(module: nn.Module) -> dict[str, nn.Parameter | None]:
    """A module's own parameters, live, with those that are ``None``.

    Without it, parameters can't be exchanged for others of another shape, nor a shared one be seen twice.
    """
    return module._parameters


def buffers_dict(module: nn.Module) -> dict[str, Tensor | None]:
    """A module's own buffers, live, with those that are ``None``; without it, they can't be exchanged."""
    return module._buffers


def modules_dict(module: nn.Module) -> dict[str, nn.Module | None]:
    """A module's children, live; without it, a layer can't be exchanged wherever it is registered."""
    return module._modules


def non_persistent_buffers(module: nn.Module) -> set[str]:
    """Names of the buffers that aren't in the state dict; without it, inheritance would look for them in checkpoints."""
    return module._non_persistent_buffers_set


def compiled_call(module: nn.Module) -> Callable[..., Any] | None:
    """What ``module.compile()`` has put in place of the module's call; without it, compiled modules aren't recognized."""
    return module._compiled_call_impl


def set_compiled_call(module: nn.Module, call: Callable[..., Any] | None) -> None:
    """Replace the module's call, or restore it by ``None``; without it, FastTraining can't switch compiling off again."""
    if call is None:
        vars(module).pop("_compiled_call_impl", None)
    else:
        module._compiled_call_impl = call


def apply_to_tensors(module: nn.Module, function: Callable[[Tensor], Tensor]) -> None:
    """Replace a module's tensors by the function's results, as ``.to()`` does.

    Without it, metric objects of a stack's particles wouldn't move with it.
    """
    module._apply(function)


class FollowsTensors(nn.Module):
    """A module with a method that is called when its tensors have been moved or converted.

    Without it, the particles of a stack would keep views of memory that the stack has left.
    """

    def on_tensors_replaced(self, function: Callable[[Tensor], Tensor]) -> None:
        """Called after each parameter and buffer was replaced by the function's result."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        super()._apply(fn, recurse)
        self.on_tensors_replaced(fn)
        return self


def plain_call(module: nn.Module) -> Callable[..., Any]:
    """The module's call with hooks, not compiled; without it, FastTraining can't compile a part in place."""
    return module._call_impl


def shallow_copy(module: _Module) -> _Module:
    """A module that shares parameters, buffers and hooks with another, in a registry of parameters of its own.

    It isn't compiled. Without it, a layer can't be kept, hooks included, while it gets other parameters.
    """
    twin = copy.copy(module)
    twin._parameters, twin._compiled_call_impl = dict(module._parameters), None
    return twin


def set_tensors(
    module: nn.Module, parameters: dict[str, nn.Parameter | None], buffers: dict[str, Tensor | None]
) -> None:
    """Give a module that was made by ``__new__`` its registries of tensors.

    Without it, ``reset_parameters`` can't initialize tensors of other shapes than the layer has.
    """
    vars(module).update(_parameters=parameters, _buffers=buffers)


# Operations on lists of tensors ---------------------------------------------------------------------------------------

# Without them, a step of stacked optimizers takes a kernel for each parameter instead of one for all.
foreach_add = torch._foreach_add
foreach_add_ = torch._foreach_add_
foreach_addcdiv_ = torch._foreach_addcdiv_
foreach_addcmul = torch._foreach_addcmul
foreach_addcmul_ = torch._foreach_addcmul_
foreach_div = torch._foreach_div
foreach_div_ = torch._foreach_div_
foreach_lerp_ = torch._foreach_lerp_
foreach_maximum_ = torch._foreach_maximum_
foreach_mul = torch._foreach_mul
foreach_mul_ = torch._foreach_mul_
foreach_neg = torch._foreach_neg
foreach_sqrt = torch._foreach_sqrt

# torch.func.vmap ------------------------------------------------------------------------------------------------------

_batching: Any
try:
    from torch._C import _functorch as _batching
    from torch._functorch.pyfunctorch import retrieve_current_functorch_interpreter

    _batching.TransformType.Vmap, _batching._unwrap_batched, _batching._add_batch_dim  # noqa: B018
except (ImportError, AttributeError):
    _batching = None

HAS_FUNCTORCH: bool = _batching is not None
"""Whether stacked tensors can be reached as torch's own batching of ``autograd.Function`` does.

Without it, a stacked call reaches them by ``autograd.Function``, which takes twenty times as long.
"""


def current_vmap() -> Any:
    """The innermost ``torch.func`` transform if it is ``vmap``, else ``None``; it has ``batch_size()`` and ``lower()``."""
    interpreter = retrieve_current_functorch_interpreter()
    return interpreter if interpreter.key() == _batching.TransformType.Vmap else None


def unwrap_batched(tensor: Tensor, vmap: Any) -> tuple[Tensor, int | None]:
    """The stacked tensor behind one that a function under ``vmap`` sees, and its axis; ``None`` if it isn't stacked."""
    return _batching._unwrap_batched(tensor, vmap.level())


def add_batch_dim(tensor: Tensor, dim: int, vmap: Any) -> Tensor:
    """What a function under ``vmap`` sees of a tensor that is stacked along an axis."""
    return _batching._add_batch_dim(tensor, dim, vmap.level())


# Tensors --------------------------------------------------------------------------------------------------------------

PRELU_KERNEL = torch.ops.aten._prelu_kernel
"""What PReLU computes; without it, ``naswot`` doesn't count PReLU among the activations."""


def tensor_version(tensor: Tensor) -> int:
    """How often a tensor was written to; without it, every buffer would be copied back after a trial forward."""
    return tensor._version


def has_gradient_hooks(tensor: Tensor) -> bool:
    """Whether a tensor has hooks on its gradient; without it, growth would lose them with the tensor it replaces."""
    return bool(tensor._backward_hooks) or bool(getattr(tensor, "_post_accumulate_grad_hooks", None))


# Optimizers and data --------------------------------------------------------------------------------------------------

LAST_RATES = "_last_lr"
"""The attribute and state key of a scheduler's last learning rates, one for each group.

Without it, a group that growth has added has none, and a scheduler that has run looks different from one just made.
"""

SCHEDULER_STEPS = "_step_count"
"""The state key that counts a scheduler's steps; without it, a scheduler that has run looks different from one just made."""


def set_last_rates(scheduler: Any, rates: list[float]) -> None:
    """Set what ``scheduler.get_last_lr()`` gives; without it, a changed learning rate isn't the one that is logged."""
    scheduler._last_lr = rates


def chained_schedulers(scheduler: Any) -> list[Any]:
    """The parts of ``SequentialLR`` and ``ChainedScheduler``; without it, they can't follow a change of the optimizer."""
    return list(getattr(scheduler, "_schedulers", []))


AMP_SCALING = "_step_supports_amp_scaling"
"""The attribute of an optimizer that unscales gradients itself; without it, GradScaler skips the step of all particles."""


def has_step_hooks(optimizer: Optimizer) -> bool:
    """Whether hooks are called at an optimizer's steps; without it, stacked steps would leave them out."""
    return bool(cast(Any, optimizer)._optimizer_step_pre_hooks or cast(Any, optimizer)._optimizer_step_post_hooks)


def mark_stepped(optimizer: Optimizer) -> None:
    """Record a step that was computed elsewhere; without it, schedulers warn that they are stepped first."""
    cast(Any, optimizer)._opt_called = True


def remove_step_hooks(optimizer: Optimizer) -> None:
    """Take an optimizer's step hooks away; without it, a trial step of a copy calls what watches the original."""
    for name in ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks"):
        setattr(optimizer, name, type(getattr(optimizer, name))())


def begun_iterator(loader: DataLoader[Any]) -> Any:
    """The iterator that a loader with persistent workers keeps, else ``None``.

    Without it, a loader whose workers were made persistent draws in another order than before.
    """
    return loader._iterator


# State of the process --------------------------------------------------------------------------------------------------

_PRECISIONS = [("generic", "all")]
_PRECISIONS += [
    (backend, operation) for backend in ("cuda", "mkldnn") for operation in ("all", "matmul", "conv", "rnn")
]


def float32_precision() -> list[Any]:
    """Every setting of TF32 and the like, of torch's older interface and of that with ``fp32_precision``.

    Without it, what a candidate sets by the newer interface is there for the next, and reading by the older one raises.
    """
    get = getattr(torch._C, "_get_fp32_precision_getter", None)
    newer = None if get is None else [get(*setting) for setting in _PRECISIONS]
    try:
        matmul: str | None = torch.get_float32_matmul_precision()
        tf32: tuple[bool, ...] | None = (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32)
    except RuntimeError:  # the two interfaces say different things
        matmul, tf32 = None, None
    return [matmul, tf32, newer]


def set_float32_precision(settings: list[Any]) -> None:
    """Set what :func:`float32_precision` gave."""
    matmul, tf32, newer = settings
    if matmul is not None:
        torch.set_float32_matmul_precision(matmul)
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = tf32
    for setting, value in zip(_PRECISIONS, newer or [], strict=False):
        torch._C._set_fp32_precision_setter(*setting, value)


def open_contexts() -> tuple[int, ...]:
    """How many function modes, dispatch modes and hooks of saved tensors are entered.

    Without it, a mode that a candidate entered and didn't leave is there for the next.
    """
    saved = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", None)
    hooks = 0 if saved is None or saved(True) is None else 1
    return torch._C._len_torch_function_stack(), torch._C._len_torch_dispatch_stack(), hooks


def interpreter_flags() -> tuple[bool, ...]:
    """Whether torch records a profile or traces; without it, what a candidate began to record goes on beside the next."""
    return torch._C._autograd._profiler_enabled(), torch._C._is_tracing()
