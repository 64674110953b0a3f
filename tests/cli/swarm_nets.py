"""Modules that can't train in one computation, for this folder's tests."""

from __future__ import annotations

import time

import torch
from torchmetrics import MeanMetric

from toys import ToyNet


class ReadsItsMetric(ToyNet):
    """Uses a metric's value within the step."""

    def __init__(self, lr: float = 0.1) -> None:
        super().__init__(lr=lr)
        self.mean = MeanMetric()

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        return loss / (1 + torch.as_tensor(float(self.mean(loss.detach()))))


class Dawdles(ToyNet):
    """Takes long enough to be killed in the middle."""

    def training_step(self, batch, batch_idx):
        time.sleep(0.05)
        return super().training_step(batch, batch_idx)
