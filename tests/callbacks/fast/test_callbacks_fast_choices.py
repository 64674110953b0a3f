"""What is chosen for a device and why, and that nothing of it outlives the training."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from fast_examples import CUDA, ImageNet, fit, images
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import nn
from torch.utils.data import DataLoader

from lightning_evo.callbacks import FastTraining
from lightning_evo.callbacks.fast.choices import (
    Choice,
    choose_benchmark,
    choose_channels_last,
    choose_precision,
    choose_tf32,
    follow_formats,
    fuse,
)
from toys import ToyData, ToyNet


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
def test_mixed_precision_holds_for_the_training_and_no_longer(precision):
    model = ImageNet()
    fast = FastTraining(precision=precision)
    trainer = fit(model, DataLoader(images(), 4), fast=fast, gradient_clip_val=0.5)
    dtype = torch.bfloat16 if precision == "bf16-mixed" else torch.float16
    assert {seen[:2] for seen in model.seen} == {(precision, dtype)}
    assert fast.choices["precision"] == Choice(True, "asked for", precision)
    assert fast.choices["fused"].on
    assert trainer.precision == "32-true"


def test_the_trainers_precision_stays():
    model = ImageNet()
    fast = FastTraining(precision="bf16-mixed")
    trainer = fit(model, DataLoader(images(), 4), fast=fast, precision="bf16-mixed")
    assert not fast.choices["precision"].on
    assert "bf16-mixed already" in fast.choices["precision"].why
    assert isinstance(trainer.precision_plugin, MixedPrecision)


def test_lbfgs_is_left_in_single_precision():
    class Second(ImageNet):
        def configure_optimizers(self):
            return torch.optim.LBFGS(self.parameters(), lr=0.01, max_iter=1)

    model, fast = Second(), FastTraining(precision="16-mixed")
    fit(model, DataLoader(images(), 4), fast=fast, epochs=1)
    assert {seen[0] for seen in model.seen} == {"32-true"}
    assert {seen[2] for seen in model.seen} == {True}
    assert not fast.choices["channels_last"].on
    assert fast.choices["precision"] == Choice(False, "LBFGS can't be used with a gradient scaler")


@pytest.mark.parametrize(
    ("bf16", "capability", "automatic", "value"),
    [
        (True, (9, 0), True, "bf16-mixed"),
        (False, (7, 5), True, "16-mixed"),
        (False, (7, 5), False, ""),
        (False, (6, 1), True, ""),
    ],
)
def test_a_gpu_gets_the_precision_it_has(monkeypatch, bf16, capability, automatic, value):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bf16)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    model = ToyNet()
    model.automatic_optimization = automatic
    choice = choose_precision("auto", SimpleNamespace(strategy=SingleDeviceStrategy(CUDA)), model)
    assert (choice.on, choice.value) == (bool(value), value)


def test_on_a_cpu_precision_is_not_lowered_unless_asked():
    fast = FastTraining()
    fit(ImageNet(), DataLoader(images(), 4), fast=fast)
    assert not fast.choices["precision"].on


def test_flags_of_cudnn_and_tf32_follow_device_and_user(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    assert choose_tf32("auto", CUDA).on
    assert choose_benchmark("auto", CUDA).on
    assert not choose_tf32("auto", torch.device("cpu")).on
    assert not choose_benchmark(False, CUDA).on
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    assert "already" in choose_benchmark("auto", CUDA).why
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
    assert "deterministic" in choose_benchmark(True, CUDA).why
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert not choose_tf32("auto", CUDA).on


class Everywhere(FastTraining):
    """Sets the GPU's flags on a CPU too, where they do nothing."""

    def choose(self, name, trainer, pl_module):
        return Choice(name in ("tf32", "cudnn_benchmark", "channels_last"), "")


@pytest.mark.parametrize("fails", [False, True])
def test_what_is_global_is_put_back_also_after_an_error(fails):
    flags = lambda: (torch.backends.cudnn.benchmark, torch.get_float32_matmul_precision())  # noqa: E731
    before, during = flags(), []

    class Watching(ImageNet):
        def training_step(self, batch, batch_idx):
            during.append(flags())
            if fails:
                raise RuntimeError("broken")
            return super().training_step(batch, batch_idx)

    model = Watching()
    if fails:
        with pytest.raises(RuntimeError, match="broken"):
            fit(model, DataLoader(images(), 4), fast=Everywhere(compile=True, compile_backend="eager"))
    else:
        fit(model, DataLoader(images(), 4), fast=Everywhere(compile=True, compile_backend="eager"))
    assert set(during) == {(True, "high")}
    assert flags() == before
    assert all(weight.is_contiguous() for weight in model.parameters())
    assert all(part._compiled_call_impl is None for part in model.modules())


def test_weights_are_laid_out_with_channels_last_while_they_train():
    model, fast = ImageNet(), FastTraining()
    weights = list(model.parameters())
    fit(model, DataLoader(images(), 4), fast=fast)
    assert {seen[2] for seen in model.seen} == {False}
    assert all(mine is weight for mine, weight in zip(model.parameters(), weights, strict=True))
    assert fast.choices["channels_last"].on


def test_formats_are_left_where_they_help_nothing():
    fast = FastTraining()
    fit(ToyNet(), ToyData(), fast=fast)
    assert fast.choices["channels_last"] == Choice(False, "there is no Conv2d")
    strategy = SingleDeviceStrategy(CUDA)
    trainer = SimpleNamespace(strategy=strategy, precision_plugin=strategy.precision_plugin)
    assert not choose_channels_last("auto", trainer, ImageNet()).on
    trainer.precision_plugin = MixedPrecision("bf16-mixed", "cuda")
    assert choose_channels_last("auto", trainer, ImageNet()).on


def test_layers_made_by_configure_model_are_laid_out_too():
    class Late(ImageNet):
        def __init__(self):
            super().__init__()
            self.net = None

        def configure_model(self):
            if self.net is None:
                self.net = ImageNet().net

    model, fast = Late(), FastTraining()
    fit(model, DataLoader(images(), 4), fast=fast)
    assert {seen[2] for seen in model.seen} == {False}
    assert fast.choices["channels_last"].on


OPTIMIZERS = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "Adam": lambda p: torch.optim.Adam(p, lr=0.1, amsgrad=True),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.1),
    "Adagrad": lambda p: torch.optim.Adagrad(p, lr=0.1),
}


def steps(optimizer, weights, count):
    generator = torch.Generator().manual_seed(0)
    for _ in range(count):
        for weight in weights:
            weight.grad = torch.randn(weight.shape, generator=generator).contiguous(memory_format=torch.channels_last)
        optimizer.step()


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_a_fused_optimizer_takes_the_same_steps_from_where_the_other_was(make):
    plain, fused = ([nn.Parameter(torch.ones(4, 3, 2, 2))] for _ in range(2))
    reference, optimizer = make(plain), make(fused)
    steps(reference, plain, 5)
    steps(optimizer, fused, 2)
    # Its moments are contiguous; the weight has changed its format since.
    fused[0].data = fused[0].data.contiguous(memory_format=torch.channels_last)
    assert fuse(optimizer) == ""
    assert optimizer.param_groups[0]["fused"]
    moments = [v for v in optimizer.state[fused[0]].values() if torch.is_tensor(v) and v.ndim == 4]
    assert {moment.stride() for moment in moments} <= {fused[0].stride()}
    # From its first step on it ends where the plain one does, and it goes on from a saved state.
    again = make(other := [nn.Parameter(torch.ones(4, 3, 2, 2).contiguous(memory_format=torch.channels_last))])
    assert fuse(again) == ""
    steps(again, other, 5)
    torch.testing.assert_close(other[0], plain[0])
    saved = copy.deepcopy(again.state_dict())
    resumed = make(last := [nn.Parameter(other[0].detach().clone())])
    resumed.load_state_dict(saved)
    assert fuse(resumed) == ""
    steps(resumed, last, 1)
    steps(again, other, 1)
    assert torch.equal(last[0], other[0])


def test_what_cannot_be_fused_is_said():
    weight = nn.Parameter(torch.ones(3))
    for optimizer, why in (
        (torch.optim.RMSprop([weight]), "RMSprop has no fused kernel"),
        (torch.optim.Adam([weight], fused=False), "made with fused=False"),
        (torch.optim.Adam([weight], foreach=True), "foreach=True"),
        (torch.optim.SGD([weight], differentiable=True), "differentiable"),
        (
            torch.optim.Adam([nn.Parameter(torch.ones(3, dtype=torch.complex64))]),
            "torch can't fuse Adam of torch.complex64",
        ),
    ):
        assert why in fuse(optimizer)
        assert not optimizer.param_groups[0]["fused"] if "fused" in optimizer.param_groups[0] else True


def test_sparse_gradients_are_not_fused():
    class Words(ToyNet):
        def __init__(self):
            super().__init__()
            self.words = nn.Embedding(3, 2, sparse=True)

    fast = FastTraining()
    fit(Words(), ToyData(), fast=fast)
    assert fast.choices["fused"] == Choice(False, "an embedding has sparse gradients")


def test_moments_follow_the_formats_of_their_weights():
    weight = nn.Parameter(torch.ones(4, 3, 2, 2))
    optimizer = torch.optim.Adam([weight])
    steps(optimizer, [weight], 1)
    values = optimizer.state[weight]["exp_avg"].clone()
    weight.data = weight.data.contiguous(memory_format=torch.channels_last)
    follow_formats(optimizer)
    assert optimizer.state[weight]["exp_avg"].stride() == weight.stride()
    assert torch.equal(optimizer.state[weight]["exp_avg"], values)
