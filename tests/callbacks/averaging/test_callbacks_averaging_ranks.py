"""Across two real processes SwarmAveraging does what it does in a stack."""

from __future__ import annotations

import pytest
import torch
from callbacks_ranks import RankNet, swarm_of, train, train_rank
from forked import run_ranks

from lightning_evo.callbacks import SwarmAveraging

# How many particles each rank has, and how they average.
TRAININGS = [
    (1, {"method": "apso", "every_n_steps": 3, "soup": "greedy"}),
    (1, {"method": "pso", "every_n_steps": 2}),
    (1, {"method": "papa_all", "every_n_steps": 5, "optimizer_state": "averaged", "keep": "if_not_worse"}),
    (1, {"method": None, "soup": "uniform", "keep": "always", "common_start": True}),
    (2, {"method": "papa_pairs", "every_n_steps": 3, "optimizer_state": "averaged", "soup": "uniform"}),
]


@pytest.mark.slow
def test_ranks_average_as_the_particles_of_a_stack(tmp_path):
    run_ranks(2, train_rank, tmp_path, TRAININGS)
    ranks = [torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2)]
    for number, (count, settings) in enumerate(TRAININGS):
        averaging, stack = SwarmAveraging(**settings), swarm_of(range(2 * count))
        train(stack, averaging, str(tmp_path / "stack"), devices=1)
        states = [state for rank in ranks for state in rank[number]["states"]]
        for state, particle in zip(states, stack.particles, strict=True):
            for name, tensor in particle.state_dict().items():
                torch.testing.assert_close(state[name], tensor, atol=1e-5, rtol=1e-5)
        ours = averaging.extra["averaging"]
        theirs = [rank[number]["extra"]["averaging"] for rank in ranks]
        assert sum(one["rejected"] for one in theirs) == ours["rejected"]
        assert all(one["averagings"] == ours["averagings"] and one["size"] == 2 * count for one in theirs)
        if settings.get("soup"):
            assert theirs[0]["soup"] == theirs[1]["soup"]
            assert theirs[0]["soup"]["ingredients"] == ours["soup"]["ingredients"]
            written = tmp_path / str(number) / "soup.ckpt"
            assert written.exists() == ours["soup"]["kept"]
            if written.exists():
                RankNet.load_from_checkpoint(written)
