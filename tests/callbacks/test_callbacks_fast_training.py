"""What makes a training fast changes nothing else: not the batches, not what the user set, nothing after the training."""

from __future__ import annotations

import copy
import pickle
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer, seed_everything
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset, random_split

from lightning_evo.callbacks import CostMeter, FastTraining
from lightning_evo.callbacks.fast.choices import (
    Choice,
    choose_benchmark,
    choose_channels_last,
    choose_precision,
    choose_tf32,
    follow_formats,
    fuse,
)
from lightning_evo.callbacks.fast.compilation import CompileTrial, compilable
from lightning_evo.callbacks.fast.data import FastData, WholeBatches
from lightning_evo.data import Digits
from lightning_evo.models import ImageClassifier
from lightning_evo.swarms import ParticleStack
from toys import ToyData, ToyNet

CUDA = torch.device("cuda", 0)
NOTHING = dict.fromkeys(("channels_last", "precision", "fused", "cudnn_benchmark", "tf32", "data", "compile"), False)


class ImageNet(LightningModule):
    """Convolves images, and notes what it's given."""

    def __init__(self, optimizer=torch.optim.Adam):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(64, 2)
        )
        self.optimizer, self.batches, self.seen = optimizer, [], []

    def training_step(self, batch, batch_idx):
        self.batches.append([part.clone() for part in batch])
        scores = self.net(batch[0])
        self.seen.append((self.trainer.precision, scores.dtype, self.net[0].weight.is_contiguous()))
        return nn.functional.cross_entropy(scores.float(), batch[1])

    def validation_step(self, batch, batch_idx):
        self.batches.append([part.clone() for part in batch])

    def configure_optimizers(self):
        return self.optimizer(self.parameters(), lr=0.01)


def images(count=22):
    generator = torch.Generator().manual_seed(1)
    return TensorDataset(torch.randn(count, 3, 8, 8, generator=generator), torch.arange(count) % 2)


def fit(model, *loaders, fast=None, epochs=2, **arguments):
    seed_everything(1)
    settings = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False} | arguments
    trainer = Trainer(
        max_epochs=epochs,
        callbacks=[] if fast is None else [fast],
        enable_progress_bar=False,
        enable_model_summary=False,
        **settings,
    )
    trainer.fit(model, *loaders)
    return trainer


def trained(fast, make_loaders, **arguments):
    """The same model trained with a callback: the model, and the random state behind it."""
    torch.manual_seed(0)
    model = ImageNet()
    fit(model, *make_loaders(), fast=fast, **arguments)
    return model, torch.get_rng_state()


def assert_equal_training(first, second):
    for mine, other in zip(first[0].batches, second[0].batches, strict=True):
        for a, b in zip(mine, other, strict=True):
            assert a.dtype == b.dtype
            assert torch.equal(a, b)
    for a, b in zip(first[0].state_dict().values(), second[0].state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert torch.equal(first[1], second[1])


# -- data --------------------------------------------------------------------------------------------------------------


def split(**arguments):
    parts = random_split(images(30), [22, 8], torch.Generator().manual_seed(3))
    return DataLoader(Subset(parts[0], range(2, 20)), 4, **arguments), DataLoader(parts[1], 8)


LOADERS = {
    "shuffled": lambda: (DataLoader(images(), 4, shuffle=True), DataLoader(images(7), 4)),
    "in order": lambda: (DataLoader(images(), 4),),
    "a generator": lambda: (DataLoader(images(), 4, shuffle=True, generator=torch.Generator().manual_seed(5)),),
    "the last batch dropped": lambda: (DataLoader(images(), 4, shuffle=True, drop_last=True),),
    "subsets of subsets": lambda: split(shuffle=True),
    "a sampler": lambda: (
        DataLoader(images(), 4, sampler=torch.utils.data.WeightedRandomSampler([1.0, 5.0] * 11, 16)),
    ),
    "a worker": lambda: (DataLoader(images(), 8, shuffle=True, num_workers=1),),
    "a worker that persists": lambda: (DataLoader(images(), 8, shuffle=True, num_workers=1, persistent_workers=True),),
}


@pytest.mark.parametrize("make", LOADERS.values(), ids=LOADERS)
def test_batches_are_the_same_tensors_in_the_same_order(make):
    fast = FastTraining(**NOTHING | {"data": True})
    assert_equal_training(trained(None, make), trained(fast, make))
    assert fast.choices["data"] == Choice(True, "batches are cut as wholes from tensors on cpu", "on cpu")


def test_each_process_of_ddp_gets_its_own_share(tmp_path):
    make, settings = LOADERS["shuffled"], {"devices": 1}
    fast = FastTraining(**NOTHING | {"data": True})
    runs = []
    for callback in (None, fast):
        strategy = DDPStrategy(process_group_backend="gloo")
        runs.append(trained(callback, make, strategy=strategy, **settings))
        torch.distributed.destroy_process_group()
    assert_equal_training(*runs)
    assert fast.choices["data"].on


def test_a_loader_made_anew_in_every_epoch_is_rewritten_every_time():
    class Data(LightningDataModule):
        def train_dataloader(self):
            return DataLoader(images(), 4, shuffle=True)

    fast, kinds = FastTraining(**NOTHING | {"data": True}), []

    class Watching(ImageNet):
        def training_step(self, batch, batch_idx):
            kinds.append(type(self.trainer.train_dataloader.dataset))
            return super().training_step(batch, batch_idx)

    fit(Watching(), Data(), fast=fast, reload_dataloaders_every_n_epochs=1)
    assert set(kinds) == {WholeBatches}


def test_several_loaders_are_all_rewritten():
    class Pairs(ToyNet):
        def training_step(self, batch, batch_idx):
            return super().training_step(batch["a"], batch_idx) + super().training_step(batch["b"], batch_idx)

    loaders = {"a": ToyData().train_dataloader(), "b": ToyData().val_dataloader()}
    trainer = fit(Pairs(), loaders, fast=FastTraining(**NOTHING | {"data": True}))
    assert {type(loader.dataset) for loader in trainer.train_dataloader.values()} == {WholeBatches}


def test_other_loaders_are_left_alone_on_a_cpu():
    class Own(DataLoader):
        pass

    class Batches:
        def __iter__(self):
            return iter([images()[:4]])

    for loader, why in (
        (Own(images(), 4), "Own is a loader of its own kind"),
        (DataLoader([images()[i] for i in range(8)], 4), "batches need not travel"),
        (Batches(), "a Batches, not a DataLoader"),
    ):
        fast = FastTraining()
        trainer = fit(ImageNet(), loader, fast=fast)
        assert trainer.train_dataloader is loader
        assert not fast.choices["data"].on
        assert why in fast.choices["data"].why


def test_after_the_training_loaders_are_asked_for_as_before():
    fast = FastTraining()
    trainer = fit(ImageNet(), DataLoader(images(), 4), fast=fast)
    plain = DataLoader(images(), 4)
    trainer.validate(ImageNet(), plain, verbose=False)
    assert trainer.validate_loop._combined_loader.flattened == [plain]
    assert "dataloader" not in vars(trainer.fit_loop._data_source)


def test_a_set_of_whole_batches_is_pickled_without_its_copies_on_the_device():
    copies = {}
    whole = WholeBatches([torch.arange(4)], None, torch.device("meta"), copies)
    whole.tensors_there()
    assert len(copies) == 1
    again = pickle.loads(pickle.dumps(whole))
    assert again[2] == (torch.tensor(2),)
    assert again.copies == {}


class Images(Dataset):
    """A set that reads one image at a time."""

    def __init__(self, device="cpu"):
        self.device = device

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return torch.empty(3, 8, 8, device=self.device), index % 2


class Stream(IterableDataset):
    def __iter__(self):
        return iter(range(8))


@pytest.fixture
def gpu(monkeypatch):
    """What would be done on a GPU with 4 MiB free; nothing is computed there."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (4 * 2**20, 8 * 2**20))
    return SimpleNamespace(
        strategy=SingleDeviceStrategy(CUDA),
        fit_loop=Trainer(accelerator="cpu").fit_loop,
        datamodule=None,
        num_devices=1,
    )


def on_gpu(trainer, loader, share=0.5, workers=3, model=None):
    data = FastData(trainer, model or ToyNet(), share, workers, lambda choice: None)
    return data.rewritten(loader)


def test_a_set_that_fits_the_gpu_is_kept_there(gpu):
    loader, choice = on_gpu(gpu, DataLoader(images(), 4, shuffle=True, num_workers=2))
    assert loader.dataset.device == CUDA
    assert (loader.num_workers, loader.pin_memory, choice.on) == (0, False, True)


def test_a_set_that_is_too_large_is_cut_into_pinned_batches(gpu):
    loader, choice = on_gpu(gpu, DataLoader(images(), 4), share=0.001)
    assert loader.dataset.device == torch.device("cpu")
    assert loader.pin_memory
    assert "more than its share" in choice.why


def test_the_parts_of_one_set_take_the_gpus_memory_once(gpu):
    whole = images(2**20 // (3 * 8 * 8 * 4))
    data = FastData(gpu, ToyNet(), 0.3, 0, lambda choice: None)
    first, _ = data.rewritten(DataLoader(Subset(whole, range(10)), 2))
    other, choice = data.rewritten(DataLoader(images(2 * len(whole)), 2))
    assert first.dataset.device == CUDA
    assert other.dataset.device.type == "cpu"
    assert "is more than its share" in choice.why


def test_a_hook_that_wants_batches_on_the_cpu_gets_them_there(gpu):
    class Hooked(ToyNet):
        def on_before_batch_transfer(self, batch, dataloader_idx):
            return batch

    loader, choice = on_gpu(gpu, DataLoader(images(), 4), model=Hooked())
    assert loader.dataset.device.type == "cpu"
    assert "on_before_batch_transfer is overridden" in choice.why


def reading(fast_loader, plain_loader):
    """What two loaders give in three epochs, from the same seed each."""
    epochs = []
    for loader in (fast_loader, plain_loader):
        torch.manual_seed(3)
        epochs.append([torch.cat([labels for _, labels in loader]).tolist() for _ in range(3)])
        epochs[-1].append(torch.rand(1).item())
    return epochs


class Numbers(Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, index):
        return torch.ones(1), index


def test_workers_that_live_on_give_the_samples_in_the_order_of_those_that_did_not(gpu):
    loader, _ = on_gpu(gpu, DataLoader(Numbers(), 4, shuffle=True), workers=1)
    loader.pin_memory = False  # there is nothing to pin it for
    assert loader.persistent_workers
    fast, plain = reading(loader, DataLoader(Numbers(), 4, shuffle=True))
    assert fast == plain


@pytest.mark.parametrize(
    ("loader", "workers", "expected"),
    [
        (lambda: DataLoader(Images(), 4, shuffle=True), 3, (3, True, True)),
        (lambda: DataLoader(Images(), 4), 0, (0, True, False)),  # torch refuses workers that persist and aren't there
        (lambda: DataLoader(Images(), 4, num_workers=1), 3, (1, True, True)),
        (lambda: DataLoader(Stream(), 4, num_workers=2), 3, (2, True, True)),
        (lambda: DataLoader(Stream(), 4), 3, (0, False, False)),
        (lambda: DataLoader(Images("meta"), 4), 3, (0, False, False)),
    ],
)
def test_other_sets_are_pinned_and_their_workers_live_on(gpu, loader, workers, expected):
    before = loader()
    after, choice = on_gpu(gpu, before, workers=workers)
    assert (after.num_workers, after.pin_memory, after.persistent_workers) == expected
    assert choice.on == expected[1]
    assert after.batch_size == before.batch_size
    assert after.sampler is before.sampler or isinstance(before.dataset, IterableDataset)


def test_a_process_that_may_start_none_gets_no_workers(gpu, monkeypatch):
    monkeypatch.setitem(torch.multiprocessing.current_process()._config, "daemon", True)
    loader, choice = on_gpu(gpu, DataLoader(Images(), 4))
    assert loader.num_workers == 0
    assert "may not start others" in choice.why


def test_image_sets_of_this_package_stay_on_the_gpu_while_they_train(gpu):
    gpu.datamodule = Digits()
    told = []
    data = FastData(gpu, ToyNet(), 0.5, 0, told.append)
    assert gpu.datamodule.resident
    assert told[0].on
    data.undo()
    assert not gpu.datamodule.resident


# -- precision, kernels, formats ---------------------------------------------------------------------------------------


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


# -- optimizers --------------------------------------------------------------------------------------------------------

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


# -- compiling ---------------------------------------------------------------------------------------------------------


class Clock:
    """Seconds that pass only as a training says."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def run_trial(plain, compiled, compiling=5.0, remaining=10_000, epoch=1000, sizes=(), **arguments):
    """Train until a decision; what was decided, in which batches the network was compiled, and the trial."""
    clock, net = Clock(), nn.Linear(2, 2)
    decide = arguments.pop("should_compile", FastTraining().should_compile)
    trial = CompileTrial({"net": net}, arguments.pop("backend", "eager"), decide, clock=clock, **arguments)
    choices, active, calls = [], [], 0
    for step in range(60):
        trial.enter(sizes[step] if step < len(sizes) else 4)
        active.append(net._compiled_call_impl is not None)
        net(torch.ones(4, 2))
        calls += active[-1]
        clock.now += (compiled if active[-1] else plain) + (compiling if calls == 1 and active[-1] else 0.0)
        choice = trial.step(remaining - step, last=step % epoch == epoch - 1)
        assert net._compiled_call_impl is None
        clock.now += 100 * (step % epoch == epoch - 1)  # validation
        choices += [choice] if choice else []
    return choices, active, trial


@pytest.mark.parametrize("epoch", [1000, 3])
def test_what_is_faster_compiled_stays_so(epoch):
    choices, active, _ = run_trial(plain=0.1, compiled=0.05, epoch=epoch)
    assert [choice.on for choice in choices] == [True]
    assert "100 ms a batch plain, 50 ms compiled; compiling took 4.95 s" in choices[0].why
    assert active[-1]


def test_what_is_no_faster_compiled_is_left_plain():
    choices, active, _ = run_trial(plain=0.1, compiled=0.0995)
    assert [choice.on for choice in choices] == [False]
    assert any(active)
    assert not active[-1]


def test_a_short_rest_of_the_run_is_not_worth_a_try():
    choices, active, _ = run_trial(plain=0.1, compiled=0.01, remaining=900)
    assert [choice.on for choice in choices] == [False]
    assert "too few to pay back" in choices[0].why
    assert not any(active)


def test_the_decision_can_be_another_ones():
    choices, _, _ = run_trial(plain=0.1, compiled=0.2, remaining=90, should_compile=lambda *_: True)
    assert [choice.on for choice in choices] == [True]


def test_a_batch_of_another_size_is_computed_plainly():
    sizes = [4] * 30 + [3] + [4] * 29
    _, active, _ = run_trial(plain=0.1, compiled=0.05, sizes=sizes)
    assert (active[29], active[30], active[31]) == (True, False, True)


def test_what_fails_to_compile_is_computed_plainly_and_said():
    def backend(graph, inputs):
        raise RuntimeError("no compiler here")

    choices, active, _ = run_trial(plain=0.1, compiled=0.05, backend=backend)
    assert [choice.on for choice in choices] == [False]
    assert "net could not be compiled" in choices[0].why
    assert not active[-1]


def test_a_network_that_changed_is_timed_anew():
    _, _, trial = run_trial(plain=0.1, compiled=0.05)
    trial.begin()
    trial.enter(4)
    assert trial.parts["net"]._compiled_call_impl is None
    assert trial.step(10_000, last=False) is None


def test_the_parts_to_compile_are_those_that_are_called():
    module = nn.ModuleDict(
        {
            "blocks": nn.ModuleList([nn.Linear(1, 1), nn.ReLU()]),
            "done": torch.compile(nn.Linear(1, 1), backend="eager"),
            "net": nn.Sequential(nn.Linear(1, 1)),
        }
    )
    assert list(compilable(module)) == ["blocks.0", "net"]


def test_a_training_compiled_on_demand_computes_the_same():
    def make():
        return (DataLoader(images(), 4, shuffle=True), DataLoader(images(7), 4))

    fast = FastTraining(**NOTHING | {"compile": True}, compile_backend="eager")
    meter = CostMeter()
    runs = [trained(callback, make) for callback in (None, fast)]
    assert_equal_training(*runs)
    assert fast.choices["compile"] == Choice(True, "asked for", "eager")
    fit(ImageNet(), *make(), fast=meter)
    assert meter.cost["flops"] > 0


def test_the_clock_decides_nothing_where_the_trainer_is_deterministic():
    fast = FastTraining()
    try:
        fit(ToyNet(), ToyData(), fast=fast, deterministic=True)
    finally:
        torch.use_deterministic_algorithms(False)
        torch.backends.cudnn.deterministic = False
    assert "deterministic" in fast.choices["compile"].why


# -- together ----------------------------------------------------------------------------------------------------------


def test_everything_can_be_switched_off():
    fast = FastTraining(**NOTHING)
    assert_equal_training(trained(None, LOADERS["shuffled"]), trained(fast, LOADERS["shuffled"]))
    assert {name: (choice.on, choice.why) for name, choice in fast.choices.items()} == dict.fromkeys(
        NOTHING, (False, "switched off")
    )


def test_every_choice_is_said_once_and_archived(caplog):
    fast = FastTraining()
    with caplog.at_level("INFO"):
        fit(ImageNet(), DataLoader(images(), 4), fast=fast, epochs=12)
    said = [record.message for record in caplog.records if record.message.startswith("FastTraining: ")]
    for name in NOTHING:
        assert sum(line.startswith(f"FastTraining: {name} ") for line in said) == (2 if name == "compile" else 1), said
    assert fast.extra["fast"].keys() == NOTHING.keys()
    assert fast.extra["fast"]["fused"] == {"on": True, "why": "one kernel for all weights", "value": "Adam"}


def test_the_second_fit_decides_anew():
    fast = FastTraining()
    fit(ImageNet(), DataLoader(images(), 4), fast=fast)
    assert fast.choices["channels_last"].on
    fit(ToyNet(), ToyData(), fast=fast)
    assert not fast.choices["channels_last"].on


class Deepens(FastTraining):
    """Puts in another convolution after the first epoch, as StructuralGrowth does, and says so."""

    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == 1:
            pl_module.net[3] = nn.Conv2d(4, 4, 3)
            trainer.optimizers[0].add_param_group({"params": list(pl_module.net[3].parameters())})
            self.on_structure_change(trainer, pl_module, None)
            self.new = [group["fused"] for group in trainer.optimizers[0].param_groups]
            self.format = pl_module.net[3].weight.is_contiguous(memory_format=torch.channels_last)


def test_what_a_network_has_grown_is_treated_alike():
    fast = Deepens(compile=True, compile_backend="eager")
    fit(ImageNet(), DataLoader(images(), 4), fast=fast, epochs=3)
    assert fast.new == [True, True]
    assert fast.format
    assert fast.choices["compile"].on


def test_a_stack_of_particles_keeps_its_own_formats_and_optimizers():
    fast = FastTraining(precision="bf16-mixed")
    fit(ParticleStack(ToyNet, size=3, lowering="loop"), ToyData(), fast=fast)
    on = {name for name, choice in fast.choices.items() if choice.on}
    assert on == {"precision", "data"}


def test_a_shipped_model_learns_on_a_shipped_set():
    fast, data = FastTraining(), Digits(limit_train=64, limit_validation=32)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))
    fit(ImageClassifier(net, 10, in_channels=1), data, fast=fast, epochs=1)
    assert fast.choices["data"] == Choice(False, "Digits cuts whole batches from memory already")
    assert {name for name, choice in fast.choices.items() if choice.on} == {"channels_last", "fused"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"fused": "yes"}, "fused: 'yes' is none of auto, true, false"),
        ({"compile": 1.5}, "compile: 1.5 is none of auto, true, false"),
        ({"precision": "bf16"}, "precision: 'bf16' is none of auto, 32-true"),
        ({"memory_share": 0}, "memory_share: 0 is not above 0"),
        ({"num_workers": -1}, "num_workers: -1 is below 0"),
    ],
)
def test_bad_settings_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        FastTraining(**arguments)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_all_of_it_works_together():
    model = ImageNet()
    fast = FastTraining()
    fit(model, DataLoader(images(), 4, shuffle=True), DataLoader(images(7), 4), fast=fast, accelerator="gpu", devices=1)
    assert {"precision", "fused", "data", "cudnn_benchmark"} <= {n for n, choice in fast.choices.items() if choice.on}
    assert all(batch[0].device.type == "cuda" for batch in model.batches)
    assert torch.backends.cudnn.benchmark is False
