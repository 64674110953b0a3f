"""A search in Weights & Biases: candidates are the runs of one sweep, and the search has one more run."""

from lightning_evo.reporting.wandb.reporter import WandbReporter

__all__ = ["WandbReporter"]
