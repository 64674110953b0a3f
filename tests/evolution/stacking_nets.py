"""Models that misbehave in stacks, and a callback that tells what it was told, for this folder's tests."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

from lightning_evo.callbacks.search import SearchCallback
from toys import ToyNet


class Touchy(ToyNet):
    """Raises, or dies, or takes its time where its learning rate is above 0.5; in a stack so do all."""

    def training_step(self, batch, batch_idx):
        if self.lr > 0.5 and self.misbehave == "raise":
            raise RuntimeError(f"lr {self.lr} is too much")
        if self.lr > 0.5 and self.misbehave == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.misbehave == "dawdle":
            time.sleep(0.3)
        if self.misbehave == "linger":
            time.sleep(0.05)
        return super().training_step(batch, batch_idx)


class Buggy(ToyNet):
    """Fails in training while there is a file that the environment names."""

    def training_step(self, batch, batch_idx):
        if os.path.exists(os.environ["BUG"]):
            raise RuntimeError("a bug")
        return super().training_step(batch, batch_idx)


class Picky(ToyNet):
    """Has no optimizer for a high learning rate."""

    def configure_optimizers(self):
        if self.lr > 0.5:
            raise ValueError(f"lr {self.lr} is too much")
        return super().configure_optimizers()


class Witness(SearchCallback):
    """Writes down what a callback may know of the search about who averages with whom."""

    works_in_stacks = True

    def join_search(self, context):
        Path(context.directory).mkdir(parents=True, exist_ok=True)
        told = {"exchange": context.exchange, "ancestry": context.ancestry, "seed": context.seed}
        (Path(context.directory) / "told.json").write_text(json.dumps(told))
