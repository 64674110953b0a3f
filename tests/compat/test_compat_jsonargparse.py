"""What is used of jsonargparse under other names in other versions, and privately, behaves as it is used."""

from __future__ import annotations

import pytest
import yaml
from compat_rows import Row, private_names
from jsonargparse import ActionConfigFile, ArgumentError, ArgumentParser

from lightning_evo._compat import jsonargparse as compat
from lightning_evo.utils.config_files import StrictLoader


class Part:
    """Something to instantiate."""

    def __init__(self, size: int = 1, name: str | None = None) -> None:
        self.size = size


def parser() -> ArgumentParser:
    made = ArgumentParser(exit_on_error=False)
    made.add_argument("--config", action=ActionConfigFile)
    made.add_class_arguments(Part, "one")
    made.add_class_arguments(Part, "other")
    made.link_arguments("one.size", "other.size")
    return made


def links() -> None:
    assert compat.links_of(ArgumentParser()) == []
    assert compat.links_of(parser()) == [compat.ArgumentLink(("one.size",), "other.size", True)]


def configs() -> None:
    assert type(compat.config_action(parser())) is ActionConfigFile
    assert compat.config_action(ArgumentParser()) is None


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


TABLE = [
    Row("_loaders_dumpers", "quoted text such as '12:30:00' is taken for a number in base 60", base_60),
    Row("_links_group", "a gene at a link's target has no effect and nobody says so", links),
    Row("_group_actions", "a gene at a link's target has no effect and nobody says so", links),
    Row("_actions", "the error of a config file doesn't name the file", configs),
]


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
def test_it_exists_and_behaves_as_it_is_used(row):
    row.run()


def test_every_private_name_has_its_row():
    assert {row.name for row in TABLE} >= private_names("jsonargparse")


def test_what_has_two_names_writes_down_whole_configs_and_makes_what_they_say():
    made = parser()
    parsed = made.parse_object({"one": {"size": 3}})
    assert compat.dump(made, parsed).split() == ["one:", "size:", "3", "name:", "null", "other:", "name:", "null"]
    assert "size: 3" in compat.dump(made, parsed, skip_link_targets=False, validate=True).partition("other")[2]
    assert compat.instantiate(made, parsed).other.size == 3
