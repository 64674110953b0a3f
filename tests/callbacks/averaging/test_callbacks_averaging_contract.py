"""What every method of averaging guarantees: a new one is one row."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from averaging_training import data, fit, swarm, trainer_of, weights
from comparing import same
from lightning.pytorch import Callback

from lightning_evo.callbacks import SwarmAveraging
from lightning_evo.callbacks.averaging.settings import METHODS
from lightning_evo.swarms import SwarmError

ROWS: dict[str, dict[str, Any]] = {
    "apso": {"subset": 2, "every_n_steps": 3},
    "pso": {"every_n_steps": 3},
    "papa": {"alpha": 0.2, "every_n_steps": 3},
    "papa_all": {"every_n_steps": 3, "soup": "greedy", "keep": "if_not_worse"},
    "papa_pairs": {"every_n_epochs": 2, "optimizer_state": "averaged"},
}
each = pytest.mark.parametrize("method", ROWS)


def averaging_of(method: str, **options: Any) -> SwarmAveraging:
    return SwarmAveraging(method, **{**ROWS[method], **options})


def test_every_method_has_a_row():
    assert ROWS.keys() == METHODS.keys()


@each
def test_it_averages_at_its_interval_and_changes_no_global_random_state(method, tmp_path):
    averaging = averaging_of(method)
    _, events = fit(swarm(3), averaging, tmp_path, epochs=4)  # asserts that random states stay
    interval = averaging.every_n_steps or 4 * averaging.every_n_epochs
    assert [step for step, *_ in events] == list(range(interval, 17, interval))
    assert averaging.extra["averaging"]["averagings"] == len(events) > 0
    assert averaging.extra["averaging"]["method"] == method


@each
def test_a_resumed_run_equals_an_undisturbed_one_bit_for_bit(method, tmp_path):
    class Stop(Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            trainer.should_stop = trainer.current_epoch == 1

    def run(ckpt_path=None, *callbacks):
        stack, averaging = swarm(3, norm=True, adam=True, decay=0.9), averaging_of(method)
        trainer = trainer_of(tmp_path, *callbacks, averaging, epochs=4, num_sanity_val_steps=0)
        trainer.fit(stack, data(), data(seed=1), ckpt_path=ckpt_path)
        return trainer, stack, averaging

    _, whole, reference = run()
    half, *_ = run(None, Stop())
    half.save_checkpoint(tmp_path / "half.ckpt")
    _, resumed, averaging = run(tmp_path / "half.ckpt")
    assert averaging.averagings == reference.averagings > 0
    assert averaging.extra == reference.extra
    assert all(same(one, other) for one, other in zip(weights(whole), weights(resumed), strict=True))


@each
def test_a_diverged_particle_affects_no_other(method, tmp_path):
    stack = swarm(4)
    with torch.no_grad():
        stack.particles[2].net[0].weight.fill_(float("nan"))
    averaging = averaging_of(method, **({"soup": None} if "soup" in ROWS[method] else {}))
    fit(stack, averaging, tmp_path, epochs=2)
    assert averaging.averagings > 0
    for index, row in enumerate(weights(stack)):
        if index != 2:
            assert all(bool(torch.isfinite(tensor).all()) for tensor in row.values())


@each
def test_its_coefficients_are_convex_and_leave_others_alone(method):
    averaging = averaging_of(method)
    losses = torch.tensor([0.3, float("nan"), 0.1, 0.2], dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    members = averaging.choose_members(losses, generator)
    finite = [one for one in members if bool(torch.isfinite(losses[one]))]
    matrix = averaging.blend(losses, finite, torch.full((4,), averaging.alpha or 1.0, dtype=torch.float64), generator)
    assert matrix.shape == (4, 4)
    assert bool((matrix >= 0).all())
    torch.testing.assert_close(matrix.sum(1), torch.ones(4, dtype=torch.float64))
    if method != "pso":  # whose matrix says which best position each follows
        for one in set(range(4)) - set(finite):
            assert torch.equal(matrix[one], torch.eye(4, dtype=torch.float64)[one])
    assert bool((matrix[[0, 2, 3], 1] == 0).all())


@each
def test_a_swarm_of_one_particle_is_refused(method, tmp_path):
    from averaging_training import Net

    with pytest.raises(SwarmError, match="a swarm of one particle has no other to average with"):
        trainer_of(tmp_path, averaging_of(method)).fit(Net(), data())
