"""Pictures of a texture, some with a defect, in the folders that anomalib's ``Folder`` reads."""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

root = Path(sys.argv[1])
random = np.random.default_rng(0)
for kind, count in (("good", 24), ("defect", 12)):
    (root / kind).mkdir(parents=True, exist_ok=True)
    for index in range(count):
        picture = 128 + 40 * np.sin(np.arange(32) / 2)[:, None, None] + random.normal(0, 10, (32, 32, 3))
        if kind == "defect":
            row, column = random.integers(4, 20, 2)
            picture[row : row + 8, column : column + 8] = random.uniform(0, 255, 3)
        Image.fromarray(picture.clip(0, 255).astype("uint8")).save(root / kind / f"{index}.png")
