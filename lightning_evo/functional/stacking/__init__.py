"""Computing many networks of one architecture at once: ``torch.func.vmap`` with rules for the layers it lowers badly."""

# Optional parts: each registers itself, and can be deleted together with its line here.
from lightning_evo.functional.stacking import autotuning as autotuning
from lightning_evo.functional.stacking import fusion as fusion
from lightning_evo.functional.stacking.allocator import keep_freed_memory
from lightning_evo.functional.stacking.optimizers import can_stack, stacked_step
from lightning_evo.functional.stacking.optional import PARTS
from lightning_evo.functional.stacking.stacking import stacked_call

__all__ = ["PARTS", "can_stack", "keep_freed_memory", "stacked_call", "stacked_step"]
