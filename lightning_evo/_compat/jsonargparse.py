"""Private names of jsonargparse, under public ones."""

from __future__ import annotations

from importlib import import_module

import yaml

__all__ = ["read_texts_as"]


def read_texts_as(loader: type[yaml.SafeLoader]) -> None:
    """Have text that is given for a number read by the rules of a YAML loader, in this process.

    Without it, ``"12:30:00"`` in quotes (or on a command line) is 45000, a number in base 60, wherever a number is due.
    """
    module = import_module("jsonargparse._loaders_dumpers")
    module.get_yaml_default_loader().yaml_implicit_resolvers = loader.yaml_implicit_resolvers
