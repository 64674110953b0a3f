"""A search in TensorBoard."""

from lightning_evo.reporting.tensorboard.reporter import TensorBoardReporter

__all__ = ["TensorBoardReporter"]
