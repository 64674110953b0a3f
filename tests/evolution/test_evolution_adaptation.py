"""What candidates leave out or redirect is said once, and their checkpoints go with them."""

from __future__ import annotations

from pathlib import Path

import pytest
from searching import Recorded, threads

from lightning_evo import Budget, Evolution, Objective, Workers
from toys import ToyNet

LIGHTNING = "lightning.pytorch.callbacks."


class Plotting(ToyNet):
    """Uses its logger in its test too."""

    def __init__(self, lr: float = 0.1) -> None:
        super().__init__(lr=lr)

    def on_test_epoch_end(self):
        self.logger.experiment.add_figure("confusion", None)
        assert Path(self.logger.log_dir).is_dir()


def called(name, **arguments):
    return {"class_path": LIGHTNING + name, "init_args": arguments}


@pytest.mark.parametrize("kept", [0, 1])
def test_a_candidates_checkpoints_go_with_it_and_are_counted(config, tmp_path, monkeypatch, kept):
    monkeypatch.chdir(tmp_path)
    config["model"] = {"class_path": f"{__name__}.Plotting"}
    bars = [called("TQDMProgressBar"), called("LearningRateMonitor")]
    config["trainer"]["callbacks"] = [called("ModelCheckpoint", dirpath="elsewhere", save_last=True), *bars]
    said = Recorded()
    with threads(1) as executor:
        archive = Evolution(
            {"model.init_args.lr": {"low": 0.01, "high": 0.2}},
            [Objective("val_acc")],
            Budget(candidates=3),
            workers=Workers(slots=1),
            directory="net",
            seed=1,
            keep_checkpoints=kept,
            config=config,
            executor=executor,
            progress=said,
        ).run()
    checkpoints = list(Path("net/candidates").rglob("*.ckpt"))
    assert len(checkpoints) == 3 * kept  # ours, its best and its last
    assert archive.meta["checkpoints"]["kept"] == 3 * kept
    assert any(f"; {3 * kept} checkpoints, " in text for text in said.messages) or not kept
    assert len([text for text in said.messages if "ModelCheckpoint" in text]) == 1
    assert len([text for text in said.messages if "TQDMProgressBar" in text]) == 1
    assert not Path("elsewhere").exists()
    assert any("winner: candidate" in text for text in said.messages)
