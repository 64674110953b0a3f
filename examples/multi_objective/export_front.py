"""Write every candidate of the Pareto front as a plain config and checkpoint: `python export_front.py RUN FOLDER`."""

import sys
from pathlib import Path

from lightning_evo import Archive
from lightning_evo.export import export


def main(run: Path, folder: Path) -> None:
    """Export the front of `run`, fastest first, to `folder/ID/`."""
    with Archive(run) as archive:
        front = archive.candidates(archive.pareto())
    for row in sorted(front, key=lambda row: row["latency_ms"]):
        export(run, folder / str(row["id"]), row["id"])
        print(f"{folder / str(row['id'])}: {row['val_acc']:.4f}, {row['latency_ms']:.3f} ms")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
