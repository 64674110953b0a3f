"""A small MNIST in the files that torchvision reads, made by a random generator."""

import struct
import sys
from pathlib import Path

import numpy as np

raw = Path(sys.argv[1]) / "MNIST" / "raw"
raw.mkdir(parents=True, exist_ok=True)
random = np.random.default_rng(0)
prototypes = random.uniform(0, 255, (10, 28, 28))
for split, count in (("train", 600), ("t10k", 200)):
    labels = np.arange(count) % 10
    images = (prototypes[labels] + random.normal(0, 60, (count, 28, 28))).clip(0, 255).astype("uint8")
    (raw / f"{split}-images-idx3-ubyte").write_bytes(struct.pack(">IIII", 2051, count, 28, 28) + images.tobytes())
    (raw / f"{split}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 2049, count) + labels.astype("uint8").tobytes())
