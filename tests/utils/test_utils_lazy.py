"""Packages that import their modules when something of them is asked for."""

from __future__ import annotations

import subprocess
import sys

import pytest

from lightning_evo.utils.lazy import lazily


def test_a_name_is_taken_from_its_module():
    get, names = lazily("lightning_evo.utils", {"plain_name": "compiled"})
    from lightning_evo.utils.compiled import plain_name

    assert get("plain_name") is plain_name
    assert "plain_name" in names()
    with pytest.raises(AttributeError, match=r"module 'lightning_evo\.utils' has no attribute 'nothing'"):
        get("nothing")


def test_the_package_offers_its_names_and_imports_no_torch_before_one_is_asked_for():
    code = (
        "import sys, lightning_evo\n"
        "assert set(lightning_evo.__all__) <= set(dir(lightning_evo))\n"
        "assert 'torch' not in sys.modules\n"
        "lightning_evo.SearchSpace\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    import lightning_evo

    for name in lightning_evo.__all__:
        assert getattr(lightning_evo, name) is not None
