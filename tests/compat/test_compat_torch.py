"""Every private name of torch that is used exists, and behaves as it is used."""

from __future__ import annotations

import copy
import inspect
import warnings
from collections import namedtuple
from functools import partial

import pytest
import torch
from compat_rows import Row, private_names
from torch import nn
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode

from lightning_evo._compat import torch as compat


def base_classes(base: type, public: dict[type[nn.Module], bool]) -> None:
    assert {kind: issubclass(kind, base) for kind in public} == public


def registries() -> None:
    net = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 1, bias=False))
    norm, linear = net
    assert list(compat.parameters_dict(norm)) == ["weight", "bias"]
    assert compat.parameters_dict(linear) == {"weight": linear.weight, "bias": None}
    assert list(compat.buffers_dict(norm)) == ["running_mean", "running_var", "num_batches_tracked"]
    assert list(compat.modules_dict(net)) == ["0", "1"]
    assert [vars(net)[name] for name in compat.REGISTRIES] == [{}, {}, compat.modules_dict(net)]


def live_parameters() -> None:
    linear = nn.Linear(2, 1)
    compat.parameters_dict(linear)["weight"] = nn.Parameter(torch.zeros(3, 2))
    assert linear.weight.shape == linear.state_dict()["weight"].shape == (3, 2)
    twin = compat.shallow_copy(linear)
    assert twin.weight is linear.weight
    compat.parameters_dict(twin)["weight"] = nn.Parameter(torch.zeros(4, 2))
    assert (twin.weight.shape, linear.weight.shape) == ((4, 2), (3, 2))
    made = nn.Linear.__new__(nn.Linear)
    vars(made).update(vars(linear))
    compat.set_tensors(made, {"weight": nn.Parameter(torch.zeros(5, 2)), "bias": None}, {})
    assert made(torch.zeros(1, 2)).shape == (1, 5)


def live_buffers() -> None:
    norm = nn.BatchNorm1d(2)
    compat.buffers_dict(norm)["running_mean"] = torch.full((2,), 3.0)
    assert norm.state_dict()["running_mean"].tolist() == [3.0, 3.0]


def live_children() -> None:
    net = nn.Sequential(nn.Linear(2, 1))
    compat.modules_dict(net)["0"] = nn.Linear(2, 7)
    assert net(torch.zeros(1, 2)).shape == (1, 7)


def non_persistent() -> None:
    net = nn.Module()
    net.register_buffer("kept", torch.zeros(1))
    net.register_buffer("lost", torch.zeros(1), persistent=False)
    assert compat.non_persistent_buffers(net) == {"lost"}


def hooks_move_with_their_dictionaries() -> None:
    net, other, calls = nn.Linear(1, 1), nn.Linear(1, 1), []
    net.register_forward_hook(lambda *_: calls.append("after"))
    net.register_forward_hook(lambda *_, **__: calls.append("after, with names"), with_kwargs=True)
    net.register_forward_pre_hook(lambda *_: calls.append("before"))
    handle = net.register_forward_pre_hook(lambda *_: calls.append("before, with names"), with_kwargs=True)
    for name in compat.FORWARD_HOOKS:
        vars(other)[name] = vars(net)[name]
    other(torch.zeros(1, 1))
    assert sorted(calls) == ["after", "after, with names", "before", "before, with names"]
    handle.remove()
    calls.clear()
    other(torch.zeros(1, 1))
    assert sorted(calls) == ["after", "after, with names", "before"]


def compiled_names() -> None:
    net = nn.Linear(1, 1)
    compiled = torch.compile(net, backend="eager")
    assert dict(compiled.named_children()) == {compat.COMPILED_MODULE: net}
    assert list(compiled.state_dict()) == [f"{compat.COMPILED_MODULE}.weight", f"{compat.COMPILED_MODULE}.bias"]


def compiled_calls() -> None:
    net = nn.Linear(1, 1)
    assert compat.compiled_call(net) is None
    net.compile(backend="eager")
    assert compat.compiled_call(net) is not None
    assert compat.compiled_call(compat.shallow_copy(net)) is None
    compat.set_compiled_call(net, lambda x: "replaced")
    assert net(torch.zeros(1, 1)) == "replaced"
    assert compat.plain_call(net)(torch.zeros(1, 1)).shape == (1, 1)
    compat.set_compiled_call(net, None)
    assert compat.compiled_call(net) is None
    compat.set_compiled_call(net, None)


def plain_calls_run_hooks() -> None:
    net, calls = nn.Linear(1, 1), []
    net.register_forward_hook(lambda *_: calls.append("hook"))
    compat.plain_call(net)(torch.zeros(1, 1))
    assert calls == ["hook"]


def padding() -> None:
    image = torch.arange(36.0).reshape(1, 1, 6, 6)
    small = nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular")
    grown, large = copy.deepcopy(small), nn.Conv2d(1, 1, 5, padding=2, padding_mode="circular")
    assert list(getattr(large, compat.CONV_PADDING)) == [2, 2, 2, 2]
    assert list(getattr(small, compat.CONV_PADDING)) == [1, 1, 1, 1]
    grown.weight, grown.bias, grown.kernel_size, grown.padding = large.weight, large.bias, (5, 5), (2, 2)
    setattr(grown, compat.CONV_PADDING, [2, 2, 2, 2])
    assert torch.equal(grown(image), large(image))
    same = nn.Conv2d(1, 1, 4, padding="same", padding_mode="circular")
    assert list(getattr(same, compat.CONV_PADDING)) == [1, 2, 1, 2]


def seen_by_a_dispatch_mode(function) -> set:
    seen = set()

    class Mode(compat.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.add(func.overloadpacket)
            return func(*args, **(kwargs or {}))

    with Mode():
        function(torch.ones(2, 2))
    return seen


def higher_order_operators() -> None:
    assert isinstance(torch.ops.higher_order.cond, compat.HigherOrderOperator)
    assert torch.ops.higher_order.cond.name() == "cond"


def dispatch_modes() -> None:
    assert torch.ops.aten.relu in seen_by_a_dispatch_mode(torch.relu)


def prelu_kernel() -> None:
    assert compat.PRELU_KERNEL in seen_by_a_dispatch_mode(nn.PReLU())


def versions() -> None:
    tensor = torch.zeros(2)
    before = compat.tensor_version(tensor)
    tensor.sum()
    assert compat.tensor_version(tensor) == before
    tensor.add_(1)
    assert compat.tensor_version(tensor) > before


def gradient_hooks() -> None:
    for register in ("register_hook", "register_post_accumulate_grad_hook"):
        parameter = nn.Parameter(torch.zeros(2))
        assert not compat.has_gradient_hooks(parameter)
        getattr(parameter, register)(lambda *_: None)
        assert compat.has_gradient_hooks(parameter)


def trees() -> None:
    pair = namedtuple("pair", "a b")
    tree = {"x": [torch.zeros(1), 2], "y": pair(3, (4,))}
    leaves, structure = compat.tree_flatten(tree)
    assert compat.tree_leaves(tree) == leaves == [tree["x"][0], 2, 3, 4]
    assert compat.tree_unflatten(leaves, structure) == tree
    assert compat.tree_map(str, tree)["y"] == pair("3", ("4",))


def optimizer() -> torch.optim.SGD:
    return torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)


def last_rates() -> None:
    scheduler = lr_scheduler.StepLR(optimizer(), 1)
    assert compat.LAST_RATES in scheduler.state_dict()
    compat.set_last_rates(scheduler, [0.25])
    assert scheduler.get_last_lr() == [0.25]
    assert scheduler.state_dict()[compat.LAST_RATES] == getattr(scheduler, compat.LAST_RATES) == [0.25]


def counted_steps() -> None:
    scheduler = lr_scheduler.StepLR(optimizer(), 1)
    before = scheduler.state_dict()[compat.SCHEDULER_STEPS]
    scheduler.optimizer.step()
    scheduler.step()
    assert scheduler.state_dict()[compat.SCHEDULER_STEPS] == before + 1


def parts_of_schedulers() -> None:
    one = optimizer()
    parts = [lr_scheduler.ConstantLR(one), lr_scheduler.StepLR(one, 2)]
    assert compat.chained_schedulers(lr_scheduler.SequentialLR(one, parts, [1])) == parts
    assert compat.chained_schedulers(lr_scheduler.ChainedScheduler(parts)) == parts
    assert compat.chained_schedulers(parts[0]) == []


def step_hooks() -> None:
    one, calls = optimizer(), []
    one.param_groups[0]["params"][0].grad = torch.zeros(1)
    one.register_step_pre_hook(lambda *_: calls.append("before"))
    one.register_step_post_hook(lambda *_: calls.append("after"))
    other = copy.copy(one)
    compat.remove_step_hooks(other)
    other.step()
    assert calls == []
    one.step()
    assert calls == ["before", "after"]


def kept_iterators() -> None:
    loader = DataLoader([1, 2])
    assert compat.begun_iterator(loader) is None
    list(loader)
    assert compat.begun_iterator(loader) is None  # it has no workers to keep
    assert "self._iterator = self._get_iterator()" in inspect.getsource(DataLoader.__iter__)


FOREACH = {
    "_foreach_add": lambda a, b: compat.foreach_add(a, b, alpha=2),
    "_foreach_add_": lambda a, b: compat.foreach_add_(a, b, alpha=2),
    "_foreach_addcdiv_": lambda a, b: compat.foreach_addcdiv_(a, b, b, value=2),
    "_foreach_addcmul": lambda a, b: compat.foreach_addcmul(a, b, b),
    "_foreach_addcmul_": lambda a, b: compat.foreach_addcmul_(a, b, b, value=2),
    "_foreach_div": compat.foreach_div,
    "_foreach_div_": lambda a, b: compat.foreach_div_(a, 4.0),
    "_foreach_lerp_": lambda a, b: compat.foreach_lerp_(a, b, 0.5),
    "_foreach_maximum_": compat.foreach_maximum_,
    "_foreach_mul": compat.foreach_mul,
    "_foreach_mul_": compat.foreach_mul_,
    "_foreach_neg": lambda a, b: compat.foreach_neg(a),
    "_foreach_sqrt": lambda a, b: compat.foreach_sqrt(a),
}
RESULTS = [5.0, 5.0, 3.0, 5.0, 9.0, 0.5, 0.25, 1.5, 2.0, 2.0, 2.0, -1.0, 1.0]


def foreach(name: str) -> None:
    ones, twos = [torch.ones(2)], [torch.full((2,), 2.0)]
    returned = FOREACH[name](ones, twos)
    (found,) = ones if name.endswith("_") else returned
    assert found.tolist() == [dict(zip(FOREACH, RESULTS, strict=True))[name]] * 2


def stacked_tensors() -> None:
    assert compat.HAS_FUNCTORCH
    seen = []

    def function(x):
        vmap = compat.current_vmap()
        tensor, dim = compat.unwrap_batched(x, vmap)
        _, none = compat.unwrap_batched(torch.zeros(1), vmap)
        with vmap.lower():
            doubled = 2 * tensor
        seen.append((vmap.batch_size(), tensor.shape, dim, none))
        return compat.add_batch_dim(doubled, dim, vmap)

    x = torch.arange(6.0).view(2, 3)
    assert torch.equal(torch.func.vmap(function, in_dims=1, out_dims=1)(x), 2 * x)
    assert seen == [(3, (2, 3), 1, None)]
    torch.func.grad(lambda x: seen.append(compat.current_vmap()) or x)(torch.zeros(()))
    assert seen[-1] is None


def moved_modules() -> None:
    class Counts(compat.FollowsTensors):
        def __init__(self):
            super().__init__()
            self.layer, self.seen = nn.Linear(1, 1), []

        def on_tensors_replaced(self, function):
            self.seen.append((self.layer.weight.dtype, function(torch.zeros(1)).dtype))

    counts = Counts()
    assert counts.double() is counts
    assert counts.seen == [(torch.float64, torch.float64)]
    compat.apply_to_tensors(counts, lambda tensor: tensor.half())
    assert counts.layer.weight.dtype == torch.float16


def found_step_hooks() -> None:
    for register in ("register_step_pre_hook", "register_step_post_hook"):
        one = optimizer()
        assert not compat.has_step_hooks(one)
        getattr(one, register)(lambda *_: None)
        assert compat.has_step_hooks(one)


def marked_steps() -> None:
    one = optimizer()
    scheduler = lr_scheduler.StepLR(one, 1)
    compat.mark_stepped(one)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # that the scheduler is stepped before the optimizer
        scheduler.step()


def scaled_steps() -> None:
    assert compat.AMP_SCALING in inspect.getsource(torch.amp.GradScaler.step)


def precisions() -> None:
    before = compat.float32_precision()
    torch.set_float32_matmul_precision("medium")
    if hasattr(torch.backends, "fp32_precision"):
        torch.backends.fp32_precision = "tf32"  # now reading by the older interface raises
    assert compat.float32_precision() != before
    compat.set_float32_precision(before)
    assert compat.float32_precision() == before


def entered_contexts() -> None:
    before = compat.open_contexts()
    with torch.device("meta"):
        assert compat.open_contexts() == (before[0] + 1, *before[1:])
    with FlopCounterMode(display=False):
        assert compat.open_contexts()[1] > before[1]
    with torch.autograd.graph.save_on_cpu():
        assert compat.open_contexts() == (*before[:2], before[2] + 1)
    assert compat.open_contexts() == before


def recordings() -> None:
    assert compat.interpreter_flags() == (False, False)
    with torch.autograd.profiler.profile():
        assert compat.interpreter_flags() == (True, False)


LAYERS = "inheritance, growth and zero-cost proxies miss layers of this kind, or need lists of classes"

TABLE = [
    Row(
        "_BatchNorm",
        f"{LAYERS}; running statistics aren't averaged or estimated anew",
        lambda: base_classes(
            compat.BatchNormBase,
            {nn.BatchNorm1d: True, nn.BatchNorm3d: True, nn.SyncBatchNorm: True, nn.InstanceNorm1d: False},
        ),
    ),
    Row(
        "_NormBase",
        LAYERS,
        lambda: base_classes(
            compat.NormBase,
            {nn.BatchNorm2d: True, nn.InstanceNorm2d: True, nn.SyncBatchNorm: True, nn.GroupNorm: False},
        ),
    ),
    Row(
        "_ConvNd",
        LAYERS,
        lambda: base_classes(
            compat.ConvBase, {nn.Conv1d: True, nn.Conv3d: True, nn.ConvTranspose2d: True, nn.Linear: False}
        ),
    ),
    Row(
        "_ConvTransposeNd",
        LAYERS,
        lambda: base_classes(compat.ConvTransposeBase, {nn.ConvTranspose1d: True, nn.Conv1d: False}),
    ),
    Row(
        "_DropoutNd",
        "zero-cost proxies measure with dropout",
        lambda: base_classes(
            compat.DropoutBase, {nn.Dropout: True, nn.Dropout2d: True, nn.AlphaDropout: True, nn.ReLU: False}
        ),
    ),
    Row("_ops", "a training that uses FlexAttention fails while its FLOPs are counted", higher_order_operators),
    Row("_python_dispatch", "the zero-cost proxy naswot misses activations that are functions", dispatch_modes),
    Row("_pytree", "nested batches and outputs can't be taken apart", trees),
    Row("_parameters", "growth can't exchange parameters for others of another shape", live_parameters),
    Row("_buffers", "growth can't exchange buffers", live_buffers),
    Row("_modules", "growth can't exchange a layer for another, nor undo it", live_children),
    Row(
        "_non_persistent_buffers_set",
        "inheritance looks for buffers in checkpoints that don't hold them",
        non_persistent,
    ),
    Row("_forward_hooks", "a layer put in another's place loses its hooks", hooks_move_with_their_dictionaries),
    Row(
        "_forward_hooks_with_kwargs",
        "a layer put in another's place loses its hooks",
        hooks_move_with_their_dictionaries,
    ),
    Row("_forward_pre_hooks", "a layer put in another's place loses its hooks", hooks_move_with_their_dictionaries),
    Row(
        "_forward_pre_hooks_with_kwargs",
        "a layer put in another's place loses its hooks",
        hooks_move_with_their_dictionaries,
    ),
    Row("_orig_mod", "weights of compiled and plain modules don't find each other", compiled_names),
    Row("_compiled_call_impl", "FastTraining can't switch compiling off again", compiled_calls),
    Row("_call_impl", "FastTraining can't compile a part in place", plain_calls_run_hooks),
    Row("_reversed_padding_repeated_twice", "a larger kernel pads by its former size", padding),
    Row("_prelu_kernel", "the zero-cost proxy naswot doesn't count PReLU", prelu_kernel),
    *(
        Row(name, "a step of stacked optimizers takes a kernel for each parameter", partial(foreach, name))
        for name in FOREACH
    ),
    *(
        Row(name, "a stacked call takes twenty times as long to reach the stacked tensors", stacked_tensors)
        for name in ("_C", "_functorch", "_unwrap_batched", "_add_batch_dim")
    ),
    Row("_version", "every buffer is copied back after a trial forward", versions),
    Row("_backward_hooks", "growth loses hooks with the tensor it replaces", gradient_hooks),
    Row("_post_accumulate_grad_hooks", "growth loses hooks with the tensor it replaces", gradient_hooks),
    Row("_last_lr", "a changed learning rate isn't the one that is logged", last_rates),
    Row("_step_count", "a scheduler that has run looks different from one just made", counted_steps),
    Row("_schedulers", "parts of a schedule don't follow a change of the optimizer", parts_of_schedulers),
    Row("_optimizer_step_pre_hooks", "a trial step of a copy calls what watches the original", step_hooks),
    Row("_optimizer_step_post_hooks", "a trial step of a copy calls what watches the original", step_hooks),
    Row("_apply", "particles of a stack keep views of memory that the stack has left", moved_modules),
    Row("_opt_called", "schedulers warn that they are stepped before their optimizers", marked_steps),
    Row("_step_supports_amp_scaling", "GradScaler skips the step of all particles", scaled_steps),
    *(
        Row(name, "float32 precision set by one candidate by torch's newer interface stays for the next", precisions)
        for name in ("_get_fp32_precision_getter", "_set_fp32_precision_setter")
    ),
    *(
        Row(name, "modes and hooks that one candidate has entered and not left stay for the next", entered_contexts)
        for name in (
            "_autograd",
            "_top_saved_tensors_default_hooks",
            "_len_torch_function_stack",
            "_len_torch_dispatch_stack",
        )
    ),
    *(
        Row(name, "what one candidate has begun to record goes on beside the next", recordings)
        for name in ("_profiler_enabled", "_is_tracing")
    ),
    Row("_iterator", "a loader whose workers were made persistent draws in another order", kept_iterators),
]


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
def test_it_exists_and_behaves_as_it_is_used(row):
    row.run()


def test_step_hooks_are_found():
    found_step_hooks()


def test_every_private_name_has_its_row():
    assert {row.name for row in TABLE} == private_names("torch")


def test_registries_are_those_that_restore_a_structure():
    registries()
