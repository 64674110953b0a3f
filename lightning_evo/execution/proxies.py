"""Measuring of zero-cost proxies in worker processes of its own, so that the controller builds no model."""

from __future__ import annotations

import json
import logging
import math
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

from lightning_evo.execution.job import Job
from lightning_evo.execution.local import DEFAULT_PRELOAD, LocalExecutor
from lightning_evo.genome import FAILED, Genome, Result, derive_seed
from lightning_evo.predictors.genomes.features import check_proxies
from lightning_evo.training.proxies import UnmeasuredProxies
from lightning_evo.training.trainable import Trainable
from lightning_evo.utils.text import printable

__all__ = ["ProxyMeter"]

_log = logging.getLogger(__name__)


class ProxyMeter:
    """Measures zero-cost proxies of genomes: what :meth:`Predictor.bind <lightning_evo.algorithms.Predictor.bind>` takes.

    Candidates are built in worker processes that see no GPU; the first call starts them. One that can't be built, takes
    too long or kills its worker has NaN for every proxy, and its reason is logged, each once. What was measured is
    remembered. A genome's weights derive from (seed, genome), the batch from the seed: the values are decided by the seed,
    whatever was measured before.

    Args:
        trainable: Builds candidates from genomes.
        names: Which proxies: ``naswot``, ``synflow``, ``gradient_norm``, ``params``, ``flops``.
        seed: The run's seed.
        batch_size: How many samples of the training loader's first batch are used at most.
        time_limit: Seconds that one candidate may take, its data included.
        workers: How many candidates are measured at the same time.
        preload: Modules the forkserver imports once.

    Raises:
        ValueError: If a name or number is not accepted.

    Example:
        >>> from lightning_evo.genome import Genome
        >>> from lightning_evo.training import ConfigTrainable
        >>> boring = "lightning.pytorch.demos.boring_classes."
        >>> config = {"model": {"class_path": boring + "BoringModel"}, "data": {"class_path": boring + "BoringDataModule"}}
        >>> with ProxyMeter(ConfigTrainable(config), ["params"]) as meter:
        ...     meter([Genome({})])
        [{'params': 66.0}]
    """

    def __init__(
        self,
        trainable: Trainable,
        names: Sequence[str],
        seed: int = 0,
        batch_size: int = 64,
        time_limit: float = 60.0,
        workers: int = 1,
        preload: Sequence[str] = DEFAULT_PRELOAD,
    ) -> None:
        self.trainable, self.names, self.seed = trainable, check_proxies(names), seed
        if batch_size < 2:
            raise ValueError(f"batch_size: {batch_size!r} is not at least 2")
        if not time_limit > 0:
            raise ValueError(f"time_limit: {time_limit!r} is not above 0 seconds")
        if workers < 1:
            raise ValueError(f"workers: {workers!r} is not at least 1")
        self.batch_size, self.time_limit, self.workers, self.preload = batch_size, time_limit, workers, preload
        self._known: dict[Genome, dict[str, float]] = {}
        self._reasons: set[str] = set()
        self._executor: LocalExecutor | None = None
        self._directory = ""

    def __call__(self, genomes: Sequence[Genome]) -> list[Mapping[str, float]]:
        """Every proxy of each genome, by name; NaN where it could not be measured."""
        unknown = list(dict.fromkeys(genome for genome in genomes if genome not in self._known))
        if unknown:
            futures = [self._start().submit(self._job(i, genome)) for i, genome in enumerate(unknown)]
            for genome, future in zip(unknown, futures, strict=True):
                self._known[genome] = self._read(future.result())
        return [dict(self._known[genome]) for genome in genomes]

    def close(self) -> None:
        """End the worker processes; a later call starts new ones."""
        if self._executor is not None:
            self._executor.shutdown(cancel=True)
            self._executor = None
            shutil.rmtree(self._directory, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _start(self) -> LocalExecutor:
        if self._executor is None:
            # No CUDA device for a slot whose only device has no name: what measures must not take memory from training.
            self._executor = LocalExecutor([("",)] * self.workers, threads=1, max_retries=0, preload=self.preload)
            self._directory = tempfile.mkdtemp(prefix="lightning-evo-proxies-")
        return self._executor

    def _job(self, number: int, genome: Genome) -> Job:
        text = json.dumps(dict(genome), sort_keys=True)
        seed = derive_seed(self.seed, "proxies", text)
        data_seed = derive_seed(self.seed, "proxies", "batch")
        task = self.trainable.proxy_task(genome, self.names, self.batch_size, seed, data_seed)
        place = f"{self._directory}/{number}"
        return Job(number, task.function, task.arguments, place, time_limit=self.time_limit, modules=task.modules)

    def _read(self, result: Result) -> dict[str, float]:
        reasons = (result.entry(UnmeasuredProxies) or UnmeasuredProxies()).reasons
        if result.status == FAILED:
            # The last line of a traceback, or the one line of a process that could give none.
            reasons = {", ".join(self.names): (result.error or "").strip().rpartition("\n")[2]}
        for name, reason in reasons.items():
            if reason not in self._reasons:
                self._reasons.add(reason)
                _log.warning("zero-cost proxy %s could not be measured: %s", name, printable(reason))
        return {name: float(result.metrics.get(name, math.nan)) for name in self.names}
