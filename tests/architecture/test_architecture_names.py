"""No two public classes share a name, no feature is named in the core, and nothing is cited by a number of ours."""

from __future__ import annotations

import ast
import re
from collections import defaultdict

import pytest
from architecture_source import PACKAGE, ROOT, modules
from lightning.pytorch import Callback

import lightning_evo.algorithms
import lightning_evo.callbacks
import lightning_evo.predictors
import lightning_evo.reporting.tensorboard
import lightning_evo.reporting.wandb
from lightning_evo.algorithms import Algorithm, Predictor
from lightning_evo.callbacks.search import SearchCallback
from lightning_evo.predictors.curves.learning_curve import CurvePredictor
from lightning_evo.predictors.curves.policies import StoppingPolicy
from lightning_evo.reporting.reporter import Reporter

KINDS = (Callback, Algorithm, Predictor, CurvePredictor, StoppingPolicy, Reporter)
"""A feature is one of these that a config may name."""

OF_THE_CORE = {
    "CostMeter": "measures the cost of every candidate",
    "FitnessRecorder": "reads the fitness of every candidate",
    "SpeedMeter": "measures the speed of every candidate",
    "RegularizedEvolution": "is the algorithm where a config names none",
}
"""What is named in the core although it is one of those kinds, and why."""


def features() -> set[str]:
    faces = (
        lightning_evo.algorithms,
        lightning_evo.callbacks,
        lightning_evo.predictors,
        lightning_evo.reporting.tensorboard,
        lightning_evo.reporting.wandb,
    )
    exported = {name: getattr(face, name) for face in faces for name in face.__all__}
    kinds = {*KINDS, SearchCallback}
    return {
        name
        for name, thing in exported.items()
        if isinstance(thing, type) and issubclass(thing, KINDS) and thing not in kinds
    } - set(OF_THE_CORE)


def test_no_two_public_classes_share_a_name():
    homes = defaultdict(list)
    for module in modules().values():
        for node in module.tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes[node.name].append(module.where)
    assert {name: where for name, where in homes.items() if len(where) > 1} == {}


def test_no_feature_is_named_in_the_core():
    known = features()
    assert {"StructuralGrowth", "SwarmAveraging", "NSGA2", "PopulationBasedTraining", "Hyperband"} <= known
    named = [
        f"{module.where}:{node.lineno} {name}"
        for module in modules().values()
        if module.room in ("evolution", "training")
        for node in ast.walk(module.tree)
        for name in _named(node)
        if name in known
    ]
    assert named == []


def _named(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Name):
        return [node.id]
    if isinstance(node, ast.Attribute):
        return [node.attr]
    if isinstance(node, ast.ImportFrom):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return [node.value.rpartition(".")[2]]  # by its import path, or found by its name
    return []


READ_BY_USERS = [
    *sorted(PACKAGE.rglob("*.py")),
    *sorted(PACKAGE.rglob("*.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "examples").rglob("*.*")),
    *sorted((ROOT / "configs").rglob("*.yaml")),
    *sorted((ROOT / "benchmarks").rglob("*.*")),
    *sorted(ROOT.glob("*.md")),
    ROOT / "mkdocs.yml",
]


@pytest.mark.parametrize("pattern", [r"[Rr]eferences? 00\d", r"shared/references"])
def test_sources_are_cited_by_author_year_and_link(pattern):
    assert len(READ_BY_USERS) > 300
    found = [
        str(path.relative_to(ROOT))
        for path in READ_BY_USERS
        if path.suffix in (".py", ".md", ".yaml", ".yml", ".sh", ".toml", ".js", ".html", ".css")
        and re.search(pattern, path.read_text(encoding="utf-8"))
    ]
    assert found == []


def test_few_places_are_hidden_from_the_type_checker():
    ignored = [
        f"{module.where}:{number}"
        for module in modules().values()
        for number, line in enumerate(module.path.read_text(encoding="utf-8").splitlines(), 1)
        if "# type: ignore" in line
    ]
    assert len(ignored) <= 30, ignored
