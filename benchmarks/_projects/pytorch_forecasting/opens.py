"""Open the exported network as pytorch-forecasting's users open theirs, and predict."""

import sys

from pytorch_forecasting import NHiTS
from train import build

network = NHiTS.load_from_checkpoint(sys.argv[1])
_, data, _ = build({"context": network.hparams.context_length, "hidden_size": 16, "learning_rate": 1e-3})
print(network.predict(data.test_dataloader(), trainer_kwargs={"accelerator": "cpu", "logger": False}).shape)
