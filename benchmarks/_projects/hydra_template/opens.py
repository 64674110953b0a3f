"""Open the exported network as the template's users open theirs: the network is made by Hydra, the rest is loaded."""

import sys

import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from src.models.mnist_module import MNISTLitModule

config = OmegaConf.load(sys.argv[2])
# The template's module saves its network among its hyperparameters, which is more than tensors.
module = MNISTLitModule.load_from_checkpoint(sys.argv[1], net=instantiate(config.model.net), weights_only=False).eval()
with torch.inference_mode():
    print(module(torch.rand(2, 1, 28, 28)).shape)
