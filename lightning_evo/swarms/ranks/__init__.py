"""Particles trained in several processes, one per device: ``strategy: swarm``."""
