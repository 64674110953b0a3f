"""A small EuroSAT in the layout that torchgeo's ``EuroSAT`` reads: 13 bands, ten classes, made by a random generator."""

import sys
from pathlib import Path

import numpy as np
import rasterio

CLASSES = ("AnnualCrop", "Forest", "HerbaceousVegetation", "Highway", "Industrial")
COUNTS = {"train": 16, "val": 8, "test": 8}
SIZE = 32

root = Path(sys.argv[1])
images = root / "ds" / "images" / "remote_sensing" / "otherDatasets" / "sentinel_2" / "tif"
random = np.random.default_rng(0)
spectra = random.uniform(500, 3000, (len(CLASSES), 13, 1, 1))
for split, count in COUNTS.items():
    names = []
    for label, name in enumerate(CLASSES):
        (images / name).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            file = f"{name}_{split}_{index}.tif"
            pixels = spectra[label] + random.normal(0, 800, (13, SIZE, SIZE))
            with rasterio.open(
                images / name / file, "w", driver="GTiff", width=SIZE, height=SIZE, count=13, dtype="uint16"
            ) as raster:
                raster.write(pixels.clip(0, 10000).astype("uint16"))
            names.append(file.replace(".tif", ".jpg"))
    (root / f"eurosat-{split}.txt").write_text("\n".join(names) + "\n")
