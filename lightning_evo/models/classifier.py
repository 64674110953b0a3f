"""The training half of all classifiers: loss, metrics, optimizer and schedule, whatever the network."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy

from lightning_evo.models.optimization import OptimizerName, ScheduleName, build_optimizer, build_schedule

__all__ = ["Classifier", "MeanLoss"]


class Classifier(L.LightningModule):
    """Trains a network from images to class scores; the base class of the built-in models.

    Logs ``train_loss``, ``val_loss``, ``val_acc``, ``test_loss`` and ``test_acc``, once per epoch (logging costs 0.7 ms
    per call). ``train_loss`` contains the label smoothing, the others are plain cross-entropy. For any other optimizer
    or schedule, use LightningCLI's ``optimizer:`` and ``lr_scheduler:`` sections.

    Args:
        network: Images (N, C, H, W) -> scores (N, ``num_classes``).
        num_classes: Number of classes, at least 2.
        optimizer: ``sgd`` (Nesterov), ``adam``, ``adamw``, ``nadam``, ``radam`` or ``rmsprop``.
        lr: Base learning rate.
        weight_decay: Weight decay, except for biases and normalization parameters.
        momentum: Momentum of ``sgd`` and ``rmsprop``, beta 1 of the Adam family.
        schedule: ``constant``, ``linear``, ``cosine`` or ``onecycle``, updated after every batch.
        warmup: Fraction of all steps over which the learning rate rises, in [0, 1).
        label_smoothing: Smoothing of the training targets, in [0, 1].
        channels_last: Use the channels-last memory format for weights and images, which is faster for many kernels.
        compile: Run the network through ``torch.compile``. It is compiled in place, so checkpoints keep the same names.

    Raises:
        ValueError: A number is out of its range, or the network's number of outputs isn't ``num_classes``.
    """

    def __init__(
        self,
        network: nn.Module,
        num_classes: int,
        optimizer: OptimizerName = "adamw",
        lr: float = 1e-3,
        weight_decay: float = 1e-2,
        momentum: float = 0.9,
        schedule: ScheduleName = "cosine",
        warmup: float = 0.0,
        label_smoothing: float = 0.0,
        channels_last: bool = False,
        compile: bool = False,
    ) -> None:
        super().__init__()
        if num_classes < 2:
            raise ValueError(f"num_classes: {num_classes!r} is not at least 2")
        if not lr > 0:
            raise ValueError(f"lr: {lr!r} is not above 0")
        for name, value in (("momentum", momentum), ("warmup", warmup)):
            if not 0 <= value < 1:
                raise ValueError(f"{name}: {value!r} is not in [0, 1)")
        if not 0 <= label_smoothing <= 1:
            raise ValueError(f"label_smoothing: {label_smoothing!r} is not in [0, 1]")
        if weight_decay < 0:
            raise ValueError(f"weight_decay: {weight_decay!r} is not at least 0")
        self.network = network
        if channels_last:
            self.network.to(memory_format=torch.channels_last)
        self.num_classes = num_classes
        self._optimizer, self._lr, self._weight_decay, self._momentum = optimizer, lr, weight_decay, momentum
        self._schedule, self._warmup, self._label_smoothing = schedule, warmup, label_smoothing
        self._channels_last, self._compile = channels_last, compile
        self.train_loss, self.val_loss, self.test_loss = MeanLoss(), MeanLoss(), MeanLoss()
        self.val_acc = MulticlassAccuracy(num_classes, average="micro", validate_args=False)
        self.test_acc = MulticlassAccuracy(num_classes, average="micro", validate_args=False)

    def forward(self, images: Tensor) -> Tensor:
        """Scores (N, ``num_classes``) of images (N, C, H, W)."""
        if self._channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        scores = self.network(images)
        if scores.shape[1:] != (self.num_classes,):
            raise ValueError(
                f"the network's output has shape {tuple(scores.shape)}; num_classes requires (N, {self.num_classes})"
            )
        return scores

    def configure_model(self) -> None:
        """Compile the network in place, once, where asked."""
        if self._compile:
            self.network.compile()
            self._compile = False

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        loss = F.cross_entropy(self(images), labels, label_smoothing=self._label_smoothing)
        self.train_loss.update(loss.detach(), len(labels))
        return loss

    def on_train_epoch_end(self) -> None:
        self.log("train_loss", self.train_loss)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._evaluate(batch, self.val_loss, self.val_acc)

    def on_validation_epoch_end(self) -> None:
        self.log("val_loss", self.val_loss)
        self.log("val_acc", self.val_acc, prog_bar=True)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._evaluate(batch, self.test_loss, self.test_acc)

    def on_test_epoch_end(self) -> None:
        self.log("test_loss", self.test_loss)
        self.log("test_acc", self.test_acc)

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Class scores of a batch of images, or of the images of an (images, labels) pair."""
        return self(batch[0] if isinstance(batch, (tuple, list)) else batch)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        # On a CPU torch loops over the tensors in Python unless told to fuse (13 % of a small network's training time);
        # on CUDA it already groups them. Lightning can't clip gradients of fused optimizers under mixed precision.
        fused = self.device.type == "cpu" and not isinstance(self.trainer.precision_plugin, MixedPrecision)
        optimizer = build_optimizer(
            self._optimizer, self.network, self._lr, self._weight_decay, self._momentum, fused=fused
        )
        total = self.trainer.estimated_stepping_batches
        schedule = build_schedule(optimizer, self._schedule, total, self._warmup)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _evaluate(self, batch: tuple[Tensor, Tensor], loss: MeanLoss, accuracy: MulticlassAccuracy) -> None:
        images, labels = batch
        scores = self(images)
        loss.update(F.cross_entropy(scores, labels), len(labels))
        accuracy.update(scores, labels)


class MeanLoss(Metric):
    """The mean loss of all images of an epoch, in all processes.

    torchmetrics' ``MeanMetric`` drops NaN by default, and with ``nan_strategy="disable"`` ignores the weights (1.9): a
    diverged model must not look healthy, and a small last batch must not count like a large one.

    >>> loss = MeanLoss()
    >>> loss.update(torch.tensor(1.0), 3)
    >>> loss.update(torch.tensor(2.0), 1)
    >>> loss.compute()
    tensor(1.2500)
    """

    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, loss: Tensor, count: int) -> None:
        """Add a batch: its mean loss and its number of images."""
        self.total += loss * count
        self.count += count

    def compute(self) -> Tensor:
        """Mean loss per image."""
        return self.total / self.count
