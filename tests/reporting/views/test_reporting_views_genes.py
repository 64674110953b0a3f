"""Genes as columns to draw, and which of them matter."""

from __future__ import annotations

import math
import random

import numpy
import pytest
from reporting_archives import CREATED, HOSTILE, SPACE, STRANGE_GENE, featured, synthetic

from lightning_evo.archive import Archive, ArchiveWriter
from lightning_evo.evolution.description import describe
from lightning_evo.genome import Bitstring, Candidate, Categorical, Genome, LogUniform, Result, SearchSpace, Uniform
from lightning_evo.reporting import views


def columns_of(directory):
    with Archive(directory) as archive:
        seen = views.read_snapshot(archive)
    return seen, {gene.path: gene for gene in views.gene_columns(seen)}


@pytest.fixture(scope="module")
def genes(tmp_path_factory):
    return columns_of(featured(tmp_path_factory.mktemp("featured")))


def test_each_gene_has_the_kind_and_scale_that_it_was_searched_with(genes):
    _, found = genes
    assert {gene.name: (gene.kind, gene.scale) for gene in found.values()} == {
        "lr": ("number", "log"),
        "model.width": ("ordered", "linear"),
        "data.width": ("number", "linear"),
        'a<b>"c': ("category", "linear"),
        "norm": ("category", "linear"),
        "momentum": ("number", "linear"),
        "chromosome": ("text", "linear"),
        "layers": ("text", "linear"),
        "initial": ("text", "linear"),
    }


def test_values_are_numbers_or_places_among_the_choices(genes):
    seen, found = genes
    for gene in found.values():
        for row, value in zip(seen.rows, gene.values.tolist(), strict=True):
            if gene.path not in row:
                assert math.isnan(value)
            elif gene.choices is None:
                assert value == row[gene.path]
            else:
                assert gene.texts[int(value)] == row[gene.path]
    assert found["model.init_args.width"].choices == ("16", "32", "64", "128")  # also those that nobody has
    assert found["model.init_args.norm"].choices == ("false", "true")
    assert found[STRANGE_GENE].choices == ("relu", HOSTILE, "GELU(approximate=tanh)")
    assert numpy.isnan(found["model.init_args.momentum"].values).any()  # not active in all


def test_choices_that_read_alike_are_told_apart(tmp_path):
    space = SearchSpace({"x": Categorical(["1", 1, True, "true"])})
    with ArchiveWriter(tmp_path) as writer:
        writer.set_meta("search", {"evolution": {"space": describe(space)}})
    _, found = columns_of(tmp_path)
    assert found["x"].choices == ('"1"', "1", "true", '"true"')


def test_texts_are_shortened_where_there_are_many(tmp_path, monkeypatch):
    space = SearchSpace({"x": Bitstring(300)})
    rng = random.Random(0)
    with ArchiveWriter(tmp_path) as writer:
        writer.set_meta("search", {"evolution": {"space": describe(space)}})
        for id in range(3):
            writer.record_candidate(Candidate(id, space.sample(rng)), queued=CREATED)
    _, found = columns_of(tmp_path)
    assert [len(text) for text in found["x"].choices] == [300] * 3
    monkeypatch.setattr("lightning_evo.reporting.views.genes.MAX_LABEL_CHARACTERS", 300)
    _, found = columns_of(tmp_path)
    assert [len(text) for text in found["x"].choices] == [100] * 3
    assert found["x"].choices[0].endswith("…")
    assert len(found["x"].texts[0]) == 300


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1, 2.5, 3], "number"),
        (["a", "b", "a"], "category"),
        ([True, False, True], "category"),
        ([[1, 2], [3], [1, 2]], "text"),
        ([1, "a", 2], "text"),
        ([f"text {i}" for i in range(30)], "text"),
    ],
)
def test_a_gene_of_the_users_own_is_judged_by_its_values_and_never_imported(tmp_path, values, kind):
    description = {"x": {"class_path": "a_module_that_is_not_there.Own", "init_args": {}}}
    with ArchiveWriter(tmp_path) as writer:
        writer.set_meta("search", {"evolution": {"space": description}})
        for id, value in enumerate(values):
            writer.record_candidate(Candidate(id, Genome({"x": value})), queued=CREATED)
    _, found = columns_of(tmp_path)
    assert found["x"].kind == kind


def test_a_run_that_does_not_say_what_it_searched_has_the_genes_of_its_candidates(tmp_path):
    with ArchiveWriter(tmp_path) as writer:
        writer.set_meta("objectives", [{"monitor": "acc", "mode": "max"}])
        writer.record_candidate(Candidate(0, Genome({"model.lr": 0.1})), queued=CREATED)
        writer.record_candidate(Candidate(1, Genome({"model.lr": 0.2, "model.k": "a"})), queued=CREATED)
        writer.record_result(0, Result("completed", (0.5,), cost={"params": 1}, metrics={"acc": 0.5}))
    _, found = columns_of(tmp_path)
    assert {path: gene.kind for path, gene in found.items()} == {"model.lr": "number", "model.k": "category"}


# -- importance --------------------------------------------------------------------------------------------------------

SEARCHED = SearchSpace(
    {
        "m.lr": LogUniform(1e-4, 1.0),
        "m.act": Categorical(["relu", "gelu", "silu"]),
        "m.bits": Bitstring(6),
        "m.idle": Uniform(0.0, 1.0),
        "m.fixed": Categorical(["only"]),
    }
)


def searched(directory, fitness, count=160, status="completed"):
    """A run of ``count`` random genomes with this fitness: a function of genome and id."""
    rng = random.Random(1)
    with ArchiveWriter(directory) as writer:
        writer.update_meta(
            {
                "search": {"evolution": {"space": describe(SEARCHED)}},
                "objectives": [{"monitor": "acc", "mode": "max"}],
            }
        )
        for id in range(count):
            genome = SEARCHED.sample(rng)
            writer.record_candidate(Candidate(id, genome), queued=CREATED)
            writer.record_result(id, Result(status, (fitness(genome, id),)))
    with Archive(directory) as archive:
        return views.importance(views.read_snapshot(archive))


@pytest.mark.parametrize(
    ("gene", "fitness"),
    [
        ("m.lr", lambda genome, id: -abs(math.log10(genome["m.lr"]) + 2)),
        ("m.act", lambda genome, id: {"relu": 0.1, "gelu": 0.9, "silu": 0.2}[genome["m.act"]]),
        ("m.bits", lambda genome, id: genome["m.bits"].count("1") / 6),
    ],
)
def test_the_gene_that_decides_the_fitness_is_the_most_important_and_others_hardly_matter(tmp_path, gene, fitness):
    found = searched(tmp_path, fitness)
    assert found.why_not is None
    assert (found.genes[0].path, found.genes[0].name) == (gene, gene.removeprefix("m."))
    assert found.genes[0].mean > 0.5
    assert all(other.mean < 0.1 for other in found.genes[1:])
    assert found.r2 > 0.7
    assert found.trained_on == 120
    assert {other.path for other in found.genes} == set(SEARCHED)


def test_where_the_fitness_is_chance_the_forest_predicts_nothing_and_says_so(tmp_path):
    found = searched(tmp_path, lambda genome, id: random.Random(id).random())
    assert found.r2 < 0.2


def test_one_exploded_fitness_does_not_hide_the_rest(tmp_path):
    found = searched(
        tmp_path, lambda genome, id: -1e30 if id == 5 else math.nan if id == 6 else math.log(genome["m.lr"])
    )
    assert found.genes[0].path == "m.lr"
    assert found.r2 > 0.4


@pytest.mark.parametrize(
    ("fitness", "known", "why"),
    [
        (lambda genome, id: genome["m.lr"], {"count": 19}, "only 19 of the required 20 candidates have a fitness"),
        (lambda genome, id: 0.5, {}, "all candidates have the same fitness"),
        (lambda genome, id: math.nan, {}, "0 candidates have a fitness"),
    ],
)
def test_where_nothing_can_be_said_of_importance_the_reason_is(tmp_path, fitness, known, why):
    found = searched(tmp_path, fitness, **known)
    assert why in found.why_not
    assert found.genes == ()
    assert found.r2 is None


def test_importances_are_the_same_each_time(tmp_path):
    with Archive(synthetic(tmp_path, 150, seed=2)) as archive:
        first, second = (views.importance(views.read_snapshot(archive)) for _ in range(2))
    assert first == second
    assert {gene.path for gene in first.genes} == set(SPACE)


def test_a_label_is_one_line_of_text_whatever_the_value():
    assert views.label({"class_path": "a.B", "init_args": {"k": {"class_path": "c.D"}}}) == "B(k=D)"
    assert views.label(None) == "null"
    assert views.label({"a": 1}) == '{"a": 1}'
