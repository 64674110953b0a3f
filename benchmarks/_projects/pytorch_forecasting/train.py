"""The project's own script: its networks are made from a data set, so a function builds both.

``python train.py`` trains once, as it did before there was a search.
"""

import pandas as pd
from lightning.pytorch import LightningDataModule, Trainer
from pytorch_forecasting import NHiTS, TimeSeriesDataSet
from pytorch_forecasting.metrics import MAE


def build(genome):
    table = pd.read_csv("data/series.csv", dtype={"series": str})
    training = TimeSeriesDataSet(
        table[table.time < 60],
        time_idx="time",
        target="value",
        group_ids=["series"],
        time_varying_unknown_reals=["value"],
        min_encoder_length=genome["context"],
        max_encoder_length=genome["context"],
        min_prediction_length=6,
        max_prediction_length=6,
    )
    validation = TimeSeriesDataSet.from_dataset(training, table[table.time < 70], min_prediction_idx=60)
    test = TimeSeriesDataSet.from_dataset(training, table, min_prediction_idx=70)
    network = NHiTS.from_dataset(
        training, hidden_size=genome["hidden_size"], learning_rate=genome["learning_rate"], loss=MAE()
    )
    data = LightningDataModule()
    data.train_dataloader = lambda: training.to_dataloader(train=True, batch_size=64, num_workers=0)
    data.val_dataloader = lambda: validation.to_dataloader(train=False, batch_size=64, num_workers=0)
    data.test_dataloader = lambda: test.to_dataloader(train=False, batch_size=64, num_workers=0)
    return network, data, {"max_epochs": 5, "accelerator": "cpu", "gradient_clip_val": 0.1}


if __name__ == "__main__":
    network, data, trainer = build({"context": 18, "hidden_size": 64, "learning_rate": 1e-3})
    Trainer(**trainer, logger=False, enable_progress_bar=False).fit(network, data)
