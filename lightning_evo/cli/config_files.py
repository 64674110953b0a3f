"""How a command line reads its config files: as Lightning does, but nothing that is written there gets lost."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jsonargparse
import yaml
from jsonargparse import ActionConfigFile, ArgumentParser, get_loader, set_loader

from lightning_evo._compat.jsonargparse import config_action, reading_paths
from lightning_evo.utils.config_files import ConfigFileError, load_yaml_strictly, read_config_file

__all__ = ["STRICT_YAML", "ConfigFile", "bounded_nested_files", "place_of_nul", "read_strictly"]

STRICT_YAML = "lightning-evo"
"""The parser mode in which YAML that would lose something is refused, in files and in values alike."""


MAX_SECTIONS = 1000
"""Keys at the top of a config: jsonargparse takes seconds to refuse some thousands."""


def _load(text: str, path: str | None = None) -> Any:
    """Text as plain data; ``path`` is given only for whole configs."""
    value = load_yaml_strictly(text)
    if path is None and isinstance(value, dict) and all(inner is None for inner in value.values()):
        return get_loader("yaml")(text)  # `{a, b}` and `Note:` may be text that merely looks like a mapping
    return value


set_loader(STRICT_YAML, _load, (yaml.YAMLError,))


class ConfigFile(ActionConfigFile):
    """``--config``: a file, a pipe such as ``<(command)``, or the config itself; an error names the file."""

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: str | None = None) -> None:
        if not values.strip() or "\0" in values:
            raise TypeError(f"config: {values!r} is not the name of a file")
        text = values
        if values != "-" and _exists(values):
            try:
                text = read_config_file(values)
            except ConfigFileError as error:
                raise TypeError(str(error)) from None
            try:
                data = load_yaml_strictly(text)
            except ConfigFileError as error:
                raise TypeError(f"{values}: {error}") from None
            if not isinstance(data, dict):
                found = "nothing" if data is None else f"a {type(data).__name__}"
                raise TypeError(f"{values}: holds {found}, not a mapping of settings")
            # Only here: other sections may be mappings of the user's own, with any keys.
            for name, section in (("the file", data), ("evolution", data.get("evolution"))):
                for key in section if isinstance(section, dict) else ():
                    if not isinstance(key, str) or not key or " " in key:
                        raise TypeError(f"{values}: the key {key!r} in {name} is not the name of a setting")
            if len(data) > MAX_SECTIONS:
                raise TypeError(f"{values}: holds {len(data)} sections, of which a config has a few")
            if not os.path.isfile(values):
                values = text  # a pipe is read once
        try:
            super().__call__(parser, cfg, values, option_string)
        except ConfigFileError as error:
            raise TypeError(f"config: {error}") from None
        except (ValueError, OSError) as error:  # of text that is looked up as if it were the name of a file
            raise TypeError(f"{place_of_nul(load_yaml_strictly(text)) or values}: {error}") from None


@contextmanager
def bounded_nested_files() -> Iterator[None]:
    """Have files that a config names in the place of a section read in bounds, and pipes with patience and once."""
    held: dict[str, str] = {}

    def read(path: jsonargparse.Path, original: Callable[[jsonargparse.Path], str]) -> str:
        place = path.absolute
        if not _exists(place):
            return original(path)  # standard input, a URL
        if stat.S_ISFIFO(os.stat(place).st_mode):
            if place not in held:
                held[place] = read_config_file(place)
            return held[place]
        return read_config_file(place)

    with reading_paths(read):
        yield


def read_strictly(parser: ArgumentParser) -> None:
    """Have a parser read its config files as :class:`ConfigFile` does, whoever has made it."""
    if parser.parser_mode == "yaml":
        parser.parser_mode = STRICT_YAML
    action = config_action(parser)
    if type(action) is ActionConfigFile:
        action.__class__ = ConfigFile


def place_of_nul(data: Any, path: str = "") -> str:
    """The config path of the first text that holds a NUL, which no file's name can; empty if there is none."""
    if isinstance(data, dict):
        places = (place_of_nul(value, f"{path}.{key}".lstrip(".")) for key, value in data.items())
    elif isinstance(data, list):
        places = (place_of_nul(value, f"{path}[{i}]") for i, value in enumerate(data))
    else:
        return path if isinstance(data, str) and "\0" in data else ""
    return next(filter(None, places), "")


def _exists(path: str) -> bool:
    try:
        return os.path.exists(path)
    except ValueError:
        return False
