"""Things to evolve that change the process they run in, for tests; importable by name in worker processes."""

from __future__ import annotations

import os
import random
import subprocess
import tempfile

import numpy
import torch

from toys import ToyNet

calls = []


def wandering_sphere(genome, seed, directory):
    """Leaves the working directory for another."""
    with open(os.path.join(directory, "here"), "w") as file:
        file.write(os.getcwd())
    os.chdir(tempfile.gettempdir())
    return {"value": -sum(float(value) ** 2 for value in genome.values())}


def leaky(genome, seed, directory):
    """A sum of all that an earlier candidate could have changed."""
    drawn = [random.random(), float(numpy.random.rand()), float(torch.rand(1, dtype=torch.float64))]
    changed = [len(calls), torch.finfo(torch.get_default_dtype()).bits, len(os.environ.get("LEFT", ""))]
    calls.append(seed)
    if genome["leaves"]:
        torch.set_default_dtype(torch.float64)
        os.environ["LEFT"] = "behind"
        torch.nn.functional.relu = torch.nn.functional.gelu
    if genome["leaves_a_child"]:
        subprocess.Popen(["setsid", "sleep", "600"])
    return {"value": sum(drawn) + sum(changed)}


class DoubleNet(ToyNet):
    """Computes with double precision by the default dtype, as scientific code does."""

    def __init__(self, lr: float = 0.1, double: bool = False) -> None:
        if double:
            torch.set_default_dtype(torch.float64)
        super().__init__(lr=lr)

    def forward(self, points):
        return self.net(points.to(self.net[0].weight.dtype))

    def _evaluate(self, batch, stage):
        super()._evaluate(batch, stage)
        self.log(f"{stage}_bits", float(torch.finfo(next(self.parameters()).dtype).bits))
