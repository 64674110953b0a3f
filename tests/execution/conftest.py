"""What all tests of this folder share: a forkserver with the imports that every worker needs."""

import pytest

from lightning_evo.execution.isolation import start_forkserver
from lightning_evo.execution.local import DEFAULT_PRELOAD


@pytest.fixture(scope="session", autouse=True)
def _forkserver():
    start_forkserver(DEFAULT_PRELOAD, {"OMP_NUM_THREADS": "1"})
