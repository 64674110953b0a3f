"""Computing many networks of one architecture at once: ``torch.func.vmap`` with rules for the layers it lowers badly."""

from lightning_evo.functional.stacking.allocator import keep_freed_memory
from lightning_evo.functional.stacking.optimizers import can_stack, stacked_step
from lightning_evo.functional.stacking.stacking import stacked_call

__all__ = ["can_stack", "keep_freed_memory", "stacked_call", "stacked_step"]
