"""scikit-learn's handwritten digits."""

import torch
from lightning import LightningDataModule
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset, random_split


class Digits(LightningDataModule):
    """60 / 20 / 20 percent for training, validation and testing.

    Args:
        batch_size: Images per training batch.
    """

    def __init__(self, batch_size: int = 64) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)

    def setup(self, stage: str) -> None:
        images, labels = load_digits(return_X_y=True)
        whole = TensorDataset(torch.tensor(images / 16, dtype=torch.float32).view(-1, 1, 8, 8), torch.tensor(labels))
        self.parts = random_split(whole, [0.6, 0.2, 0.2], torch.Generator().manual_seed(0))

    def train_dataloader(self):
        return DataLoader(self.parts[0], self.hparams.batch_size, shuffle=True)

    def val_dataloader(self):
        return DataLoader(self.parts[1], 256)

    def test_dataloader(self):
        return DataLoader(self.parts[2], 256)
