"""A search in TensorBoard: scalars per candidate and of the search, and a session per candidate in the HParams plugin."""

from lightning_evo.reporting.tensorboard.reporter import TensorBoardReporter

__all__ = ["TensorBoardReporter"]
