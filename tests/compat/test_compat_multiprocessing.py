"""Private names of multiprocessing behave as they are used."""

import sys

import warm

from lightning_evo._compat.multiprocessing import imports_main_module

SCRIPT = """
import multiprocessing
from lightning_evo._compat.multiprocessing import imports_main_module

imported = imports_main_module()


def show(main):
    print(main, imported, imports_main_module(), flush=True)


if __name__ == "__main__":
    show("program")
    process = multiprocessing.get_context("forkserver").Process(target=show, args=("worker",))
    process.start()
    process.join()
"""


def test_only_a_started_process_imports_the_main_module_and_only_before_its_work(tmp_path):
    assert not imports_main_module()
    (tmp_path / "script.py").write_text(SCRIPT)
    ended = warm.run(
        [sys.executable, str(tmp_path / "script.py")], capture_output=True, text=True, timeout=100, check=True
    )
    assert ended.stdout.split("\n") == ["program False False", "worker True False", ""]
