"""Open the exported network as chemprop's users open theirs, and predict one batch."""

import sys

import torch
from chemprop.models import MPNN
from molecules import Molecules

network = MPNN.load_from_checkpoint(sys.argv[1]).eval()
data = Molecules(batch_size=8)
data.setup("test")
batch = next(iter(data.test_dataloader()))
with torch.inference_mode():
    print(network(batch.bmg, batch.V_d, batch.X_d).shape)
