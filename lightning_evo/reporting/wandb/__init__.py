"""A search in Weights & Biases."""

from lightning_evo.reporting.wandb.reporter import WandbReporter

__all__ = ["WandbReporter"]
