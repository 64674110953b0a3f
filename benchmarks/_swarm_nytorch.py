"""The swarm of Nytorch's tutorial, trained with Nytorch; run by ``swarm.py`` in Nytorch's environment."""

from __future__ import annotations

import json
import random
import sys
from typing import Any

import torch
import torch.nn.functional as F
from _swarm_workload import ALPHA, INTERVAL, LR, SUBSET, Clock, Job, accuracy, data, forward, states
from nytorch import NytoModule, ParticleModule
from torch import Tensor, nn


class ConvNet(NytoModule):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 10, 5), nn.Conv2d(10, 20, 3)
        self.fc = nn.Linear(20 * 10 * 10, 10)

    def forward(self, x: Tensor) -> Tensor:
        return forward(self, x)


class Model:
    """A particle and its optimizer; averaging creates new particles and therefore new optimizers."""

    def __init__(self, particle: Any) -> None:
        self.particle = particle
        self.optimizer = torch.optim.SGD(particle.parameters(), lr=LR)

    def train(self, x: Tensor, y: Tensor) -> float:
        self.particle.train()
        self.optimizer.zero_grad()
        loss = F.nll_loss(self.particle(x), y)
        loss.backward()
        self.optimizer.step()
        return loss.item()


def pool(job: Job) -> list[Model]:
    particles = []
    for state in states(job):
        net = ConvNet()
        net.load_state_dict(state)
        particles.append(ParticleModule(net))
    first = particles[0]
    return [Model(first), *(Model(first.clone_from(particle)) for particle in particles[1:])]


def average(models: list[Model], losses: list[float]) -> None:
    drawn = random.choices(range(len(models)), k=SUBSET)  # with replacement, as the tutorial draws
    best = min(drawn, key=losses.__getitem__)
    for index in drawn:
        if index != best:
            product = ALPHA * models[best].particle.product() + (1 - ALPHA) * models[index].particle.product()
            models[index] = Model(product.module())


def main() -> None:
    job = Job.parse(sys.argv[1:])
    torch.set_num_threads(job.threads)
    random.seed(job.seed)
    train, test = data(job)
    models = pool(job)
    clock = Clock()
    for number, (x, y) in enumerate(train, start=1):
        losses = [model.train(x, y) for model in models]
        if number % INTERVAL == 0:
            average(models, losses)
    times = clock.read()
    print(json.dumps({**times, "accuracies": [accuracy(model.particle, test) for model in models]}))


if __name__ == "__main__":
    main()
