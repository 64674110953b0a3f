"""Every private name of jsonargparse that is used exists, and behaves as it is used."""

from __future__ import annotations

import pytest
import yaml
from compat_rows import Row, private_names
from jsonargparse import ArgumentError, ArgumentParser

from lightning_evo._compat import jsonargparse as compat
from lightning_evo.utils.config_files import StrictLoader


def base_60() -> None:
    compat.read_texts_as(StrictLoader)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--count", type=int)
    parser.add_argument("--rate", type=float | None)
    parser.add_argument("--name", type=str)
    assert vars(parser.parse_object({"count": "12", "rate": "1e-3", "name": "12:30:00"})) == {
        "count": 12,
        "rate": 1e-3,
        "name": "12:30:00",
    }
    for name, text in (("count", "12:30:00"), ("rate", "12:30.5"), ("rate", "1:30")):
        assert isinstance(yaml.safe_load(text), (int, float))
        with pytest.raises(ArgumentError, match=name):
            parser.parse_object({name: text})


TABLE = [Row("_loaders_dumpers", "quoted text such as '12:30:00' is taken for a number in base 60", base_60)]


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
def test_it_exists_and_behaves_as_it_is_used(row):
    row.run()


def test_every_private_name_has_its_row():
    assert {row.name for row in TABLE} >= private_names("jsonargparse")
