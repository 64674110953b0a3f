"""The documentation does what it says: its code runs, its configs parse, its links lead somewhere, nothing is left out."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import json
import re
import types
import warnings
from itertools import zip_longest
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import yaml
from docs_pages import (
    DOCS,
    PAGES,
    ROOT,
    SESSIONS,
    Block,
    blocks_of,
    file_name,
    headings_of,
    named,
    prose_of,
    run_python,
)

from lightning_evo import EvolutionCLI, __version__, algorithms, callbacks, data, genome, models, predictors, swarms
from lightning_evo.algorithms import Algorithm, Predictor, Prescreen, SearchSetup
from lightning_evo.cli import main
from lightning_evo.cli.lightning import FLAGS
from lightning_evo.evolution import Budget, Evolution, Final, SearchError, Workers
from lightning_evo.genome import SpaceError
from lightning_evo.training.candidate import COSTS
from lightning_evo.utils.signatures import constructor_parameters

# What is keyword-only is for Python alone.
SECTION = [p.name for p in inspect.signature(Evolution).parameters.values() if p.kind is not p.KEYWORD_ONLY]
LANGUAGES = {"python", "yaml", "bash", "text", "mermaid"}
REPORTERS = ("lightning_evo.reporting.tensorboard.reporter", "lightning_evo.reporting.wandb.reporter")
REFUSAL = "lightning-evo: error: "

# What a snippet of the `evolution:` section leaves out; it fits every config.
REST = {
    "evolution": {
        "space": {"trainer.max_epochs": {"class_path": "Integer", "init_args": {"low": 1, "high": 2}}},
        "objectives": [{"monitor": "val_acc"}],
        "budget": {"candidates": 2},
    }
}


# -- python ------------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    "page",
    [pytest.param(page, id=named(page)) for page in PAGES if blocks_of(page, "python") and named(page) not in SESSIONS],
)
def test_the_python_blocks_of_a_page_run_as_one_script(page, workplace, main_module):
    for block in blocks_of(page, "python"):
        if file_name(block):
            (workplace / str(file_name(block))).write_text(block.text)
        if "import pandas" in block.text:
            pytest.importorskip("pandas", reason=f"{named(page)} line {block.line} shows pandas")
        run_python(block, workplace / "page.py", main_module)


# -- yaml --------------------------------------------------------------------------------------------------------------


class DryRun(EvolutionCLI):
    """The real command line."""

    @staticmethod
    def subcommands():
        """Only the one that is run: making the parsers of the others takes a third of the time."""
        return {"fit": EvolutionCLI.subcommands()["fit"]}


def dry_run(*configs: Path) -> Evolution:
    """Parse the configs as ``lightning-evo fit`` does, and check everything that a search checks before it trains."""
    quiet = {"exit_on_error": False}
    arguments = [argument for config in configs for argument in ("--config", str(config))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with patch.object(Evolution, "run", autospec=True) as run:
            DryRun(args=["fit", *arguments], parser_kwargs={**quiet, "fit": dict(quiet)})
        (evolution,) = run.call_args.args
        evolution.trainable.check(evolution.space, evolution.objectives)
    setup = SearchSetup(evolution.space, evolution.objectives, measure=lambda genomes: [{} for _ in genomes])
    evolution.algorithm.bind(setup)
    if evolution.final is not None:
        evolution.trainable.blueprint.check(evolution.trainable.resolve(evolution.final.overrides))
    return evolution


def yaml_cases() -> list[Any]:
    """Each yaml block with the config it stands on: the one before it on its page, or the example's."""
    cases = []
    for page in PAGES:
        if named(page) in ("docs/how-to/hydra.md", "docs/how-to/own-cli.md"):
            continue  # what is on them is run by other tests, and isn't for a LightningCLI without classes of its own
        config: Block | None = None
        every = blocks_of(page)
        for block, following in zip_longest(every, every[1:]):
            if block.language != "yaml":
                continue
            if "evolution" not in block.loaded:
                config = block
            told = following.text if following and following.text.startswith(REFUSAL) else None
            cases.append(pytest.param(block, config, told, id=f"{named(page)}:{block.line}"))
    return cases


@pytest.mark.parametrize(("block", "config", "told"), yaml_cases())
def test_a_yaml_block_is_accepted_by_the_command_line_or_refused_as_shown(block, config, told, workplace):
    for other in blocks_of(block.page, "python"):
        if file_name(other):
            (workplace / str(file_name(other))).write_text(other.text)
    standing_on = workplace / "config.yaml"
    if config is not None:
        standing_on.write_text(config.text)
    rest, snippet = workplace / "rest.yaml", workplace / "snippet.yaml"
    rest.write_text(json.dumps(REST))
    snippet.write_text(block.text)
    if told is None:
        dry_run(standing_on, rest, snippet)
    else:
        with pytest.raises((SearchError, SpaceError)) as refusal:
            dry_run(standing_on, rest, snippet)
        assert f"{REFUSAL}{refusal.value}" == told.strip()


# -- commands ----------------------------------------------------------------------------------------------------------


def commands() -> list[Any]:
    lines = [
        (page, line.split("#")[0].split())
        for page in PAGES
        for block in blocks_of(page, "bash")
        for line in block.text.splitlines()
        if line.startswith("lightning-evo")
    ]
    return [pytest.param(words, id=f"{named(page)}: {' '.join(words)}") for page, words in lines]


@pytest.mark.parametrize("words", commands())
def test_a_command_has_the_options_it_is_shown_with(words, capsys):
    if words[1] == "fit":
        options = {
            word for word in words if word.startswith("--") and not word.startswith(("--evolution", "--trainer"))
        }
        assert options - FLAGS.keys() in ({"--config"}, {"--cli", "--config"})
        return
    with pytest.raises(SystemExit) as ended:
        main([words[1], "--help"])
    assert ended.value.code == 0
    known = capsys.readouterr().out
    for word in words[2:]:
        assert not word.startswith("--") or word.split("=")[0] in known


# -- links and images --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md"], ids=named)
def test_links_and_images_lead_to_something(page):
    targets = re.findall(r"\]\(([^)\s]+)\)", prose_of(page)) + re.findall(r"src=\"([^\"]+)\"", prose_of(page))
    for target in targets:
        if re.match(r"https?://", target):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.is_file(), f"{target} is not there"
        assert not anchor or anchor in headings_of(there), f"{target}: no such heading"
        if page.is_relative_to(DOCS):
            assert there.is_relative_to(DOCS), f"{target} leads out of what mkdocs builds"


def test_every_block_says_what_it_is():
    for page in PAGES:
        for block in blocks_of(page):
            assert block.language in LANGUAGES, f"{named(page)} line {block.line}: {block.language!r}"


class _IgnoringTags(yaml.SafeLoader):
    """mkdocs.yml names Python functions."""


_IgnoringTags.add_multi_constructor("tag:yaml.org,2002:python/", lambda loader, suffix, node: suffix)


def test_the_navigation_holds_every_page():
    def pages(entry) -> list[str]:
        if isinstance(entry, str):
            return [entry]
        return [page for child in (entry.values() if isinstance(entry, dict) else entry) for page in pages(child)]

    site = yaml.load((ROOT / "mkdocs.yml").read_text(), _IgnoringTags)
    assert sorted(pages(site["nav"])) == sorted(p.relative_to(DOCS).as_posix() for p in DOCS.rglob("*.md"))


# -- completeness ------------------------------------------------------------------------------------------------------


def public_classes(module: types.ModuleType, kind: type | None = None) -> list[str]:
    """Names of the public classes of a room that a user configures."""
    found = [name for name in module.__all__ if inspect.isclass(getattr(module, name))]
    return [name for name in found if kind is None or issubclass(getattr(module, name), kind)]


@pytest.mark.parametrize(
    ("page", "names"),
    [
        ("config.md", SECTION),
        ("config.md", [field.name for kind in (Budget, Workers, Final) for field in dataclasses.fields(kind)]),
        ("config.md", public_classes(genome, genome.Gene)),
        ("config.md", [f"cost/{name}" for name in COSTS]),
        ("running.md", [f"cost/{name}" for name in COSTS]),
        ("algorithms.md", public_classes(algorithms, Algorithm)),
        ("algorithms.md", [field.name for field in dataclasses.fields(Prescreen)]),
        ("predictors.md", public_classes(predictors, Predictor)),
        (
            "models-and-data.md",
            [name for name in public_classes(models) if not name.startswith(("Chromosome", "Decoded"))],
        ),
        ("models-and-data.md", [name for name in public_classes(data) if name != "ImageSet"]),
        ("../README.md", [n for n in public_classes(genome, genome.Gene) if n != "Gene"]),
        ("../README.md", [n for n in public_classes(algorithms, Algorithm) if n != "Algorithm"]),
    ],
)
def test_everything_that_can_be_configured_is_described(page, names):
    text = (DOCS / page).read_text()
    assert [name for name in names if not re.search(rf"`(lightning_evo\.genome\.)?{name}`", text)] == []


@pytest.mark.parametrize("name", callbacks.__all__)
def test_every_callback_has_a_method_card(name):
    card = DOCS / "callbacks" / f"{name}.md"
    wanted = {"what-it-does", "when-it-helps", "when-it-does-not", "defaults", "cost", "source", "example"}
    assert wanted <= headings_of(card)
    assert blocks_of(card, "python")


def documented_defaults() -> list[Any]:
    """The rows of all tables of defaults: class (from the heading above), argument, default."""
    homes = {
        name: getattr(module, name)
        for module in (
            *map(importlib.import_module, ("lightning_evo.evolution", *REPORTERS)),
            algorithms,
            predictors,
            genome,
            models,
            data,
            callbacks,
            swarms,
        )
        for name in module.__all__
    }
    cases = []
    for page in PAGES:
        kind = None
        for line in page.read_text().splitlines():
            if heading := re.match(r"#+ `(\w+)`$", line):
                kind = homes[heading[1]]
            elif row := re.match(r"\| (`[^|]*`) \| `([^|]*)` \|", line):
                if kind is not None:
                    keys = re.findall(r"`([^`]*)`", row[1])
                    cases += [pytest.param(kind, key, row[2], id=f"{kind.__name__}.{key}") for key in keys]
            elif line.startswith("#"):
                kind = None
    return cases


@pytest.mark.parametrize(("kind", "key", "shown"), documented_defaults())
def test_a_default_in_a_table_is_the_one_in_the_code(kind, key, shown):
    default = constructor_parameters(kind)[key].default
    if default is dataclasses.MISSING or type(default).__name__ == "_HAS_DEFAULT_FACTORY_CLASS":
        default = next(f for f in dataclasses.fields(kind) if f.name == key).default_factory()
    expected = default if isinstance(default, str) else yaml.safe_load(shown)
    assert (shown if isinstance(default, str) else expected) == (
        list(default) if isinstance(default, tuple) else default
    )


@pytest.mark.parametrize("target", re.findall(r"^::: (\S+)$", (DOCS / "api.md").read_text(), re.M))
def test_the_reference_names_things_that_exist(target):
    try:
        importlib.import_module(target)
    except ModuleNotFoundError:
        module, _, name = target.rpartition(".")
        assert hasattr(importlib.import_module(module), name)


def test_the_changelog_knows_this_version():
    text = (ROOT / "CHANGELOG.md").read_text()
    assert __version__ in text
    assert "## [Unreleased]" in text
