"""A network grows while it trains, and everything that holds its parameters follows."""

from __future__ import annotations

import copy

import pytest
import torch
from callbacks_growing import ConvNet, fit, growing, images, net
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch import callbacks as lightning_callbacks
from lightning.pytorch.callbacks import ModelPruning, StochasticWeightAveraging
from lightning.pytorch.plugins import MixedPrecision
from torch import nn
from torch.optim import lr_scheduler

from lightning_evo.callbacks import (
    CostMeter,
    HyperparameterSchedule,
    StructuralGrowth,
    SwarmAveraging,
    WeightInheritance,
)
from lightning_evo.callbacks.growth.loading import load_grown
from lightning_evo.callbacks.growth.recipe import recipe_of
from lightning_evo.callbacks.growth.triggers import Decision, FixedInterval, Gap, GrowthTrigger, Plateau
from lightning_evo.callbacks.search import Inherited, SearchContext
from lightning_evo.functional.growth import Growth, GrowthError, GrowthStep, NothingChanged
from lightning_evo.genome import Objective
from lightning_evo.swarms import ParticleStack


def count(module):
    return sum(p.numel() for p in module.parameters())


class Watches(Callback):
    """Looks at the network at the end of each epoch and at the first batch of the next; told of growth."""

    def __init__(self):
        self.scores, self.after, self.told, self.counts, self.moments = [], [], [], [], []

    def _score(self, module):
        training = module.training
        module.eval()
        with torch.no_grad():
            scores = module(next(iter(images(2)))[0].to(next(module.parameters())))
        module.train(training)
        return scores

    def on_train_epoch_end(self, trainer, pl_module):
        self.scores.append(self._score(pl_module))
        self.counts.append(count(pl_module))
        self.moments.append({p: copy.deepcopy(state) for p, state in trainer.optimizers[0].state.items()})

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch_idx == 0 and trainer.current_epoch:
            self.after.append(self._score(pl_module))

    def on_structure_change(self, trainer, pl_module, growth):
        self.told.append(growth)


# -- growing -----------------------------------------------------------------------------------------------------------


def test_the_network_grows_at_the_epochs_its_trigger_says_and_computes_the_same(tmp_path):
    watches, growth = Watches(), growing(operations=["widen", "insert", "residual"])
    trainer = fit(net(), tmp_path, [watches, growth], epochs=6)
    assert [one["epoch"] for one in growth.history] == [1, 2, 3, 4, 5]
    assert [one["operation"] for one in growth.history] == ["widen", "insert", "residual", "widen", "insert"]
    for before, after in zip(watches.scores, watches.after, strict=False):
        assert torch.allclose(before, after, atol=1e-5 * float(before.abs().max()))
    for step, before, after in zip(growth.history, watches.counts, watches.counts[1:], strict=False):
        assert (step["before"], step["after"]) == (before, after)
        assert after > before
    assert watches.told[-1].after == watches.counts[-1]
    assert trainer.callback_metrics["growth_parameters"] == watches.counts[-1]
    assert trainer.callback_metrics["growth_steps"] == 5
    assert growth.extra == {"growth": growth.history}


@pytest.mark.parametrize("new_units", ["zero", "net2wider", "gradmax"])
def test_every_way_of_beginning_is_trained_on(new_units, tmp_path):
    watches = Watches()
    module = net()
    trainer = fit(module, tmp_path, [watches, growing(operations=["widen"], new_units=new_units)], epochs=4)
    held = {id(p) for group in trainer.optimizers[0].param_groups for p in group["params"]}
    assert held == {id(p) for p in module.parameters()}
    assert set(trainer.optimizers[0].state) <= set(module.parameters())
    assert float(trainer.callback_metrics["val_loss"]) < 1.0


def test_old_parameters_keep_what_the_optimizer_knows_of_them(tmp_path):
    class Looks(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if trainer.current_epoch == 1 and batch_idx == 0:
                self.state = {p: copy.deepcopy(state) for p, state in trainer.optimizers[0].state.items()}

    watches, looks, module = Watches(), Looks(), net()
    fit(module, tmp_path, [watches, looks, growing(operations=["widen"])], epochs=2)
    (growth,) = watches.told
    untouched = set(watches.moments[0]) & set(module.parameters())
    assert len(untouched) >= 4
    for parameter in untouched:
        assert all(
            torch.equal(value, looks.state[parameter][key]) for key, value in watches.moments[0][parameter].items()
        )
    for moved in growth.moved:
        before = watches.moments[0][moved.old]["exp_avg"]
        assert torch.equal(looks.state[moved.new]["exp_avg"], moved.map.moments(before, moved.new))
        assert looks.state[moved.new]["step"] == watches.moments[0][moved.old]["step"]


def test_bounds_of_a_step_and_of_the_whole_hold(tmp_path):
    growth = growing(operations=["widen", "insert"], expand_ratio=0.2, max_parameters=800, layers_per_step=3)
    fit(net(), tmp_path, [growth], epochs=8)
    assert len(growth.history) > 3
    assert all(one["after"] - one["before"] <= 0.2 * one["before"] for one in growth.history)
    assert growth.history[-1]["after"] <= 800
    assert max([one["epoch"] for one in growth.history].count(epoch) for epoch in range(8)) > 1


class Asked(GrowthTrigger):
    """Says no, and notes when it is asked and which layers' entropies it is told."""

    needs_entropy = True

    def __init__(self):
        self.epochs, self.layers = [], set()

    def decide(self, state):
        self.epochs.append(state.epoch)
        self.layers |= set(state.entropies)
        return Decision(False, "it only listens")


@pytest.mark.parametrize(
    ("operations", "room", "epochs"),
    [(["widen", "insert"], 0, []), (["widen", "insert"], 1, [1, 2, 3]), (["widen", "prune"], 0, [1, 2, 3])],
)
def test_a_network_at_its_largest_is_neither_asked_about_nor_sampled(operations, room, epochs, tmp_path):
    asked = Asked()
    growth = growing(triggers=asked, operations=operations, max_parameters=count(net()) + room)
    fit(net(), tmp_path, [growth], epochs=4)
    assert asked.epochs == epochs
    assert bool(asked.layers) == bool(growth._records.entropies) == bool(epochs)


def test_where_nothing_can_grow_the_training_goes_on_and_says_so_once(tmp_path, caplog):
    growth = growing(max_parameters=count(net()) + 1)
    with caplog.at_level("INFO", "lightning.pytorch"):
        fit(net(), tmp_path, [growth], epochs=4)
    assert growth.history == []
    assert sum("but no layer can grow" in record.getMessage() for record in caplog.records) == 1


def test_steps_are_at_least_so_many_epochs_apart(tmp_path):
    growth = growing(triggers=FixedInterval(1), min_epochs_between=2)
    fit(net(), tmp_path, [growth], epochs=7)
    assert [one["epoch"] for one in growth.history] == [2, 4, 6]


def test_only_named_layers_grow_also_when_they_are_called_otherwise(tmp_path):
    growth = growing(operations=["residual", "widen"], layers=["body.3"])
    fit(net(), tmp_path, [growth], epochs=5)
    assert {one["layer"] for one in growth.history} <= {"body.3", "body.3.base"}
    assert len(growth.history) == 4


def test_the_default_choice_is_by_need_then_by_who_grew_longest_ago(tmp_path):
    class Needs(GrowthTrigger):
        def decide(self, state):
            return Decision(True, "needed", {"body.8": 0.9} if state.epoch == 1 else {})

    growth = growing(triggers=Needs(), operations=["widen"])
    fit(net(), tmp_path, [growth], epochs=5)
    assert [one["layer"] for one in growth.history] == ["body.8", "body.0", "body.3", "body.8"]


def test_decisions_can_be_overridden(tmp_path):
    class Own(StructuralGrowth):
        def should_grow(self, state):
            assert len(state.metric) == state.epoch
            return Decision(state.epoch == 2, "I say so")

        def choose_layers(self, sites, state, decision):
            return list(sites)[::-1]

    growth = Own(FixedInterval(9), operations=["widen"], min_epochs_between=1, monitor="val_acc")
    fit(net(), tmp_path, [growth])
    assert [(one["epoch"], one["layer"], one["why"]) for one in growth.history] == [(2, "body.8", "I say so")]


def test_an_operation_that_changed_nothing_is_an_error(tmp_path):
    class Pretends(StructuralGrowth):
        def grow(self, pl_module, operation, layer, **more):
            return Growth(GrowthStep(operation, layer), 475, 500)

    growth = Pretends(FixedInterval(1), min_epochs_between=1)
    with pytest.raises(
        NothingChanged, match=r"epoch 1: widen body.0: nothing has changed: 475 parameters before and after"
    ):
        fit(net(), tmp_path, [growth])


def test_the_triggers_by_default_look_at_entropy_and_the_metric(tmp_path):
    growth = StructuralGrowth(monitor="val_acc", min_epochs_between=1)
    fit(net(), tmp_path, [growth], epochs=6)
    state = growth.state_dict()["records"]
    layers = {"body.0", "body.3", "body.8"}
    assert layers <= set(state["entropies"])
    assert all(len(state["entropies"][layer]) == 6 for layer in layers)
    assert not growth.history  # a plateau takes eight epochs to be told
    assert all(0 <= value <= 1 for curve in state["entropies"].values() for value in curve if value == value)
    assert len(state["metric"]) == 6
    assert not any(part._forward_hooks for part in ConvNet().modules())


def test_no_hook_and_no_wrapper_is_left_behind(tmp_path):
    module = net()
    fit(module, tmp_path, [StructuralGrowth(monitor="val_acc", min_epochs_between=1)], epochs=3)
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())
    assert "on_load_checkpoint" not in vars(module)


def test_growing_draws_no_random_number_of_the_training_s(tmp_path):
    growth = growing(new_units="gradmax", operations=["widen", "insert"])
    states = []
    for callbacks in ([growth], []):
        fit(net(), tmp_path, callbacks)
        states.append(torch.get_rng_state())
    assert torch.equal(*states)
    assert len(growth.history) == 3


# -- what follows ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["64-true", "bf16-true", "bf16-mixed"])
def test_new_parameters_have_the_dtype_of_the_old(precision, tmp_path):
    growth = growing(operations=["widen", "insert", "residual"], layers_per_step=2)
    trainer = fit(net(), tmp_path, [growth], precision=precision)
    dtype = {"64-true": torch.float64, "bf16-true": torch.bfloat16, "bf16-mixed": torch.float32}[precision]
    assert len(growth.history) == 6
    assert {p.dtype for p in trainer.lightning_module.parameters()} == {dtype}


def test_a_loss_scale_gradient_clipping_and_accumulation_go_on(tmp_path):
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8, growth_interval=4)
    growth = growing(operations=["widen", "insert"])
    options = {"gradient_clip_val": 0.5, "accumulate_grad_batches": 3}
    trainer = fit(net(), tmp_path, [growth], plugins=[MixedPrecision("16-mixed", "cpu", scaler)], **options)
    assert len(growth.history) == 3
    assert scaler.get_scale() > 2.0**8
    assert all(torch.isfinite(p).all() for p in trainer.lightning_module.parameters())


def test_channels_last_stays(tmp_path):
    module = net().to(memory_format=torch.channels_last)
    fit(module, tmp_path, [growing(operations=["widen"])], epochs=2)
    assert module.body[0].weight.shape[0] > 4
    assert module.body[0].weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("schedule", ["cosine", "onecycle", "plateau"])
def test_a_schedule_goes_on_as_if_nothing_had_grown(schedule, tmp_path):
    def rates(callbacks):
        trainer = fit(net(optimizer="sgd", schedule=schedule), tmp_path, callbacks, epochs=5)
        return [config.scheduler.get_last_lr() for config in trainer.lr_scheduler_configs]

    assert rates([growing()]) == rates([]) or schedule == "plateau"


@pytest.mark.parametrize("schedule", ["", "cosine", "onecycle", "plateau"])
def test_with_a_rate_of_their_own_new_parameters_follow_the_schedule_at_a_distance(schedule, tmp_path):
    growth = growing(operations=["insert", "residual"], rate=0.25)
    trainer = fit(net(optimizer="sgd", schedule=schedule), tmp_path, [growth], epochs=5)
    old, new = trainer.optimizers[0].param_groups
    assert new["lr"] == pytest.approx(old["lr"] * 0.25, rel=1e-6)
    assert len(new["params"]) > 4


@pytest.mark.parametrize("how", ["whole", "in place", "child"])
def test_a_compiled_network_is_compiled_again(how, tmp_path):
    torch.compiler.reset()
    module, compiled = net(), []

    def backend(graph, inputs):
        compiled.append(sorted({tuple(one.shape) for one in inputs if isinstance(one, nn.Parameter)}))
        return graph.forward

    if how == "child":
        module.body = torch.compile(module.body, backend=backend)
    elif how == "in place":
        module.compile(backend=backend)
        module.body.compile(backend=backend)
    else:
        module = torch.compile(module, backend=backend)
    growth = growing(operations=["widen", "insert"])
    options = {"epochs": 3, "limit_val_batches": 0}  # each structure is compiled in seconds, and once more to validate
    trainer = fit(module, tmp_path, [growth], **options)
    assert [one["operation"] for one in growth.history] == ["widen", "insert"]
    assert growth.history[0]["layer"] == "body.0"
    assert len(compiled) >= 3
    plain = net()
    fit(plain, tmp_path, [growing(operations=["widen", "insert"])], **options)
    for (name, one), other in zip(plain.named_parameters(), trainer.lightning_module.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-4), name
    torch.compiler.reset()


class Manual(ConvNet):
    """Two optimizers, stepped by hand."""

    def __init__(self, **hparams):
        super().__init__(**hparams)
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        loss = nn.functional.cross_entropy(self(batch[0]), batch[1])
        self.manual_backward(loss)
        for optimizer in self.optimizers():
            optimizer.step()
            optimizer.zero_grad()

    def configure_optimizers(self):
        parts = list(self.body[:4].parameters()), list(self.body[4:].parameters())
        return [torch.optim.Adam(parts[0]), torch.optim.SGD(parts[1], lr=0.1, momentum=0.9)]


def test_manual_optimization_and_several_optimizers_work(tmp_path):
    module, growth = net(Manual), growing(operations=["widen", "insert"], layers_per_step=2)
    trainer = fit(module, tmp_path, [growth])
    held = [[id(p) for group in one.param_groups for p in group["params"]] for one in trainer.optimizers]
    assert sorted([*held[0], *held[1]]) == sorted(id(p) for p in module.parameters())
    assert all(len(one) > 4 for one in held)


def test_frozen_layers_stay_frozen(tmp_path):
    class Frozen(ConvNet):
        def configure_optimizers(self):
            self.body[0].requires_grad_(False)
            return torch.optim.Adam([p for p in self.parameters() if p.requires_grad])

    module = net(Frozen)
    trainer = fit(module, tmp_path, [growing(operations=["widen"], layers=["body.0"])], epochs=3)
    assert module.body[0].weight.shape[0] > 4
    assert not module.body[0].weight.requires_grad
    assert all(p.requires_grad for p in trainer.optimizers[0].param_groups[0]["params"])


def test_cost_and_structure_are_told(tmp_path):
    meter, inheriting = CostMeter(), WeightInheritance()
    fit(net(), tmp_path, [meter, inheriting, growing(operations=["insert"])], epochs=3)
    assert any("conv" in name for name in inheriting.state_dict()["structure"]["layers"])
    assert meter.cost["training_flops"] != meter.cost["flops"] * 48 * 3


def test_metrics_of_the_module_are_not_touched_by_trying_growth_on_data(tmp_path):
    from torchmetrics import MeanMetric

    class Counts(ConvNet):
        def __init__(self):
            super().__init__()
            self.seen, self.steps = MeanMetric(), 0

        def training_step(self, batch, batch_idx):
            self.steps += 1
            self.seen.update(float(batch_idx))
            self.log("seen", self.seen, on_step=False, on_epoch=True)
            return super().training_step(batch, batch_idx)

    module, growth = net(Counts), growing(operations=["widen"], new_units="gradmax")
    trainer = fit(module, tmp_path, [growth], epochs=3)
    assert module.steps == 12
    assert trainer.callback_metrics["seen"] == 1.5


def test_a_module_that_makes_its_layers_late_grows(tmp_path):
    class Late(ConvNet):
        def __init__(self):
            super().__init__()
            self.made, self.body = self.body, None

        def configure_model(self):
            if self.body is None:
                self.body = self.made
                del self.made

    growth = growing(operations=["widen"], initial=[{"operation": "widen", "place": 0.0}])
    fit(net(Late), tmp_path, [growth], epochs=3)
    assert [one["source"] for one in growth.history] == ["initial", "trigger", "trigger"]


# -- steps before training ---------------------------------------------------------------------------------------------


def test_initial_steps_are_taken_before_optimizers_are_made(tmp_path):
    requests = [
        {"operation": "widen", "place": 0.0, "ratio": 2.0},
        {"operation": "insert", "layer": "body.8"},
        {"operation": "widen", "layer": "body.3", "settings": {"width": 7}},
    ]
    growth, module = growing(triggers=FixedInterval(99), initial=requests), net()
    trainer = fit(module, tmp_path, [growth], epochs=1)
    assert [(one["epoch"], one["source"]) for one in growth.history] == [(None, "initial")] * 3
    assert module.body[0].weight.shape[0] == 8
    assert len(trainer.optimizers[0].param_groups[0]["params"]) == len(list(module.parameters()))
    assert growth.history[0]["before"] == 475
    assert growth.history[-1]["after"] == count(module)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"operation": "widen", "place": 2.0}, r"initial\[1\]: place: 2.0 is not from 0 to 1"),
        ({"operation": "widen", "layer": "body.10"}, r"initial\[1\]: body.10: widen: its channels are outputs"),
        ({"operation": "wide", "place": 0.5}, r"initial\[1\]: operation: 'wide' is not one of"),
        ({"place": 0.5}, r"initial\[1\]: a step needs an operation"),
        ({"operation": "widen", "layer": "body.99"}, r"initial\[1\]: layer: there is no 'body.99'"),
    ],
)
def test_an_initial_step_that_cannot_be_taken_is_named_by_its_number(asked, message, tmp_path):
    growth = growing(initial=[{"operation": "widen", "place": 0.0}, asked])
    with pytest.raises(GrowthError, match=message):
        fit(net(), tmp_path, [growth])


def test_a_module_whose_initial_steps_are_refused_is_as_it_was_and_can_take_others(tmp_path):
    module, first = net(), {"operation": "widen", "place": 0.0}
    with pytest.raises(GrowthError, match=r"initial\[1\]: body.10: widen"):
        fit(module, tmp_path, [growing(initial=[first, {"operation": "widen", "layer": "body.10"}])])
    assert count(module) == count(net())
    assert not recipe_of(module).steps
    growth = growing(triggers=FixedInterval(99), initial=[first])
    fit(module, tmp_path, [growth], epochs=1)
    assert [one["source"] for one in growth.history] == ["initial"]


def test_ctrl_c_behind_a_step_that_is_not_yet_recorded_undoes_it(tmp_path):
    class Interrupted(StructuralGrowth):
        def grow(self, pl_module, *args, **options):
            super().grow(pl_module, *args, **options)
            raise KeyboardInterrupt

    module, growth = net(), Interrupted(FixedInterval(1), min_epochs_between=1)
    saving = lightning_callbacks.OnExceptionCheckpoint(tmp_path)
    with pytest.raises((SystemExit, KeyboardInterrupt)):
        fit(module, tmp_path, [growth, saving], enable_checkpointing=True)
    assert count(module) == count(net())
    assert not recipe_of(module).steps
    opened = load_grown(tmp_path / "on_exception.ckpt", ConvNet)
    assert all(torch.equal(value, opened.state_dict()[name]) for name, value in module.state_dict().items())


def context(checkpoint, **more):
    objective = (Objective("val_acc", "max"),)
    return SearchContext(5, 9, objective, parent=Inherited(2, str(checkpoint), 2), **more)


def test_a_child_begins_as_its_parent_had_grown_and_takes_its_own_step(tmp_path):
    requests = [{"operation": "widen", "place": 0.0, "ratio": 1.5}]
    parent = growing(initial=requests, operations=["insert"])
    trained = fit(net(), tmp_path, [parent, WeightInheritance()], epochs=3)
    trained.save_checkpoint(tmp_path / "parent.ckpt")

    class First(Callback):
        def on_train_start(self, trainer, pl_module):
            self.loss = float(trainer.callback_metrics.get("val_loss", 0))
            pl_module.eval()
            with torch.no_grad():
                losses = [nn.functional.cross_entropy(pl_module(x), y) for x, y in images(1)]
            pl_module.train()
            self.loss = float(torch.stack(losses).mean())

    child = growing(initial=[*requests, {"operation": "widen", "place": 0.9}], triggers=FixedInterval(99))
    inheriting, first = WeightInheritance(), First()
    for callback in (child, inheriting):
        callback.join_search(context(tmp_path / "parent.ckpt"))
    assert child.monitor == "val_acc"
    fit(net(), tmp_path, [child, inheriting, first], epochs=1)
    told = [(one["source"], one["operation"]) for one in child.history]
    assert told == [("parent", "widen"), ("parent", "insert"), ("parent", "insert"), ("initial", "widen")]
    assert inheriting.inheritance["preserving"]
    assert first.loss == pytest.approx(float(trained.callback_metrics["val_loss"]), rel=1e-4)


@pytest.mark.parametrize("continues_parent", [True, False])
def test_growth_and_inheritance_read_the_parents_checkpoint_once(continues_parent, tmp_path, monkeypatch):
    steps = [{"operation": "widen", "place": 0.0, "ratio": 1.5}]
    trained = fit(net(), tmp_path, [growing(initial=steps, operations=["insert"]), WeightInheritance()], epochs=1)
    trained.save_checkpoint(tmp_path / "parent.ckpt")
    child = growing(initial=[*(steps if continues_parent else []), {"operation": "widen", "place": 0.9}])
    inheriting = WeightInheritance()
    for callback in (child, inheriting):
        callback.join_search(context(tmp_path / "parent.ckpt"))
    reads, load = [], torch.load
    monkeypatch.setattr(torch, "load", lambda path, **arguments: (reads.append(path), load(path, **arguments))[1])
    fit(net(), tmp_path, [child, inheriting], epochs=1)
    assert [str(path) for path in reads] == [str(tmp_path / "parent.ckpt")]
    assert inheriting.inheritance["from"] == 2
    assert child._held is None


@pytest.mark.parametrize("optimizer", ["adam", "groups"])
def test_a_child_inherits_the_moments_of_what_its_parent_grew_in_training_by_name(optimizer, tmp_path):
    parent = growing(operations=["insert", "widen"])
    trained = fit(net(optimizer=optimizer), tmp_path, [parent, WeightInheritance()], epochs=3)
    trained.save_checkpoint(tmp_path / "parent.ckpt")
    theirs = moments(trained)
    # What was inserted is the last of its group in the parent's optimizer, somewhere in the middle of the child's.
    order = {id(p): at for at, p in enumerate(trained.lightning_module.parameters())}
    assert any(
        [order[id(p)] for p in g["params"]] != sorted(order[id(p)] for p in g["params"]) for g in groups(trained)
    )

    class First(Callback):
        def on_train_start(self, trainer, pl_module):
            self.moments = moments(trainer)

    child, inheriting, first = growing(triggers=FixedInterval(99)), WeightInheritance(optimizer=True), First()
    for callback in (child, inheriting):
        callback.join_search(context(tmp_path / "parent.ckpt"))
    fit(net(optimizer=optimizer), tmp_path, [child, inheriting, first], epochs=1)
    assert inheriting.inheritance["optimizer"] == "kept"
    assert first.moments.keys() == theirs.keys()
    assert all(torch.equal(first.moments[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("grown", [False, True], ids=["first step", "further step"])
@pytest.mark.parametrize("place", [0.0, 0.3, 0.7, 1.0])
@pytest.mark.parametrize("operation", ["widen", "insert", "residual"])
def test_every_step_of_a_child_preserves_what_its_trained_parent_computes(operation, place, grown, tmp_path):
    callbacks = [growing(operations=["widen", "insert"])] if grown else []
    trained = fit(net(), tmp_path, [*callbacks, WeightInheritance()], epochs=3)
    trained.save_checkpoint(tmp_path / "parent.ckpt")
    parent, points = trained.lightning_module.eval(), images(1).dataset.tensors[0]
    theirs = moments(trained)

    class First(Callback):
        def on_train_start(self, trainer, pl_module):
            with torch.no_grad():
                self.scores = pl_module.eval()(points)
            pl_module.train()
            self.moments = moments(trainer)

    child, first = growing(initial=[{"operation": operation, "place": place}], triggers=FixedInterval(99)), First()
    inheriting = WeightInheritance(optimizer=True)
    for callback in (child, inheriting):
        callback.join_search(context(tmp_path / "parent.ckpt"))
    module = fit(net(), tmp_path, [child, inheriting, first], epochs=1).lightning_module
    assert sum(p.numel() for p in module.parameters()) > sum(p.numel() for p in parent.parameters())
    with torch.no_grad():
        assert torch.allclose(first.scores, parent(points), atol=1e-5)
    said = inheriting.inheritance
    assert said["preserving"], said["why_not"]
    assert said["optimizer"] == "kept"
    names = [*said["copied"], *said["sliced"], *said["identity"], *said["fresh"]]
    assert sorted(names) == sorted(module.state_dict())
    assert not said["fresh"]
    assert first.moments.keys() == {*said["copied"], *said["sliced"]} & dict(module.named_parameters()).keys()
    # What stayed as it was has its own moments; two of the parent's are never equal.
    found = {
        name
        for name, moment in theirs.items()
        for n in said["copied"]
        if torch.equal(first.moments.get(n, moment[:0]), moment)
    }
    assert len(found) == len(first.moments.keys() & set(said["copied"])) > 0


def groups(trainer):
    return trainer.optimizers[0].param_groups


def moments(trainer):
    """Adam's first moment of each parameter, by name."""
    state = trainer.optimizers[0].state
    return {n: state[p]["exp_avg"].clone() for n, p in trainer.lightning_module.named_parameters() if p in state}


@pytest.mark.parametrize("why", ["no inheritance", "other requests", "damaged", "gone"])
def test_a_parent_whose_growth_is_not_the_child_s_is_left_alone(why, tmp_path):
    path = tmp_path / "parent.ckpt"
    fit(net(), tmp_path, [growing(initial=[{"operation": "widen", "place": 0.0}])], epochs=2).save_checkpoint(path)
    if why == "damaged":
        path.write_bytes(path.read_bytes()[:200])
    if why == "gone":
        path.unlink()
    requests = (
        [{"operation": "insert", "place": 0.0}] if why == "other requests" else [{"operation": "widen", "place": 0.0}]
    )
    child = growing(initial=requests, triggers=FixedInterval(99))
    callbacks = [child] + ([] if why == "no inheritance" else [WeightInheritance()])
    for callback in callbacks:
        callback.join_search(context(path))
    fit(net(), tmp_path, callbacks, epochs=1)
    assert [one["source"] for one in child.history] == ["initial"]


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"operations": ["wide"]},
            "operations: 'wide' is not one of insert, widen, residual, prune, kernel, activation",
        ),
        ({"operations": []}, r"operations: \[\] is not a list of one operation or more"),
        ({"operations": "widen"}, "operations: 'widen' is not a list"),
        ({"layers": "body.0"}, "layers: 'body.0' is not a list of one layer's name or more"),
        ({"expand_ratio": 0}, "expand_ratio: 0 is not above 0"),
        ({"expand_ratio": float("nan")}, "expand_ratio: nan is not above 0"),
        ({"rate": -1.0}, "rate: -1.0 is not above 0"),
        ({"min_epochs_between": 0}, "min_epochs_between: 0 is not an integer of at least 1"),
        ({"layers_per_step": 1.5}, "layers_per_step: 1.5 is not an integer of at least 1"),
        ({"entropy_batches": 0}, "entropy_batches: 0 is not an integer of at least 1"),
        ({"new_units": "random"}, "new_units: 'random' is not one of zero, net2wider, gradmax"),
        ({"mode": "up"}, "mode: 'up' is not one of max, min"),
        ({"entropy": "shannon"}, "entropy: 'shannon' is not one of covariance, histogram"),
        ({"spread": 1.0}, r"spread: 1.0 is not in \[0, 1\)"),
        ({"max_parameters": 0}, "max_parameters: 0 is not an integer of at least 1"),
    ],
)
def test_arguments_out_of_range_are_named(arguments, message):
    with pytest.raises(GrowthError, match=message):
        StructuralGrowth(**arguments)


class Lookahead(torch.optim.SGD):
    """Has another optimizer do the work."""

    def __init__(self, parameters):
        super().__init__(parameters, lr=0.1)
        self.inner = torch.optim.Adam(self.param_groups)


class OwnSchedule(lr_scheduler.LambdaLR):
    """A user's."""


def optimized_by(make):
    class Own(ConvNet):
        def configure_optimizers(self):
            return make(self.parameters())

    return lambda: net(Own)


def scheduled(parameters):
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    return [optimizer], [OwnSchedule(optimizer, lambda epoch: 1.0)]


class Tied(LightningModule):
    """Has no layer that could grow."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, points):
        return self.layer(points)

    def training_step(self, batch, batch_idx):
        return self(batch[0].flatten(1)[:, :3]).mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


REFUSED = {
    "a layer that isn't there": (
        {"layers": ["body.30"]},
        None,
        (),
        r"layers: 'body.30' is not a layer of the network; there are body.3, body.0",
    ),
    "a layer without weights": (
        {"layers": ["body.5"]},
        None,
        (),
        "layers: 'body.5' holds no layer that can grow itself",
    ),
    "an operation that no layer offers": (
        {"operations": ["widen", "kernel"], "layers": ["body.8"]},
        None,
        (),
        "operations: 'kernel' can be done to no layer: body.8: ",
    ),
    "nothing to widen": (
        {"operations": ["widen"]},
        lambda: net(Tied),
        (),
        "operations: 'widen' can be done to no layer",
    ),
    "too few parameters": (
        {"max_parameters": 474},
        None,
        (),
        "max_parameters: 474 is below the 475 parameters that the network has",
    ),
    "LBFGS": (
        {},
        optimized_by(torch.optim.LBFGS),
        (),
        "can't be extended by new parameters: LBFGS keeps its parameters",
    ),
    "an optimizer in another": ({}, optimized_by(Lookahead), (), "Lookahead holds another optimizer, in inner"),
    "no optimizer": (
        {},
        optimized_by(lambda parameters: None),
        (),
        "configure_optimizers gave no optimizer that holds a parameter of the network",
    ),
    "a schedule bound to its groups": (
        {"rate": 0.5},
        optimized_by(scheduled),
        (),
        "rate: 0.5 puts new parameters in groups of their own, but the scheduler can't have more: OwnSchedule may be bound",
    ),
    "no metric for a trigger": (
        {"triggers": Plateau()},
        None,
        (),
        "monitor: null, but Plateau needs it; name a metric",
    ),
    "no training metric": (
        {"triggers": [FixedInterval(1), Gap()], "monitor": "val_acc"},
        None,
        (),
        "monitor_train: null, but Gap needs it",
    ),
    "stochastic weight averaging": (
        {},
        None,
        (lambda: StochasticWeightAveraging(0.1),),
        "StochasticWeightAveraging can't",
    ),
    "pruning": ({}, None, (lambda: ModelPruning("l1_unstructured"),), "ModelPruning can't follow a network that grows"),
    "fine-tuning": ({}, None, (lightning_callbacks.BackboneFinetuning,), "BackboneFinetuning can't follow"),
    "a swarm": (
        {},
        lambda: net(ConvNet),
        (lambda: SwarmAveraging("papa"),),
        "a swarm of one particle|SwarmAveraging can't",
    ),
    "a schedule of hyperparameters": (
        {},
        None,
        (lambda: HyperparameterSchedule({1: {"model.init_args.dropout": 0.1}}),),
        "HyperparameterSchedule can't follow",
    ),
    "a stack": (
        {},
        lambda: ParticleStack(ConvNet, size=2),
        (),
        "the particles of a ParticleStack are of one architecture",
    ),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_follow_is_refused_before_training(case, tmp_path):
    settings, make, callbacks, message = REFUSED[case]
    steps = []

    class Steps(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            steps.append(batch_idx)

    made = [callback() for callback in callbacks]
    if case == "fine-tuning":
        ConvNet.backbone = property(lambda self: self.body[0])
    try:
        with pytest.raises(ValueError, match=message):
            fit((make or net)(), tmp_path, [Steps(), growing(**settings), *made])
    finally:
        vars(ConvNet).get("backbone") and delattr(ConvNet, "backbone")
    assert steps == []


@pytest.mark.skipif(not hasattr(lightning_callbacks, "WeightAveraging"), reason="this Lightning has none")
def test_a_moving_average_of_the_weights_is_refused(tmp_path):
    with pytest.raises(GrowthError, match="EMAWeightAveraging can't follow a network that grows: it keeps an average"):
        fit(net(), tmp_path, [growing(), lightning_callbacks.EMAWeightAveraging()])


def test_a_callback_that_wants_to_be_told_is_not_refused(tmp_path):
    class Told(lightning_callbacks.BaseFinetuning):
        steps = 0

        def freeze_before_training(self, pl_module): ...

        def finetune_function(self, pl_module, epoch, optimizer): ...

        def on_structure_change(self, trainer, pl_module, growth):
            self.steps += 1

    told = Told()
    fit(net(), tmp_path, [growing(), told], epochs=3)
    assert told.steps == 2


def test_another_strategy_is_refused(tmp_path):
    from lightning.pytorch.strategies import SingleDeviceStrategy

    class Sharded(SingleDeviceStrategy):
        pass

    with pytest.raises(
        GrowthError, match=r"trainer.strategy Sharded can't be wrapped around a network that has changed"
    ):
        fit(net(), tmp_path, [growing()], strategy=Sharded(torch.device("cpu")))


def test_a_metric_that_is_never_logged_ends_the_first_epoch(tmp_path):
    growth = StructuralGrowth(Plateau(), monitor="val_accuracy")
    with pytest.raises(
        GrowthError, match=r"monitor: 'val_accuracy' was never logged; the module logs .*val_acc, val_loss"
    ):
        fit(net(), tmp_path, [growth])


def test_validation_every_second_epoch_is_waited_for(tmp_path):
    growth = growing(triggers=[FixedInterval(9), Plateau()], monitor="val_acc")
    fit(net(), tmp_path, [growth], epochs=4, check_val_every_n_epoch=2)
    metric = growth.state_dict()["records"]["metric"]
    assert [value == value for value in metric] == [False, True, False, True]


# -- at random ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
def test_random_growth_goes_on_learning(seed, tmp_path):
    generator = torch.Generator().manual_seed(seed)
    every = ["widen", "insert", "residual", "kernel"]
    order = [every[i] for i in torch.randperm(4, generator=generator)]
    kinds = ["adam", "sgd", "groups"]
    growth = growing(
        operations=order,
        layers_per_step=1 + seed % 2,
        new_units=["net2wider", "zero", "gradmax"][seed % 3],
        seed=seed,
    )
    trainer = fit(net(optimizer=kinds[seed % 3]), tmp_path, [growth], epochs=7)
    assert len(growth.history) >= 5
    assert all(one["preserving"] for one in growth.history)
    assert float(trainer.callback_metrics["train_loss"]) < 0.6
    assert len(recipe_of(trainer.lightning_module).steps) == len(growth.history)


def test_a_trainer_s_test_after_fit_uses_the_grown_network(tmp_path):
    module = net()
    trainer = fit(module, tmp_path, [growing()])
    (metrics,) = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False).test(
        module, images(1), verbose=False
    )
    assert metrics["test_loss"] == pytest.approx(float(trainer.callback_metrics["val_loss"]), rel=1e-5)
