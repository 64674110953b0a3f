"""What importing ``StructuralGrowth`` brings along: growing networks, and no other feature."""

from __future__ import annotations

import sys

import warm

LINES = (
    "import sys",
    "from lightning_evo.callbacks import StructuralGrowth",
    "ours = {name: module for name, module in sys.modules.items() if name.split('.')[0] == 'lightning_evo'}",
    "print(*(name for name, module in ours.items() if not hasattr(module, '__path__')))",
)


def test_structural_growth_imports_few_files_and_no_other_feature():
    ran = warm.run([sys.executable, "-c", "\n".join(LINES)], capture_output=True, text=True, check=True)
    files = ran.stdout.split()
    assert len(files) <= 36, files
    rooms = {"_compat", "callbacks", "functional", "utils"}
    assert {name.split(".")[1] for name in files} == rooms
    of_callbacks = {name for name in files if name.startswith("lightning_evo.callbacks.")}
    assert {name for name in of_callbacks if not name.startswith("lightning_evo.callbacks.growth.")} == {
        "lightning_evo.callbacks.records",
        "lightning_evo.callbacks.search",
    }
