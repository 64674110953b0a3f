"""SwarmAveraging does to a stack's particles what its rules say, and leaves everything else alone."""

from __future__ import annotations

import math

import pytest
import torch
from averaging_training import Net, data, fit, stacked, swarm, trainer_of, weights
from comparing import same
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.callbacks import EarlyStopping
from torch.optim.swa_utils import update_bn
from torch.utils.data import DataLoader, IterableDataset

from lightning_evo.callbacks import SwarmAveraging
from lightning_evo.callbacks.search import SearchContext
from lightning_evo.functional import combine, mixing
from lightning_evo.genome import Objective
from lightning_evo.swarms import ParticleStack, SwarmError
from lightning_evo.swarms.exchange import Exchange
from lightning_evo.swarms.swarm import architecture_of
from toys import ToyData, ToyNet

# -- methods -----------------------------------------------------------------------------------------------------------


def test_apso_pulls_a_random_part_to_its_best_by_current_loss(tmp_path):
    averaging = SwarmAveraging("apso", subset=3, alpha=0.25, every_n_steps=2, seed=3)
    _, events = fit(swarm(5), averaging, tmp_path, epochs=2)
    assert [step for step, *_ in events] == [2, 4, 6, 8]
    parts = set()
    for _, before, after, losses in events:
        moved = [at for at in range(5) if not same(before[at], after[at])]
        assert len(moved) == 2
        best = [at for at in range(5) if at not in moved and all(losses[at] <= losses[one] for one in moved)]
        expected = [mixing.apso(losses, sorted([*moved, one]), 0.25) for one in best]
        mixed = [combine(stacked(before), matrix) for matrix in expected]
        assert any(all(torch.equal(m[name], t) for name, t in stacked(after).items()) for m in mixed)
        parts.add(tuple(moved))
    assert len(parts) > 1


def test_apso_by_default_is_what_reference_002_does_with_all_its_particles(tmp_path):
    averaging = SwarmAveraging(every_n_steps=4)
    _, [(_, before, after, losses)] = fit(swarm(3), averaging, tmp_path)
    best = int(losses.argmin())
    for one in range(3):
        for name in before[one]:
            expected = 0.5 * before[one][name] + 0.5 * before[best][name]
            torch.testing.assert_close(after[one][name], expected)


def test_it_does_the_same_however_the_stack_computes(tmp_path):
    done = []
    for lowering in ("loop", "stack"):
        stack = swarm(4, norm=True, lowering=lowering)
        averaging = SwarmAveraging(subset=2, every_n_steps=2, optimizer_state="averaged", soup="greedy")
        fit(stack, averaging, tmp_path, epochs=2)
        assert stack.lowering == lowering
        done.append((stacked(weights(stack)), averaging.souped["ingredients"]))
    assert done[0][1] == done[1][1]
    for name, tensor in done[0][0].items():
        torch.testing.assert_close(tensor, done[1][0][name], atol=1e-4, rtol=1e-4)


def test_the_pull_of_papa_falls_with_each_particles_learning_rate(tmp_path):
    seed_everything(0)
    stack = ParticleStack([Net(decay=1.0), Net(decay=0.5), Net(decay=0.1)], lowering="loop")
    averaging = SwarmAveraging("papa", alpha=0.4, every_n_epochs=1)
    trainer, events = fit(stack, averaging, tmp_path, epochs=2)
    # Lightning steps epoch-wise schedulers before callbacks learn of the epoch's last batch.
    for (_, before, after, _), alphas in zip(events, ([0.4, 0.2, 0.04], [0.4, 0.1, 0.004]), strict=True):
        mixed = combine(stacked(before), mixing.papa(3, range(3), torch.tensor(alphas, dtype=torch.float64)))
        for name, tensor in stacked(after).items():
            torch.testing.assert_close(tensor, mixed[name])
    assert trainer.callback_metrics["swarm_alpha"].item() == pytest.approx(0.504 / 3)
    assert trainer.callback_metrics["swarm_averagings"].item() == 2


def test_papa_all_replaces_all_by_their_mean_before_the_epochs_validation(tmp_path):
    averaging = SwarmAveraging("papa_all", every_n_epochs=2)
    trainer, [(step, before, after, _)] = fit(swarm(3), averaging, tmp_path, epochs=2)
    assert step == 8
    for name, tensor in stacked(before).items():
        for row in after:
            torch.testing.assert_close(row[name], tensor.mean(0))
    losses = {trainer.callback_metrics[f"val_loss/particle_{one}"].item() for one in range(3)}
    assert max(losses) - min(losses) < 1e-6


def test_papa_pairs_makes_each_the_mean_of_two(tmp_path):
    averaging = SwarmAveraging("papa_pairs", every_n_steps=4)
    _, [(_, before, after, _)] = fit(swarm(4), averaging, tmp_path)
    flat = [torch.cat([tensor.flatten() for tensor in row.values()]) for row in before]
    for row in after:
        now = torch.cat([tensor.flatten() for tensor in row.values()])
        assert (
            sum(
                torch.allclose(now, (flat[one] + flat[other]) / 2, atol=1e-6)
                for one in range(4)
                for other in range(one)
            )
            == 1
        )


def test_pso_flies_towards_the_best_places_and_keeps_its_velocity(tmp_path):
    averaging = SwarmAveraging("pso", every_n_steps=2, inertia=0.5, cognitive=0.0, social=0.0)
    stack = swarm(3, norm=True)
    _, events = fit(stack, averaging, tmp_path)
    assert all(same(one, other) for one, other in zip(events[0][1], events[0][2], strict=True))  # no velocity yet

    averaging = SwarmAveraging("pso", every_n_steps=2, inertia=0.0, cognitive=0.0, social=1.0)
    _, [(_, before, after, losses), *_] = fit(swarm(3, norm=True), averaging, tmp_path)
    best = int(losses.argmin())
    assert same(before[best], after[best])
    for one in {0, 1, 2} - {best}:
        for name, tensor in after[one].items():
            low, high = (
                torch.minimum(before[one][name], before[best][name]),
                torch.maximum(before[one][name], before[best][name]),
            )
            statistic = "running" in name or "num_batches" in name
            assert (
                torch.equal(tensor, before[one][name])
                if statistic
                else ((tensor >= low - 1e-6) & (tensor <= high + 1e-6)).all()
            )


def test_a_particle_that_has_diverged_is_no_part_of_a_mean_and_nobodys_best(tmp_path):
    for method in ("papa_all", "apso"):
        stack = swarm(3)
        with torch.no_grad():
            stack.particles[1].net[0].weight.fill_(math.nan)
        averaging = SwarmAveraging(method, every_n_steps=4)
        _, [(_, before, after, _)] = fit(stack, averaging, tmp_path)
        for one in (0, 2):
            assert all(tensor.isfinite().all() for tensor in after[one].values())
        if method == "papa_all":
            torch.testing.assert_close(after[0]["net.0.bias"], (before[0]["net.0.bias"] + before[2]["net.0.bias"]) / 2)


def test_steps_are_those_of_the_optimizer(tmp_path):
    averaging = SwarmAveraging("apso", every_n_steps=1)
    fit(swarm(2), averaging, tmp_path, accumulate_grad_batches=2)
    assert averaging.averagings == 2


def test_a_common_start_is_the_first_particles(tmp_path):
    stack = swarm(3, lr=0.0)
    first = weights(stack)[0]
    fit(stack, SwarmAveraging(every_n_epochs=2, common_start=True), tmp_path)
    assert all(same(row, first) for row in weights(stack))


# -- batch statistics and optimizer states -----------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "rule"), [("apso", "averaged"), ("papa_all", "reestimated"), ("papa_pairs", None)])
def test_batch_statistics_are_averaged_reestimated_or_own(method, rule, tmp_path):
    options = {"every_n_steps": 4, **({"batchnorm": "own"} if rule is None else {})}
    averaging = SwarmAveraging(method, batchnorm_batches=100, **options)
    _, [(_, before, after, losses)] = fit(swarm(2, norm=True), averaging, tmp_path)
    names = [name for name in after[0] if "running" in name]
    if rule is None:
        assert all(torch.equal(before[one][name], after[one][name]) for one in range(2) for name in names)
    elif rule == "averaged":
        mixed = combine(stacked(before), mixing.apso(losses, [0, 1], 0.5))
        assert all(torch.equal(mixed[name], tensor) for name, tensor in stacked(after).items())
    else:
        net = Net(norm=True)
        net.load_state_dict(after[0])
        update_bn(data(), net)
        # 32 images in batches of 8, whatever their order: the means over batches agree, the variances nearly.
        torch.testing.assert_close(net.net[1].running_mean, after[0]["net.1.running_mean"])
        torch.testing.assert_close(net.net[1].running_var, after[0]["net.1.running_var"], atol=0.05, rtol=0.2)
        assert after[0]["net.1.num_batches_tracked"].item() == 4


def test_reestimating_leaves_frozen_layers_and_modes_alone(tmp_path):
    stack = swarm(2, norm=True)
    frozen = {}

    class Freeze(Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            for one in pl_module.particles:
                one.net[1].eval()

        def on_train_batch_end(self, trainer, pl_module, *args):
            frozen["modes"] = [one.net[1].training for one in pl_module.particles]

    _, [(_, before, after, _)] = fit(
        stack, SwarmAveraging("papa_all", every_n_steps=4, batchnorm="reestimated"), tmp_path, callbacks=[Freeze()]
    )
    assert frozen["modes"] == [False, False]
    torch.testing.assert_close(after[0]["net.1.running_mean"], stacked(before)["net.1.running_mean"].mean(0))


class Stream(IterableDataset):
    def __iter__(self):
        yield from data().dataset


def test_a_stream_cannot_be_reestimated_on_which_is_an_error_only_if_asked_for(tmp_path):
    loader = DataLoader(Stream(), batch_size=8)
    with pytest.raises(SwarmError, match=r"batchnorm: reestimated needs .* a stream \(Stream\)"):
        fit(swarm(2, norm=True), SwarmAveraging("papa_all", batchnorm="reestimated"), tmp_path, loader=loader)
    with pytest.warns(UserWarning, match="batch statistics are averaged instead"):
        fit(swarm(2, norm=True), SwarmAveraging("papa_all", every_n_steps=4), tmp_path, loader=loader)


@pytest.mark.parametrize("state", ["own", "reset", "averaged"])
def test_optimizer_states_are_own_reset_or_averaged(state, tmp_path):
    seen = []

    class Look(Callback):
        def on_train_batch_end(self, trainer, pl_module, *args):
            optimizers = trainer.optimizers[0].optimizers
            seen.append(
                [
                    one.state.get(module.net[0].bias, {}).get("exp_avg", torch.zeros(4)).clone()
                    for one, module in zip(optimizers, pl_module.particles, strict=True)
                ]
            )

    averaging = SwarmAveraging("papa_all", every_n_steps=4, optimizer_state=state)
    trainer = trainer_of(tmp_path, Look(), averaging, Look())
    trainer.fit(swarm(2, adam=True), data())
    before, after = seen[-2:]
    if state == "averaged":
        assert not torch.equal(before[0], before[1])
        assert torch.allclose(after[0], (before[0] + before[1]) / 2)
    elif state == "reset":
        assert all(moment.eq(0).all() for moment in after)
    else:
        assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


# -- validation and soups ----------------------------------------------------------------------------------------------


def opposites(**options):
    """Two good networks whose mean is a bad one: the same function, with hidden units of the opposite sign."""
    seed_everything(0)
    one = Net(lr=0.05, **options)
    trainer_of(None, epochs=30).fit(one, data(64))
    other = Net(lr=0.0, **options)
    other.load_state_dict(
        {name: -tensor if name != "net.3.bias" else tensor for name, tensor in one.state_dict().items()}
    )
    one.hparams.lr = 0.0
    one.hparams.initial = None
    return ParticleStack([one, other], lowering="loop")


def test_an_average_that_validates_worse_is_taken_back_where_asked(tmp_path):
    stack = opposites()
    before = weights(stack)
    averaging = SwarmAveraging("papa_all", every_n_steps=2, keep="if_not_worse")
    fit(stack, averaging, tmp_path)
    assert averaging.averagings == 2
    assert averaging.rejected == 4
    assert all(same(one, other) for one, other in zip(before, weights(stack), strict=True))
    fit(stack, SwarmAveraging("papa_all", every_n_steps=2), tmp_path)
    assert not same(before[0], weights(stack)[0])


def near(size=3, spread=0.01, **options):
    """Networks around one another: their mean is as good as they."""
    seed_everything(1)
    centre = Net(lr=0.05, **options)
    trainer_of(None, epochs=10).fit(centre, data(64))
    nets = []
    for _ in range(size):
        net = Net(lr=0.0, **options)
        net.load_state_dict(
            {
                n: t + spread * torch.randn_like(t) if t.is_floating_point() else t
                for n, t in centre.state_dict().items()
            }
        )
        nets.append(net)
    return ParticleStack(nets, lowering="loop")


@pytest.mark.parametrize("kind", ["uniform", "greedy"])
def test_a_soup_that_is_no_worse_replaces_the_best_particle_and_is_written(kind, tmp_path):
    stack = near(spread=0.1)
    before = weights(stack)
    averaging = SwarmAveraging(None, soup=kind)
    trainer, _ = fit(stack, averaging, tmp_path)
    made = averaging.souped
    assert made["kind"] == kind
    assert made["kept"]
    assert made["value"] <= made["best"]
    best = made["into"]
    mean = {name: torch.stack([before[one][name] for one in made["ingredients"]]).mean(0) for name in before[0]}
    for one in range(3):
        for name, tensor in weights(stack)[one].items():
            torch.testing.assert_close(tensor, mean[name] if one == best else before[one][name])
    # The last validation has measured it.
    assert trainer.callback_metrics[f"val_loss/particle_{best}"].item() == pytest.approx(made["value"], rel=1e-5)
    alone = Net.load_from_checkpoint(tmp_path / "soup.ckpt")
    assert same(alone.state_dict(), weights(stack)[best])
    assert averaging.extra["averaging"]["soup"] == made


@pytest.mark.parametrize("kind", ["uniform", "greedy"])
def test_a_soup_that_is_worse_leaves_everything_as_it_was(kind, tmp_path):
    stack = opposites()
    before = weights(stack)
    averaging = SwarmAveraging(None, soup=kind)
    fit(stack, averaging, tmp_path)
    assert not averaging.souped["kept"]
    assert averaging.souped["ingredients"] == [averaging.souped["into"]]
    assert all(same(one, other) for one, other in zip(before, weights(stack), strict=True))
    assert not (tmp_path / "soup.ckpt").exists()
    fit(stack, SwarmAveraging(None, soup="uniform", keep="always"), tmp_path)
    assert (tmp_path / "soup.ckpt").exists()


def test_a_greedy_soup_leaves_out_what_spoils_it(tmp_path):
    stack = near(4, spread=0.1)
    with torch.no_grad():
        stack.particles[1].net[0].weight.mul_(-1)
    averaging = SwarmAveraging(None, soup="greedy")
    fit(stack, averaging, tmp_path)
    assert 1 not in averaging.souped["ingredients"]
    assert averaging.souped["kept"]


def test_a_soup_goes_by_the_metric_and_mode_given_or_the_searchs_objective(tmp_path):
    seen = []
    for searching in (False, True):
        averaging = SwarmAveraging(
            None, soup="greedy", **({} if searching else {"monitor": "val_score", "mode": "max"})
        )
        if searching:
            objectives = (Objective("cost/params", "min"), Objective("val_score", "max"))
            averaging.join_search(SearchContext(candidate=0, seed=0, objectives=objectives))
        fit(near(spread=0.1), averaging, tmp_path)
        seen.append(averaging.souped)
    assert seen[0] == seen[1]
    assert seen[0]["value"] >= seen[0]["best"]
    assert seen[0]["best"] < 0


def test_a_soup_is_made_at_the_end_where_nobody_knew_it_before(tmp_path):
    stack = near()
    averaging = SwarmAveraging(None, soup="uniform", keep="always")
    stopping = EarlyStopping("val_loss", patience=1, min_delta=10.0)
    trainer, _ = fit(stack, averaging, tmp_path, epochs=50, callbacks=[stopping])
    assert trainer.current_epoch < 10
    assert averaging.souped["kept"]
    assert (tmp_path / "soup.ckpt").exists()


def test_a_soups_batch_statistics_are_estimated_anew(tmp_path):
    stack = near(2, norm=True)
    averaging = SwarmAveraging(None, soup="uniform", keep="always", batchnorm_batches=3)
    fit(stack, averaging, tmp_path)
    assert weights(stack)[averaging.souped["into"]]["net.1.num_batches_tracked"].item() == 3


def test_a_second_training_begins_anew(tmp_path):
    averaging = SwarmAveraging("pso", every_n_steps=2, soup="uniform", keep="always")
    done = []
    for _ in range(2):
        stack = swarm(3)
        fit(stack, averaging, tmp_path)
        done.append((averaging.extra, weights(stack)))
    assert done[0][0] == done[1][0]
    assert all(same(one, other) for one, other in zip(done[0][1], done[1][1], strict=True))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("method", ["apso", "pso", "papa", "papa_all"])
def test_it_works_on_a_gpu(method, tmp_path):
    stack = swarm(3, norm=True, adam=True)
    averaging = SwarmAveraging(method, every_n_steps=2, soup="greedy", keep="if_not_worse")
    trainer = Trainer(max_epochs=2, accelerator="gpu", devices=1, callbacks=[averaging], default_root_dir=tmp_path)
    trainer.fit(stack, data(), data(seed=1))
    assert averaging.averagings == 4
    assert all(tensor.is_cuda and tensor.isfinite().all() for row in weights(stack) for tensor in row.values())


# -- what can be overridden --------------------------------------------------------------------------------------------


class Own(SwarmAveraging):
    """At steps 1 and 3, the first two, who swap."""

    def should_average(self, step=None, epoch=None):
        return step in (1, 3)

    def choose_members(self, losses, generator):
        return [0, 1]

    def blend(self, losses, members, alphas, generator):
        matrix = torch.eye(len(losses), dtype=torch.float64)
        return matrix[[1, 0, *range(2, len(losses))]]


def test_decisions_can_be_overridden(tmp_path):
    _, events = fit(swarm(3), Own(), tmp_path)
    assert [step for step, *_ in events] == [1, 3]
    for _, before, after, _ in events:
        assert same(after[0], before[1])
        assert same(after[1], before[0])
        assert same(after[2], before[2])


# -- candidates that meet ----------------------------------------------------------------------------------------------


def candidate(directory, net, averaging, ancestry="3", **options):
    objectives = (Objective("val_loss", "min"),)
    averaging.join_search(
        SearchContext(
            candidate=7, seed=0, objectives=objectives, exchange=str(directory / "exchange"), ancestry=ancestry
        )
    )
    trainer = trainer_of(directory, averaging, **options)
    trainer.fit(net, data(), data(seed=1))
    return trainer


def published(directory, net, name="000002", loss=0.0, ancestry="3"):
    """Another candidate that trains now, and what it last published."""
    peer = Exchange(directory / "exchange", name, architecture_of(net), ancestry)
    assert peer.publish([loss], {key: tensor.unsqueeze(0) for key, tensor in net.state_dict().items()})
    return peer


def test_candidates_average_with_those_that_train_at_the_same_time(tmp_path):
    seed_everything(0)
    own, other, stranger = Net(lr=0.0), Net(), Net()
    before = {name: tensor.clone() for name, tensor in own.state_dict().items()}
    peers = [published(tmp_path, other), published(tmp_path, stranger, "000003", ancestry="4")]
    averaging = SwarmAveraging("papa_all", every_n_epochs=1)
    candidate(tmp_path, own, averaging)
    for name, tensor in own.state_dict().items():
        torch.testing.assert_close(tensor, (before[name] + other.state_dict()[name]) / 2)
    assert averaging.extra["averaging"]["size"] == 2
    # It has left; the others are still there.
    assert [path.stem for path in sorted((tmp_path / "exchange").iterdir())] == [peer.name for peer in peers]


def test_a_candidate_that_meets_nobody_trains_on_alone(tmp_path):
    seed_everything(0)
    own = Net(lr=0.0)
    before = {name: tensor.clone() for name, tensor in own.state_dict().items()}
    averaging = SwarmAveraging("papa", subset=2, every_n_steps=1)
    candidate(tmp_path, own, averaging)
    assert averaging.averagings == 0
    assert same(own.state_dict(), before)


@pytest.mark.parametrize(
    "options", [{"method": "pso"}, {"soup": "greedy"}, {"optimizer_state": "averaged"}, {"common_start": True}]
)
def test_what_needs_more_than_weights_is_refused_to_candidates_that_meet(options, tmp_path):
    (name, value), *_ = options.items()
    with pytest.raises(SwarmError, match=f"{name}: {value} needs all particles in one training"):
        candidate(tmp_path, Net(), SwarmAveraging(**options))


# -- bad input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"method": "genetic"},
            "method: 'genetic' is not one of 'apso', 'pso', 'papa', 'papa_all', 'papa_pairs', None",
        ),
        ({"method": None}, "set one of them"),
        ({"alpha": 0.0}, "alpha: 0.0 is not above 0 and below 1"),
        ({"alpha": 1.0}, "alpha: 1.0 is not above 0 and below 1"),
        ({"alpha": math.nan}, "alpha: nan is not above 0 and below 1"),
        ({"method": "papa_all", "alpha": 0.5}, "alpha: 0.5 has no meaning for papa_all, only for apso and papa"),
        ({"method": "papa", "alpha": -1}, "alpha: -1 is not above 0 and below 1"),
        ({"subset": 1}, "subset: 1 is not at least 2"),
        ({"method": None, "soup": "greedy", "subset": 3}, "subset: 3 has no effect without a method"),
        ({"every_n_steps": 2, "every_n_epochs": 1}, "are both set; set one"),
        ({"every_n_steps": 0}, "every_n_steps: 0 is not at least 1"),
        ({"every_n_epochs": -1}, "every_n_epochs: -1 is not at least 1"),
        ({"soup": "tomato"}, "soup: 'tomato' is not one of"),
        ({"keep": "sometimes"}, "keep: 'sometimes' is not one of"),
        ({"optimizer_state": "lost"}, "optimizer_state: 'lost' is not one of"),
        ({"batchnorm": "frozen"}, "batchnorm: 'frozen' is not one of"),
        ({"mode": "mean"}, "mode: 'mean' is not one of 'min', 'max'"),
        ({"method": "pso", "inertia": 1.0}, r"inertia: 1.0 is not in \[0, 1\)"),
        ({"method": "pso", "social": -0.5}, "social: -0.5 is not at least 0"),
        ({"method": "pso", "optimizer_state": "averaged"}, "optimizer_state: averaged has no meaning for pso"),
        ({"batchnorm_batches": 0}, "batchnorm_batches: 0 is not at least 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options, said):
    with pytest.raises(ValueError, match=said.replace("(", r"\(").replace(".", r"\.")):
        SwarmAveraging(**options)


def test_a_swarm_of_one_is_refused_before_training(tmp_path):
    with pytest.raises(SwarmError, match="a swarm of one particle has no other to average with"):
        trainer_of(tmp_path, SwarmAveraging()).fit(ToyNet(), ToyData())


def test_a_subset_larger_than_the_swarm_is_refused_before_training(tmp_path):
    with pytest.raises(SwarmError, match="subset: 4 is larger than the swarm, which has 3 particles"):
        fit(swarm(3), SwarmAveraging(subset=4), tmp_path)


def test_a_strategy_that_trains_one_model_in_several_processes_is_refused(tmp_path):
    with pytest.raises(SwarmError, match="DDPStrategy trains one model in several processes"):
        trainer_of(tmp_path, SwarmAveraging(), strategy="ddp").fit(swarm(2), data())


def test_validation_that_is_missing_is_refused_before_training(tmp_path):
    with pytest.raises(SwarmError, match="compared by validation, and this training has none"):
        fit(swarm(2), SwarmAveraging(soup="greedy"), tmp_path, validation=False)


def test_a_metric_that_is_not_logged_is_found_at_the_first_validation(tmp_path):
    stack = swarm(2)
    with pytest.raises(
        SwarmError, match=r"monitor: 'val_acc' is not among what ParticleStack logs in validation: .*val_loss"
    ):
        fit(stack, SwarmAveraging(soup="greedy", monitor="val_acc", mode="max"), tmp_path)
    assert stack.trainer.global_step == 0


def test_the_state_of_pso_is_read_under_its_earlier_name():
    averaging = SwarmAveraging("pso")
    best = {
        "velocity": {"w": torch.ones(2, 1)},
        "best": {"w": torch.zeros(2, 1)},
        "best_losses": torch.tensor([1.0, 2.0]),
    }
    averaging._pso.load_state_dict(best)
    state = averaging.state_dict()
    state["flight"] = state.pop("pso")
    other = SwarmAveraging("pso")
    other.load_state_dict(state)
    assert same(other.state_dict()["pso"]["velocity"], best["velocity"])
