"""The project's entry point, as in lightning-hydra-template: ``python train.py`` trains once."""

import os
from pathlib import Path

import hydra
from hydra.utils import instantiate
from omegaconf import DictConfig

os.environ.setdefault("PROJECT_ROOT", str(Path(__file__).resolve().parent))


@hydra.main(version_base="1.3", config_path="configs", config_name="train")
def main(config: DictConfig) -> None:
    """Train, or test a checkpoint."""
    data, model = instantiate(config.data), instantiate(config.model)
    callbacks = [instantiate(callback) for callback in config.callbacks.values()]
    trainer = instantiate(config.trainer, callbacks=callbacks)
    if config.ckpt_path is None:
        trainer.fit(model, data)
    else:
        trainer.test(model, data, ckpt_path=config.ckpt_path)


if __name__ == "__main__":
    main()
