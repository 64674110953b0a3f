"""The graph of a network, traced symbolically without patching anything but that network."""

from __future__ import annotations

import dis
import inspect
import operator
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.proxy import TraceError

from lightning_evo._compat.torch import buffers_dict, set_compiled_call, tensor_version
from lightning_evo.utils.compiled import original_module

__all__ = ["chain", "trace"]

_MAX_GUARDS = 16
_DROPS = ("StochasticDepth", "DropPath")


def trace(module: nn.Module) -> fx.Graph | str:
    """Trace a module's ``forward``: return its graph, whose nodes call the modules of ``torch.nn``, or why there is none.

    Unlike ``torch.fx.symbolic_trace``, which patches ``nn.Module`` for the whole process, it is safe while other
    threads train. A check that raises (``if images.shape[1:] != self.shape: raise ...``) is followed along the branch
    that doesn't; other control flow that depends on values cannot be traced. The graph must be the same in train and
    in eval mode.

    >>> [node.op for node in trace(nn.Sequential(nn.Linear(2, 3), nn.ReLU())).nodes]
    ['placeholder', 'call_module', 'call_module', 'output']
    """
    graphs = []
    for mode in (True, False):
        with _in_mode(module, mode), _buffers_kept(module):
            try:
                graphs.append(_trace(module))
            except Exception as raised:  # whatever the user's forward raises when it is handed symbols
                reason = str(raised).splitlines()[0] if str(raised) else type(raised).__name__
                return f"{type(module).__name__} cannot be traced: {reason}"
    if len({_text(graph) for graph in graphs}) > 1:
        return f"{type(module).__name__} computes differently in train and eval mode"
    return graphs[0]


def chain(names: list[str]) -> fx.Graph:
    """Return the graph of modules that are called one after the other: a guess where nothing can be traced."""
    graph = fx.Graph()
    value = graph.placeholder("inputs")
    for name in names:
        value = graph.call_module(name, (value,))
    graph.output(value)
    return graph


def _text(graph: fx.Graph) -> str:
    return "\n".join(f"{node.op} {node.name} {node.target} {node.args} {node.kwargs}" for node in graph.nodes)


def _trace(module: nn.Module) -> fx.Graph:
    decisions: list[bool] = []
    for _ in range(_MAX_GUARDS):
        tracer = _Tracer(module, decisions)
        try:
            graph = tracer.run()
            break
        except Exception:
            if tracer.asked <= len(decisions) and (not decisions or decisions[-1] or tracer.asked < len(decisions)):
                raise
            decisions = [*decisions[: tracer.asked], *[False] * (tracer.asked - len(decisions))]
            decisions[-1] = True
    else:
        raise TraceError(f"more than {_MAX_GUARDS} conditions")
    taken = [*decisions, *[False] * (tracer.asked - len(decisions))]
    for at, taken_here in enumerate(taken):
        if not _raises(module, [*taken[:at], not taken_here]):
            raise TraceError("its control flow depends on its inputs")
    return graph


def _raises(module: nn.Module, decisions: list[bool]) -> bool:
    """Whether the module's own code refuses this branch, by a ``raise`` or an ``assert``."""
    try:
        _Tracer(module, decisions, lenient=True).run()
    except Exception as raised:
        last = raised.__traceback__
        while last is not None and last.tb_next is not None:
            last = last.tb_next
        if last is None or isinstance(raised, TraceError):
            return False
        # Only a raise statement is a refusal: other errors may come from symbols where numbers were expected.
        return dis.opname[last.tb_frame.f_code.co_code[last.tb_lasti]] == "RAISE_VARARGS"
    return False


class _Tracer(fx.Tracer):
    """Runs ``forward`` with symbols for its inputs; ``bool(symbol)`` is as decided beforehand, else ``False``."""

    def __init__(self, root: nn.Module, decisions: list[bool], lenient: bool = False) -> None:
        super().__init__()
        self.lenient = lenient  # whether symbols may be iterated over, as an error message may do
        self.root, self.graph, self.decisions, self.asked = root, fx.Graph(), decisions, 0
        tensors = [*root.named_parameters(), *root.named_buffers()]
        self.names = {id(tensor): name for name, tensor in tensors}

    def run(self) -> fx.Graph:
        with self._leaves():
            answer = self.root.forward(*self._inputs())
        self.graph.output(self.create_arg(answer))
        for node in self.graph.nodes:
            # What an in-place operation did to a value that is used otherwise doesn't show in the graph.
            if _in_place(node, self.root) and (not node.users or len(node.all_input_nodes[0].users) > 1):
                raise TraceError(f"{node.name} changes a value in place")
        return self.graph

    def _inputs(self) -> list[fx.Proxy]:
        needed = []
        for name, parameter in inspect.signature(self.root.forward).parameters.items():
            if parameter.kind is parameter.VAR_POSITIONAL:
                raise TraceError("its forward names no inputs")
            if parameter.default is parameter.empty and parameter.kind is not parameter.VAR_KEYWORD:
                needed.append(fx.Proxy(self.graph.placeholder(name), self))
        return needed

    @contextmanager
    def _leaves(self) -> Iterator[None]:
        """Have the root's layers, and no others in this process, record a node when they are called with symbols."""
        # Attributes are restored whole: a forward may have kept a symbol in one.
        before = [(part, dict(part.__dict__)) for part in self.root.modules()]
        try:
            for name, part in self.root.named_modules():
                set_compiled_call(part, None)  # symbols are nothing to compile for
                if (inner := original_module(part)) is not None:
                    part.__dict__["forward"] = inner
                elif name and _is_leaf(part):
                    vars(part)["forward"] = self._recording(name, part.forward)
            yield
        finally:
            for part, attributes in before:
                part.__dict__.clear()
                part.__dict__.update(attributes)

    def _recording(self, name: str, forward: Any) -> Any:
        def record(*args: Any, **kwargs: Any) -> Any:
            symbols: list[Any] = []
            fx.node.map_aggregate((args, kwargs), lambda a: symbols.append(a) if isinstance(a, fx.Proxy) else None)
            return self.create_proxy("call_module", name, args, kwargs) if symbols else forward(*args, **kwargs)

        return record

    def create_arg(self, a: Any) -> Any:
        if isinstance(a, Tensor):
            if id(a) not in self.names:
                raise TraceError("it mixes its inputs with a tensor that is neither parameter nor buffer")
            return self.graph.create_node("get_attr", self.names[id(a)], (), {})
        return super().create_arg(a)

    def iter(self, obj: fx.Proxy) -> Iterator[fx.Proxy]:
        return iter([obj]) if self.lenient else super().iter(obj)

    def to_bool(self, obj: fx.Proxy) -> bool:
        self.asked += 1
        return self.decisions[self.asked - 1] if self.asked <= len(self.decisions) else False


def _is_leaf(module: nn.Module) -> bool:
    if type(module).__name__ in _DROPS:
        return True
    own = type(module).__module__.startswith("torch.nn")
    return own and not isinstance(module, nn.Sequential | nn.ModuleList | nn.ModuleDict)


def _in_place(node: fx.Node, root: nn.Module) -> bool:
    if not node.all_input_nodes:
        return False
    if node.op == "call_module":
        return bool(getattr(root.get_submodule(str(node.target)), "inplace", False))
    if node.kwargs.get("inplace"):
        return True
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return node.target in (operator.setitem, operator.iadd, operator.imul) or (
        name.endswith("_") and not name.startswith("_")
    )


@contextmanager
def _in_mode(module: nn.Module, train: bool) -> Iterator[None]:
    modes = [(part, part.training) for part in module.modules()]
    try:
        for part, _ in modes:
            part.training = train
        yield
    finally:
        for part, mode in modes:
            part.training = mode


@contextmanager
def _buffers_kept(module: nn.Module) -> Iterator[None]:
    """Put back what ``forward`` itself does to buffers: batches counted, statistics, codebooks."""
    held = [(buffers_dict(part), dict(buffers_dict(part))) for part in module.modules()]
    before = [(b, tensor_version(b), b.detach().clone()) for b in module.buffers() if not b.is_inference()]
    try:
        yield
    finally:
        for buffers, tensors in held:
            buffers.update(tensors)
        with torch.no_grad():
            for buffer, version, values in before:
                if tensor_version(buffer) != version:
                    buffer.copy_(values)
