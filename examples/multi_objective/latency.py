"""A callback that measures the inference time for one image and logs it as a metric."""

import statistics
import time

import lightning as L
import torch


class Latency(L.Callback):
    """Logs `latency_ms`: milliseconds of one forward pass in eval mode, without gradients.

    It is measured once, before training, on a validation image, since it depends on the layers and not on their weights.
    After a round that only warms up, a pass is repeated `repeats` times in each of `rounds` rounds. The median over a
    round is robust against single slow passes, the smallest of the medians against what else keeps the machine busy.

    Args:
        batch_size: Images per pass.
        repeats: Passes per round.
        rounds: Rounds that count.
    """

    def __init__(self, batch_size: int = 1, repeats: int = 50, rounds: int = 20) -> None:
        self.batch_size, self.repeats, self.rounds = batch_size, repeats, rounds
        self.milliseconds = float("nan")

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        image = trainer.datamodule.validation[0][0].to(pl_module.device)
        images = image.expand(self.batch_size, *image.shape).contiguous()
        training = pl_module.training
        pl_module.eval()
        with torch.inference_mode():
            self._median(pl_module, images)
            self.milliseconds = min(self._median(pl_module, images) for _ in range(self.rounds))
        pl_module.train(training)

    def _median(self, module: L.LightningModule, images: torch.Tensor) -> float:
        """Median time of a forward pass in milliseconds."""
        times = []
        for _ in range(self.repeats):
            start = time.perf_counter()
            module(images)
            if images.device.type == "cuda":
                torch.cuda.synchronize()
            times.append(1000 * (time.perf_counter() - start))
        return statistics.median(times)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.sanity_checking:
            pl_module.log("latency_ms", self.milliseconds)
