"""What can be computed of a network without training it? Pure functions on torch modules and tensors, torch alone."""

from lightning_evo.functional.zero_cost import flops, gradient_norm, naswot, parameters, synflow

__all__ = ["flops", "gradient_norm", "naswot", "parameters", "synflow"]
