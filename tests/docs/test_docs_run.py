"""The documentation does what it says: its code runs, its configs parse, its links lead somewhere, nothing is left out."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import json
import re
import sys
import types
import warnings
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pytest
import yaml

from lightning_evo import EvolutionCLI, __version__, algorithms, callbacks, data, genome, models, predictors, swarms
from lightning_evo.algorithms import Algorithm, Predictor, Prescreen
from lightning_evo.cli import main
from lightning_evo.evolution import Budget, Evolution, Final, SearchError, Workers
from lightning_evo.genome import SpaceError
from lightning_evo.training.candidate import COSTS

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
EXAMPLE = ROOT / "examples" / "own_model"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
SLOW = {"docs/quickstart.md"}
# What is keyword-only is for Python alone.
SECTION = [p.name for p in inspect.signature(Evolution).parameters.values() if p.kind is not p.KEYWORD_ONLY]
LANGUAGES = {"python", "yaml", "bash", "text", "mermaid"}
REFUSAL = "lightning-evo: error: "

# What a snippet of the `evolution:` section leaves out; it fits every config.
REST = {
    "evolution": {
        "space": {"trainer.max_epochs": {"class_path": "Integer", "init_args": {"low": 1, "high": 2}}},
        "objectives": [{"monitor": "val_acc"}],
        "budget": {"candidates": 2},
    }
}


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: Path
    line: int
    language: str
    text: str

    @property
    def loaded(self) -> Any:
        """What a yaml block holds."""
        return yaml.safe_load(self.text)


def named(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks_of(page: Path, *languages: str) -> list[Block]:
    found, start, lines = [], None, page.read_text().splitlines()
    for number, line in enumerate(lines):
        if not line.startswith("```"):
            continue
        if start is None:
            start = number
        else:
            language, text = lines[start][3:].strip(), "\n".join(lines[start + 1 : number]) + "\n"
            found.append(Block(page, start + 1, language, text))
            start = None
    assert start is None, f"{page}: the block that begins in line {start} has no end"
    return [block for block in found if not languages or block.language in languages]


def prose_of(page: Path) -> str:
    """A page without its blocks and inline code."""
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE))


def headings_of(page: Path) -> set[str]:
    """The anchors of a page's headings, as both GitHub and mkdocs make them."""
    titles = re.findall(
        r"^#+ (.*)$", re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE), re.M
    )
    return {re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", title).strip().lower()) for title in titles}


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A folder with the example's files, in which pages run; what they import is forgotten afterwards."""
    for file in EXAMPLE.glob("*.yaml"):
        (tmp_path / file.name).write_text(file.read_text())
    monkeypatch.chdir(tmp_path)
    for folder in (EXAMPLE, tmp_path):
        monkeypatch.syspath_prepend(folder)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith((str(tmp_path), str(EXAMPLE))):
            del sys.modules[name]


def file_name(block: Block) -> str | None:
    """The file that a python block says it is in: ``# name.py`` in its first line."""
    match = re.match(r"# (\w+\.py)\n", block.text)
    return match[1] if match else None


# -- python ------------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, id=named(page), marks=[pytest.mark.slow] * (named(page) in SLOW))
        for page in PAGES
        if blocks_of(page, "python")
    ],
)
def test_the_python_blocks_of_a_page_run_as_one_script(page, workplace, monkeypatch):
    # A main module like that of `python page.py`, which worker processes import too.
    script = workplace / "page.py"
    script_module = types.ModuleType("__main__")
    script_module.__file__ = str(script)
    monkeypatch.setitem(sys.modules, "__main__", script_module)
    for block in blocks_of(page, "python"):
        if file_name(block):
            (workplace / str(file_name(block))).write_text(block.text)
        if "import pandas" in block.text:
            pytest.importorskip("pandas", reason=f"{named(page)} line {block.line} shows pandas")
        with script.open("a") as file:
            file.write(block.text)
        # Empty lines before it: a traceback then names the page's own line.
        exec(compile("\n" * block.line + block.text, str(page), "exec"), vars(script_module))


# -- yaml --------------------------------------------------------------------------------------------------------------


class DryRun(EvolutionCLI):
    """The real command line, up to the point where the search would start."""

    made: Evolution

    def fit(self, model, datamodule=None, **kwargs):
        self.made = self.evolution()


def dry_run(*configs: Path) -> Evolution:
    """Parse the configs as ``lightning-evo fit`` does, and check everything that a search checks before it trains."""
    quiet = {"exit_on_error": False}
    arguments = [argument for config in configs for argument in ("--config", str(config))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        evolution = DryRun(args=["fit", *arguments], parser_kwargs={**quiet, "fit": dict(quiet)}).made
        evolution.trainable.check(evolution.space, evolution.objectives)
    evolution.algorithm.measure = lambda genomes: [{} for _ in genomes]  # a search brings what measures proxies
    evolution.algorithm.bind(evolution.space, evolution.objectives, seed=0)
    if evolution.final is not None:
        evolution.trainable.blueprint.check(evolution.trainable.resolve(evolution.final.overrides))
    return evolution


def yaml_cases() -> list[Any]:
    """Each yaml block with the config it stands on: the one before it on its page, or the example's."""
    cases = []
    for page in PAGES:
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
        assert options == {"--config"}
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
            importlib.import_module("lightning_evo.evolution"),
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
    default = inspect.signature(kind).parameters[key].default
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
