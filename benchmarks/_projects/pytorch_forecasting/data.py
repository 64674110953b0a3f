"""Series of a sine with noise, in one table."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd

folder = Path(sys.argv[1])
folder.mkdir(exist_ok=True)
random = np.random.default_rng(0)
steps = np.arange(80)
frames = [
    pd.DataFrame(
        {
            "series": str(index),
            "time": steps,
            "value": np.sin(steps / 3 + index) * (1 + index / 10) + random.normal(0, 0.1, len(steps)),
        }
    )
    for index in range(12)
]
pd.concat(frames).to_csv(folder / "series.csv", index=False)
