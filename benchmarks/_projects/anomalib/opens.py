"""Open the exported network as anomalib's users open theirs, and judge one batch."""

import sys

import torch
from anomalib.models import Ganomaly
from anomalib.pre_processing import PreProcessor
from torchvision.transforms.v2 import Resize

# Its hyperparameters leave out the preprocessor, from which it takes the size of its layers.
network = Ganomaly.load_from_checkpoint(sys.argv[1], pre_processor=PreProcessor(transform=Resize((32, 32)))).eval()
with torch.inference_mode():
    print(network(torch.rand(2, 3, 32, 32)).pred_score.shape)
