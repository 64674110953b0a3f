"""``lightning-evo hydra``: a search over the configs of a Hydra project."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ArgumentError, ArgumentParser

from lightning_evo._compat.jsonargparse import dump
from lightning_evo.archive import ArchiveError
from lightning_evo.cli.config_files import STRICT_YAML, ConfigFile
from lightning_evo.cli.console import INTERRUPTED, add_working_directory, refuse, report_to_user
from lightning_evo.cli.lightning import FLAGS, GROUP, add_section, instantiate_section, with_choices, with_flags
from lightning_evo.evolution import Evolution, SearchError, SearchInterrupted
from lightning_evo.training.blueprint import ConfigError, error_summary, load_yaml

__all__ = ["run"]

DESCRIPTION = """Search over the configs of a Hydra project: each candidate is what Hydra composes with a genome's values;
what its _target_ entries name is instantiated and trained. The genes of SEARCH.yaml (a file with an `evolution:` section)
are paths of the composed config, or config groups, whose options they choose."""


def run(arguments: Sequence[str]) -> None:
    """Run the command.

    Args:
        arguments: The command line after ``hydra``.

    Raises:
        SystemExit: With code 2 after an error message, with 130 after an interruption.
    """
    options, section = _parse(arguments)
    add_working_directory()
    try:
        from lightning_evo.training.hydra import SECTIONS, HydraBlueprint, HydraTrainable
    except ImportError as error:
        if error.name not in ("hydra", "omegaconf"):
            raise
        refuse(ValueError("hydra: hydra-core isn't installed: pip install 'lightning-evo[hydra]'"))
    sections = {name: path for name in SECTIONS if (path := getattr(options, name)) is not None}
    blueprint = HydraBlueprint(
        config_dir=str(options.config_path.absolute()),
        config_name=options.config_name,
        overrides=tuple(options.overrides),
        imports=tuple(options.imports),
        sections=sections,
    )
    try:
        made = instantiate_section(section)
        try:
            search = Evolution(**made, config=HydraTrainable(blueprint))
        except ValueError as error:
            raise SearchError(f"{GROUP}: {error}") from None
        search.run()
    except ConfigError as error:
        refuse(ValueError(f"hydra: {error}"))
    except ModuleNotFoundError as error:
        if error.name not in options.imports and not any(one.startswith(f"{error.name}.") for one in options.imports):
            raise
        refuse(ValueError(f"hydra: --import: there is no module {error.name!r}"))
    except (SearchError, ArchiveError) as error:
        refuse(error)
    except SearchInterrupted as stop:
        report_to_user(stop)
        raise SystemExit(INTERRUPTED) from None


def _parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, dict[str, object]]:
    """The options, and the ``evolution:`` section of the search files and of ``--evolution.NAME VALUE``."""
    parser = argparse.ArgumentParser(
        prog="lightning-evo hydra",
        description=DESCRIPTION,
        usage="lightning-evo hydra -cp DIR -cn NAME SEARCH.yaml [KEY=VALUE ...] [options]",
    )
    parser.add_argument(
        "--config-path", "-cp", type=Path, required=True, metavar="DIR", help="directory of the configs"
    )
    parser.add_argument("--config-name", "-cn", required=True, metavar="NAME", help="the primary config")
    parser.add_argument(
        "--import",
        dest="imports",
        action="append",
        default=[],
        metavar="MODULE",
        help="import a module first, such as the project's script, which registers resolvers or sets the environment",
    )
    for name in ("model", "data", "trainer", "callbacks", "logger"):
        parser.add_argument(f"--{name}", metavar="PATH", help=f"key of the {name} in the config, if unusual")
    words, given = _split(arguments)
    options, rest = parser.parse_known_args(words)
    options.overrides = [word for word in given if _is_override(word)]
    files = [word for word in given if not _is_override(word)]
    rest = with_flags(rest)
    if unknown := [part for part in rest if part.startswith("-") and not part.startswith(f"--{GROUP}.")]:
        parser.error(f"unknown option {unknown[0]}; overrides of the config are written KEY=VALUE")
    if not options.config_path.is_dir():
        parser.error(f"--config-path: {options.config_path} is no directory")
    if not files:
        parser.error(f"give a file with an `{GROUP}:` section")
    reader = ArgumentParser(exit_on_error=False, parser_mode=STRICT_YAML)
    reader.add_argument("-c", "--config", action=ConfigFile)
    add_section(reader)
    try:
        parsed = reader.parse_args([*(word for file in files for word in ("--config", file)), *rest])
        section = load_yaml(dump(reader, parsed, validate=True))[GROUP]
    except ArgumentError as error:
        refuse(ValueError(with_choices(error_summary(error))))
    if not isinstance(section, dict):
        refuse(ValueError(f"{GROUP}: {section!r} is not a mapping; give space, objectives and budget"))
    return options, section


def _split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """A command line's options with their values, and what is neither, in any order."""
    options: list[str] = []
    given: list[str] = []
    takes_value = False
    for word in arguments:
        if word.startswith("-"):
            options.append(word)
            takes_value = "=" not in word and word not in FLAGS
        else:
            (options if takes_value else given).append(word)
            takes_value = False
    return options, given


def _is_override(part: str) -> bool:
    return "=" in part or part.startswith("~")
