"""Slots and executors that run candidates as jobs, and their results."""

from lightning_evo.execution.adapter import FuturesExecutor
from lightning_evo.execution.executor import Executor
from lightning_evo.execution.job import Job
from lightning_evo.execution.local import DEFAULT_PRELOAD, LocalExecutor, default_threads
from lightning_evo.execution.main_module import end_in_import, refuse_unguarded
from lightning_evo.execution.results import find_result, read_result
from lightning_evo.execution.slots import available_cores, plan_slots

__all__ = [
    "DEFAULT_PRELOAD",
    "Executor",
    "FuturesExecutor",
    "Job",
    "LocalExecutor",
    "available_cores",
    "default_threads",
    "end_in_import",
    "find_result",
    "plan_slots",
    "read_result",
    "refuse_unguarded",
]
