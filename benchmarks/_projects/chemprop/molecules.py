"""The data of the project: chemprop's own dataset and loaders in a data module."""

import csv

from chemprop.data import MoleculeDatapoint, MoleculeDataset, build_dataloader
from lightning.pytorch import LightningDataModule


class Molecules(LightningDataModule):
    def __init__(self, path: str = "data/molecules.csv", batch_size: int = 32) -> None:
        super().__init__()
        self.path, self.batch_size = path, batch_size

    def setup(self, stage: str) -> None:
        with open(self.path) as file:
            points = [MoleculeDatapoint.from_smi(row["smiles"], [float(row["y"])]) for row in csv.DictReader(file)]
        self.train, self.val, self.test = (
            MoleculeDataset(part) for part in (points[:160], points[160:200], points[200:])
        )

    def train_dataloader(self):
        return build_dataloader(self.train, batch_size=self.batch_size, num_workers=0, seed=0)

    def val_dataloader(self):
        return build_dataloader(self.val, batch_size=self.batch_size, num_workers=0, shuffle=False)

    def test_dataloader(self):
        return build_dataloader(self.test, batch_size=self.batch_size, num_workers=0, shuffle=False)
