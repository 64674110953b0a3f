"""Open the exported network as torchgeo's users open theirs, and classify one batch."""

import sys

import torch
from torchgeo.datamodules import EuroSATDataModule
from torchgeo.trainers import ClassificationTask

task = ClassificationTask.load_from_checkpoint(sys.argv[1]).eval()
data = EuroSATDataModule(batch_size=8, root="data")
data.setup("test")
with torch.inference_mode():
    print(task(next(iter(data.test_dataloader()))["image"]).shape)
