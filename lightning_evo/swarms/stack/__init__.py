"""Particles trained in one process as a single LightningModule."""
