"""One rank of a candidate on several devices: builds and trains like every other; rank 0 reports."""

from __future__ import annotations

import os
import pickle
import sys
from pathlib import Path

from lightning_evo.training.candidate import train_candidate
from lightning_evo.training.distributed import ARGUMENTS_FILE, RESULT_FILE
from lightning_evo.utils.files import write_atomically
from lightning_evo.utils.process import die_with_parent


def main(directory: Path) -> None:
    """Train the candidate whose arguments are in ``directory``, as one of its ranks."""
    die_with_parent()
    result = train_candidate(**pickle.loads((directory / ARGUMENTS_FILE).read_bytes()))
    if int(os.environ.get("LOCAL_RANK", "0")) == 0:
        write_atomically(directory / RESULT_FILE, result.to_json())
    elif result.error:
        # A rank that failed must say so: rank 0 would wait for it at the next collective.
        sys.exit(result.error)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
