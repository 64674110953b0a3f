"""Floating-point operations of whatever runs, with those that could not be counted by name."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from math import log2, prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from lightning_evo._compat.torch import HigherOrderOperator, TorchDispatchMode
from lightning_evo.utils.compiled import eagerly

__all__ = ["FlopCounter"]


class FlopCounter:
    """Count the floating-point operations that run while it is open, forward and backward, on any device (``meta`` too).

    A multiplication with an addition counts as two, as in ``torch.utils.flop_counter``, whose formulas are used, those that
    users registered with ``register_flop_formula`` included. Added to them are recurrent layers, attention on CPUs and its
    fast paths, sparse and quantized products, vector products, distances and Fourier transforms. Whatever works element
    by element (activations, normalization, dropout, losses, embeddings, pooling, optimizers) counts as 0, and so do masks:
    causal attention counts in full. What activation checkpointing computes twice counts twice. Compiled code runs eagerly
    while it is open, so that its operations are seen.

    Code that passes by PyTorch's dispatcher, such as a kernel called directly from an ``autograd.Function``, can't be seen.

    Source:
        Fourier transforms: 5 N log₂ N, half of it where the input or the output is real (Frigo and Johnson 2005, The Design
        and Implementation of FFTW3).

    >>> with FlopCounter() as counter:
    ...     _ = nn.LSTM(3, 4)(torch.zeros(5, 2, 3))
    >>> counter.total == 2 * 5 * 2 * (4 * 4 * 3 + 4 * 4 * 4)
    True
    """

    def __init__(self) -> None:
        self.total = 0
        """Operations so far."""
        self.uncounted: Counter[str] = Counter()
        """Calls of operations that are more than element by element and that no formula is known of, by their names."""
        self._open = ExitStack()

    def __enter__(self) -> FlopCounter:
        # In compiled code no operations are seen, and FlexAttention refuses to run uncompiled.
        self._open.enter_context(eagerly())
        self._open.enter_context(_Counting(self))
        return self

    def __exit__(self, *exception: object) -> None:
        self._open.close()

    def add(self, name: str, formula: Callable[..., int], args: tuple, kwargs: Mapping[str, Any], out: Any) -> None:
        """Count an operation that has run."""
        try:
            self.total += int(formula(*args, **kwargs, out_val=out))
        except Exception:  # whatever a formula makes of nested tensors, or of arguments that came with a later version
            self.uncounted[name] += 1


class _Counting(TorchDispatchMode):
    """Sees every operation that PyTorch dispatches."""

    supports_higher_order_operators = True

    def __init__(self, counter: FlopCounter) -> None:
        super().__init__()
        self._counter = counter
        self._registered = FlopCounterMode(display=False).flop_registry

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        if isinstance(func, HigherOrderOperator):
            return self._higher_order(func, args, kwargs)
        name = func.name().partition(".")[0]
        # A subclass that dispatches by itself (jagged and distributed tensors) comes back with plain tensors.
        if name in _SHAPES or any(_dispatches(kind) for kind in types):
            return NotImplemented
        formula = _FORMULAS.get(name) or self._registered.get(func.overloadpacket)
        if formula is None:
            with self:
                done = func.decompose(*args, **kwargs)
            if done is not NotImplemented:
                return done
        out = func(*args, **kwargs)
        if formula is not None:
            self._counter.add(name, formula, args, kwargs, out)
        elif _is_arithmetic(name):
            self._counter.uncounted[name] += 1
        return out

    def _higher_order(self, func: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
        name = func.name()
        if name == "cond":
            condition, if_true, if_false, operands = args
            with self:
                return (if_true if condition else if_false)(*operands)
        out = func(*args, **kwargs)
        if func in self._registered:
            self._counter.add(name, self._registered[func], args, kwargs, out)
        else:
            self._counter.uncounted[name] += 1
        return out


def _dispatches(kind: Any) -> bool:
    plain: Any = Tensor
    return kind not in (Tensor, nn.Parameter) and kind.__torch_dispatch__ is not plain.__torch_dispatch__


_SHAPES = {
    f"aten::{name}"
    for known in ("size", "stride", "storage_offset", "numel", "is_contiguous")
    for name in (known, f"sym_{known}")
} | {"aten::dim", "aten::is_strides_like_format", "aten::is_non_overlapping_and_dense", "prim::layout"}
"""Questions to tensors that dispatch by themselves; no operations."""

_ARITHMETIC = re.compile(
    r"(?:^|_)(?:(?:add)?(?:b|ba)?(?:mm|mv)|baddbmm|matmul|v?dot|linear|bilinear|trilinear|conv|conv\dd|convolution|rnn|lstm|gru"
    r"|attention|transformer|fft|linalg|cholesky|geqrf|ormqr|orgqr|lu|qr|svd|eigh?|solve|inverse|lstsq|cdist|dist"
    r"|householder|triangular|matrix|det)(?:_|\d|$)"
)
_ELEMENTWISE = re.compile(
    r"fused_(?:lstm|gru)|flatten_weight|reorder|convert|pack|check_errors|fft(?:_r)?freq|vector_norm|cross|powsum|diagonal"
    r"|slice_inverse|use_|backend|upsample"
)


def _is_arithmetic(name: str) -> bool:
    """Whether an operation without a formula does more than move or change numbers one by one, as far as its name tells."""
    namespace, _, own = name.partition("::")
    if namespace == "aten":
        return _ARITHMETIC.search(own) is not None and _ELEMENTWISE.search(own) is None
    return namespace not in _NEUTRAL


_NEUTRAL = {
    "prim",
    "prims",
    "rngprims",
    "inductor",
    "profiler",
    "c10d",
    "_c10d_functional",
    "_c10d_functional_autograd",
    "c10d_functional",
    "symm_mem",
    "_dtensor",
    "fsdp",
    "streams",
    "image",
}
"""Namespaces of operations that compute nothing, or nothing that isn't element by element."""

# Formulas. Each gets the arguments of its operation, and its output as `out_val`; further ones end in `_`.


def _is_sparse(*tensors: Tensor) -> bool:
    return any(tensor.layout is not torch.strided for tensor in tensors)


def _entries(matrix: Tensor) -> Tensor:
    """Rows and columns of a sparse matrix's entries, in two rows."""
    return matrix.detach().to_sparse_coo().coalesce().indices()[-2:]


def _product(first: Tensor, second: Tensor) -> int:
    """Multiplying two matrices, or two batches of them."""
    if not _is_sparse(first, second):
        return 2 * prod(first.shape) * second.shape[-1]
    if not _is_sparse(second):
        return 2 * _entries(first).shape[1] * second.shape[-1]
    if not _is_sparse(first):
        return 2 * _entries(second).shape[1] * first.shape[-2]
    columns, rows = (torch.bincount(e, minlength=first.shape[-1]) for e in (_entries(first)[1], _entries(second)[0]))
    return 2 * int((columns * rows).sum())


def _mm(first: Tensor, second: Tensor, *_: Any, **__: Any) -> int:
    return _product(first, second)


def _addmm(added: Tensor, first: Tensor, second: Tensor, *_: Any, **__: Any) -> int:
    return _product(first, second)


def _mv(matrix: Tensor, vector: Tensor, *_: Any, **__: Any) -> int:
    return _product(matrix, vector[:, None])


def _addmv(added: Tensor, matrix: Tensor, vector: Tensor, *_: Any, **__: Any) -> int:
    return _product(matrix, vector[:, None])


def _dot(first: Tensor, *_: Any, **__: Any) -> int:
    return 2 * first.numel()


def _transposed(inputs: Tensor, weight: Tensor, *_: Any, **__: Any) -> int:
    """A product with a weight that has its outputs first."""
    if _is_sparse(weight):
        return 2 * prod(inputs.shape[:-1]) * _entries(weight).shape[1]
    return 2 * inputs.numel() * weight.shape[0]


def _linear_backward(inputs: Tensor, gradient: Tensor, weight: Tensor, mask: Any, **_: Any) -> int:
    return 2 * inputs.numel() * weight.shape[0] * (bool(mask[0]) + bool(mask[1]))


def _grouped_mm(first: Tensor, second: Tensor, *_: Any, **__: Any) -> int:
    """Products of groups of rows, of columns, or of both, whose sizes are data."""
    if first.ndim == 3 and second.ndim == 2:
        return 2 * first.shape[1] * first.shape[2] * second.shape[1]
    return 2 * first.numel() * second.shape[-1]


def _sampled(added: Tensor, first: Tensor, second: Tensor, **_: Any) -> int:
    return 2 * _entries(added).shape[1] * first.shape[-1]


def _reduced(matrix: Tensor, other: Tensor, *_: Any, **__: Any) -> int:
    return _product(matrix, other)


def _reduced_backward(
    matrix: Tensor, gradient: Tensor, weight: Tensor, reduce: str, arg: Any, mask: Any, **_: Any
) -> int:
    return 2 * _entries(matrix).shape[1] * gradient.shape[-1] * (bool(mask[0]) + bool(mask[1]))


def _semi_structured(first: Tensor, meta: Tensor, second: Tensor, **_: Any) -> int:
    return 2 * first.numel() * second.shape[-1]


def _semi_structured_addmm(added: Tensor, first: Tensor, meta: Tensor, second: Tensor, **_: Any) -> int:
    return 2 * first.numel() * second.shape[-1]


def _semi_structured_linear(inputs: Tensor, weight: Tensor, *_: Any, **__: Any) -> int:
    return 2 * prod(inputs.shape[:-1]) * weight.numel()


def _trilinear(
    one: Tensor, two: Tensor, three: Tensor, expand1: Any, expand2: Any, expand3: Any, *_: Any, **__: Any
) -> int:
    """A sum of products of three; two multiplications and an addition, of which two go to one of the products."""
    shapes = []
    for tensor, expanded in ((one, expand1), (two, expand2), (three, expand3)):
        shape = list(tensor.shape)
        for dimension in sorted(expanded):
            shape.insert(dimension, 1)
        shapes.append(shape)
    return 2 * prod(max(sizes) for sizes in zip(*shapes, strict=True))


def _distances(first: Tensor, second: Tensor, *_: Any, **__: Any) -> int:
    return (
        2
        * prod(torch.broadcast_shapes(first.shape[:-2], second.shape[:-2]))
        * prod(first.shape[-2:])
        * second.shape[-2]
    )


def _distances_backward(gradient: Tensor, first: Tensor, second: Tensor, *_: Any, **__: Any) -> int:
    return _distances(first, second)


def _rnn(matrices: Any, steps: int) -> int:
    """Every weight matrix multiplies one vector per step of each sequence; gates are element by element."""
    return 2 * steps * sum(matrix.numel() for matrix in matrices if matrix.ndim > 1)


def _steps(inputs: Tensor) -> int:
    """Steps of all sequences of a batch, padded or packed."""
    return prod(inputs.shape[:-1])


def _rnn_forward(inputs: Tensor, weights: Any, *_: Any, **__: Any) -> int:
    return _rnn(weights, _steps(inputs))


def _rnn_backward(inputs: Tensor, weights: Any, *arguments: Any, **_: Any) -> int:
    # The kernels compute the input's gradient whether it is asked for or not; the weights' only if it is.
    mask = next((a for a in reversed(arguments) if isinstance(a, list | tuple) and len(a) == 4), (True,) * 4)
    return _rnn(weights, _steps(inputs)) * (1 + bool(mask[3]))


def _onednn_rnn(inputs: Tensor, *weights: Any, **_: Any) -> int:
    return _rnn(weights[:2], _steps(inputs))


def _onednn_rnn_backward(inputs: Tensor, *weights: Any, **_: Any) -> int:
    return 2 * _rnn(weights[:2], _steps(inputs))


def _mps_lstm(inputs: Tensor, states: Any, weights: Any, *_: Any, **__: Any) -> int:
    return _rnn(weights, _steps(inputs))


def _mps_lstm_backward(*arguments: Any, **_: Any) -> int:
    return 2 * _rnn(arguments[8], _steps(arguments[5]))


def _attention(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    """Scores, and the sum of values weighted by them; queries may share keys and values."""
    *batch, queries, width = query.shape
    return 2 * prod(batch) * queries * key.shape[-2] * (width + value.shape[-1])


def _attention_backward(gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    """The scores once more, and the gradients of scores, values, queries and keys."""
    *batch, queries, width = query.shape
    return 2 * prod(batch) * queries * key.shape[-2] * (3 * width + 2 * value.shape[-1])


def _multihead(query: Tensor, key: Tensor, value: Tensor, width: int, *_: Any, **__: Any) -> int:
    """Attention with its projections: of queries, keys, values and outputs."""
    total = 0
    for wide, long in zip(_sequences(query), _sequences(key), strict=True):
        total += 2 * width * width * (2 * wide + 2 * long) + 4 * wide * long * width
    return total


def _sequences(batch: Tensor) -> list[int]:
    """The length of each sequence of a batch, padded or nested."""
    if batch.is_nested:
        return [len(sequence) for sequence in batch.unbind()]
    return [batch.shape[-2]] * prod(batch.shape[:-2])


def _encoder_layer(inputs: Tensor, width: int, *arguments: Any, **_: Any) -> int:
    wide: Tensor = arguments[12]
    return _multihead(inputs, inputs, inputs, width) + 4 * sum(_sequences(inputs)) * wide.numel()


def _convolution(inputs: Tensor, weight: Tensor, *arguments: Any, out_val: Tensor, **_: Any) -> int:
    """Each place of the output (of the input, where it is transposed) meets the whole weight, however it is grouped."""
    transposed = len(arguments) > 4 and arguments[4]
    return _places(inputs if transposed else out_val) * 2 * weight.numel()


def _convolution_backward(
    gradient: Tensor,
    inputs: Tensor,
    weight: Tensor,
    bias: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    *rest: Any,
    **_: Any,
) -> int:
    transposed, mask = rest[0], rest[-1]
    return _places(inputs if transposed else gradient) * 2 * weight.numel() * (bool(mask[0]) + bool(mask[1]))


def _places(maps: Tensor) -> int:
    return maps.shape[0] * prod(maps.shape[2:])


def _fourier(signal: Tensor, dimensions: Any, half: float = 1.0) -> int:
    points = prod(signal.shape[dimension] for dimension in dimensions)
    return round(5 * half * signal.numel() * log2(points))


def _fourier_complex(inputs: Tensor, dimensions: Any, *_: Any, **__: Any) -> int:
    return _fourier(inputs, dimensions)


def _fourier_from_real(inputs: Tensor, dimensions: Any, *_: Any, **__: Any) -> int:
    return _fourier(inputs, dimensions, 0.5)


def _fourier_to_real(inputs: Tensor, dimensions: Any, *_: Any, out_val: Tensor, **__: Any) -> int:
    return _fourier(out_val, dimensions, 0.5)


_ATTENTIONS = (
    "flash_attention",
    "flash_attention_for_cpu",
    "efficient_attention",
    "cudnn_attention",
    "fused_attention_overrideable",
)
_NAMES: dict[Callable[..., int], tuple[str, ...]] = {
    _mm: ("mm", "bmm", "hspmm", "_int_mm", "_sparse_sparse_matmul", "_scaled_mm", "_scaled_mm_v2"),
    _addmm: ("addmm", "baddbmm", "addbmm", "_addmm_activation", "_sparse_addmm", "sspaddmm"),
    _mv: ("mv",),
    _addmv: ("addmv",),
    _dot: ("dot", "vdot"),
    _transposed: ("linear", "mkldnn_linear", "_weight_int8pack_mm"),
    _linear_backward: ("linear_backward", "mkldnn_linear_backward"),
    _grouped_mm: ("_grouped_mm", "_scaled_grouped_mm", "_scaled_grouped_mm_v2"),
    _sampled: ("sparse_sampled_addmm",),
    _reduced: ("_sparse_mm_reduce_impl",),
    _reduced_backward: ("_sparse_mm_reduce_impl_backward",),
    _semi_structured: ("_sparse_semi_structured_mm",),
    _semi_structured_addmm: ("_sparse_semi_structured_addmm",),
    _semi_structured_linear: ("_sparse_semi_structured_linear",),
    _trilinear: ("_trilinear",),
    _distances: ("_cdist_forward", "_euclidean_dist"),
    _distances_backward: ("_cdist_backward",),
    _rnn_forward: ("_cudnn_rnn", "miopen_rnn"),
    _rnn_backward: ("_cudnn_rnn_backward", "miopen_rnn_backward"),
    _onednn_rnn: ("mkldnn_rnn_layer",),
    _onednn_rnn_backward: ("mkldnn_rnn_layer_backward",),
    _mps_lstm: ("_lstm_mps",),
    _mps_lstm_backward: ("lstm_mps_backward",),
    _attention: (
        *(f"_scaled_dot_product_{kind}" for kind in _ATTENTIONS),
        "_scaled_dot_product_attention_math_for_mps",
    ),
    _attention_backward: tuple(f"_scaled_dot_product_{kind}_backward" for kind in _ATTENTIONS),
    _multihead: ("_native_multi_head_attention",),
    _encoder_layer: ("_transformer_encoder_layer_fwd",),
    _convolution: ("convolution", "_convolution", "convolution_overrideable"),
    _convolution_backward: ("convolution_backward", "convolution_backward_overrideable"),
    _fourier_complex: ("_fft_c2c",),
    _fourier_from_real: ("_fft_r2c",),
    _fourier_to_real: ("_fft_c2r",),
}
_FORMULAS = {f"aten::{name}": formula for formula, names in _NAMES.items() for name in names}
