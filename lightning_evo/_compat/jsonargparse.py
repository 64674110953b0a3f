"""What has another name in another version of jsonargparse (from 4.41 on), and private names of it under public ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import yaml
from jsonargparse import ActionConfigFile, ArgumentParser, Namespace, Path

__all__ = ["ArgumentLink", "config_action", "dump", "instantiate", "links_of", "read_texts_as", "reading_paths"]

# All three names changed in 4.49.
_READ = "read_text" if hasattr(Path, "read_text") else "get_content"
_INSTANTIATE, _SKIP_UNSET = (
    ("instantiate", "skip_unset") if hasattr(ArgumentParser, "instantiate") else ("instantiate_classes", "skip_none")
)


def dump(
    parser: ArgumentParser, namespace: Namespace, *, skip_link_targets: bool = True, validate: bool = False
) -> str:
    """The whole of a parsed config as text, with what isn't set."""
    options: dict[str, Any] = {_SKIP_UNSET: False, "skip_validation": not validate}
    return parser.dump(namespace, skip_link_targets=skip_link_targets, **options)


def instantiate(parser: ArgumentParser, namespace: Namespace) -> Namespace:
    """What a parsed config describes."""
    made: Namespace = getattr(parser, _INSTANTIATE)(namespace)
    return made


@contextmanager
def reading_paths(read: Callable[[Path, Callable[[Path], str]], str]) -> Iterator[None]:
    """Have ``read`` read the files that a config names in the place of a section, within the block.

    Args:
        read: Called with a file's path and the function that would read it otherwise.
    """
    original = getattr(Path, _READ)
    setattr(Path, _READ, lambda path: read(path, original))
    try:
        yield
    finally:
        setattr(Path, _READ, original)


@dataclass(frozen=True)
class ArgumentLink:
    """A link between arguments of a parser.

    Args:
        sources: Where the value comes from: config paths.
        target: Where it goes.
        on_parsing: Whether the value is known when the config is parsed; otherwise when classes are instantiated.
    """

    sources: tuple[str, ...]
    target: str
    on_parsing: bool


def links_of(parser: ArgumentParser) -> list[ArgumentLink]:
    """The links of a parser; without them, a gene at a link's target would have no effect and nobody would say so."""
    group = getattr(parser, "_links_group", None)
    actions = [] if group is None else group._group_actions
    return [
        ArgumentLink(tuple(name for name, _ in action.source), action.target[0], action.apply_on == "parse")
        for action in actions
    ]


def config_action(parser: ArgumentParser) -> ActionConfigFile | None:
    """The parser's ``--config``; without it, whatever adds one would decide how files are read."""
    found = (action for action in parser._actions if isinstance(action, ActionConfigFile))
    return next(found, None)


def read_texts_as(loader: type[yaml.SafeLoader]) -> None:
    """Have text that is given for a number read by the rules of a YAML loader, in this process.

    Without it, ``"12:30:00"`` in quotes (or on a command line) is 45000, a number in base 60, wherever a number is due.
    """
    module = import_module("jsonargparse._loaders_dumpers")
    module.get_yaml_default_loader().yaml_implicit_resolvers = loader.yaml_implicit_resolvers
