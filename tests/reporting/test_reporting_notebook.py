import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser

import pytest
from reporting_archives import HOSTILE, STRANGE_GENE, empty, featured, unfinished

from lightning_evo.algorithms import NSGA2, Operator, RandomSearch, RegularizedEvolution, SearchSetup
from lightning_evo.archive import Archive, ArchiveWriter, read_space
from lightning_evo.genome import (
    Boolean,
    Candidate,
    Gene,
    Genome,
    Integer,
    Layers,
    LogUniform,
    Objective,
    Result,
    SearchSpace,
)


class Elements(HTMLParser):
    """The elements and texts of a piece of HTML, as a browser would find them."""

    def __init__(self, text):
        super().__init__()
        self.found, self.attributes, self.texts = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.found.append(tag)
        self.attributes += attributes

    def handle_data(self, data):
        self.texts.append(data)


def cells(shown):
    """The texts of the element, after making sure that nothing in it is anything but a table."""
    elements = Elements(shown._repr_html_())
    assert set(elements.found) <= {"p", "b", "table", "thead", "tbody", "tr", "th", "td"}
    assert elements.attributes == []
    return elements.texts


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return featured(tmp_path_factory.mktemp("featured"), objectives=2)


@pytest.fixture
def archive(run):
    with Archive(run) as archive:
        yield archive


# -- archive -----------------------------------------------------------------------------------------------------------


def test_an_archive_says_its_run_its_counts_and_its_best(archive, run):
    said = repr(archive)
    assert said.startswith(f"Archive({str(run)!r}, run={HOSTILE!r})")
    assert "val_acc (max), cost/params (min); 2 pending, 18 completed, 2 stopped, 2 failed" in said
    [best] = archive.best(1)
    assert f"candidate {best['id']}, val_acc {best['val_acc']:.4g}" in said


def test_an_archives_table_has_the_best_ten_with_genes_under_short_names(archive):
    texts = cells(archive)
    assert {"id", "status", "val_acc", "cost/params", "lr", "model.width", "data.width", 'a<b>"c'} <= set(texts)
    for row in archive.ranked(10):
        assert str(row["id"]) in texts
    assert HOSTILE in texts


@pytest.mark.parametrize(
    ("build", "said"), [(empty, "no candidates yet"), (unfinished, "val_acc (max); 2 pending, 2 failed")]
)
def test_an_archive_without_a_finished_candidate_shows_what_there_is(tmp_path, build, said):
    with Archive(build(tmp_path / "run")) as archive:
        assert said in repr(archive)
        assert any(said in text for text in cells(archive))


def test_an_archive_that_is_being_written_or_says_no_objectives_can_be_shown(tmp_path):
    with ArchiveWriter(tmp_path / "run") as writer, Archive(tmp_path / "run") as archive:
        assert "no objectives; no candidates yet" in repr(archive)
        writer.record_candidate(Candidate(0, Genome({"x": "<b>"})), queued=0.0)
        assert "no objectives; 1 pending" in repr(archive)
        assert "<b>" in cells(archive)


def test_an_archive_that_has_vanished_says_so_instead_of_raising(tmp_path):
    archive = Archive(unfinished(tmp_path / "run"))
    archive.close()
    shutil.rmtree(tmp_path / "run")
    assert "cannot be read" in repr(archive)
    assert any("cannot be read" in text for text in cells(archive))


# -- candidate, genome, result -----------------------------------------------------------------------------------------


def test_a_candidate_says_its_genome_in_short_and_whom_it_descends_from():
    genome = Genome({"model.init_args.lr": 0.000123456, "model.init_args.width": 32, "model.init_args.on": True})
    candidate = Candidate(7, genome, parents=(2, 3), generation=4, seed=11, origin="mate", inherits=2)
    assert repr(candidate) == (
        "Candidate(7, {lr: 0.0001235, width: 32, on: True}, parents=(2, 3), generation=4, origin='mate', inherits=2)"
    )
    assert repr(Candidate(0, Genome({"x": 1}))) == "Candidate(0, {x: 1})"


def test_a_candidate_with_many_layers_still_fits_a_screen(archive):
    assert len(repr(archive.candidate(12))) < 500
    assert {"model.init_args.layers", STRANGE_GENE, "mutate"} <= set(cells(archive.candidate(12)))


def test_a_candidates_genes_are_shown_escaped():
    genome = Genome({f"<i>{HOSTILE}": HOSTILE}, rates={f"<i>{HOSTILE}": 0.25})
    assert {f"<i>{HOSTILE}", HOSTILE} <= set(cells(Candidate(0, genome, origin=HOSTILE)))
    assert {f"<i>{HOSTILE}", HOSTILE, "0.25"} <= set(cells(genome))


def test_a_result_says_how_it_ended_without_its_whole_curve():
    curve = [{"epoch": epoch, "val_acc": 0.5} for epoch in range(100)]
    result = Result("completed", (0.98,), {"val_acc": 0.98}, curve, cost={"seconds": 12.3456}, extra={"growth": []})
    assert repr(result) == (
        "Result('completed', fitness=(0.98,), metrics={val_acc: 0.98}, cost={seconds: 12.35}, epochs in curve: 100, "
        "extra: growth)"
    )
    assert {"completed", "cost/seconds", "12.35", "epochs in curve", "100", "growth"} <= set(cells(result))


def test_a_failed_result_says_why_and_never_as_markup(archive):
    result = archive.result(3)
    assert "RuntimeError: </script><script>window.hacked=1</script>" in repr(result)
    assert "failed" in cells(result)
    assert any("</script>" in text for text in cells(result))


# -- genes and space ---------------------------------------------------------------------------------------------------


def test_a_gene_says_what_it_was_made_of():
    gene = Integer(1, 9, step=2, when={"model.kind": ["conv"]})
    assert repr(gene) == "Integer(1, 9, step=2, when={'model.kind': ['conv']})"
    assert repr(eval(repr(gene))) == repr(gene)
    assert repr(LogUniform(0.001, 1)) == "LogUniform(0.001, 1.0)"
    assert repr(Boolean()) == "Boolean()"


def test_a_users_own_gene_says_what_it_was_made_of_without_a_repr_of_its_own():
    class Angle(Gene):
        def __init__(self, step, turns=1, when=None):
            super().__init__(when)
            self.step, self._turns, self.table = step, turns, [0] * 100

        sample = mutate = validate = extremes = encode = decode = None

    Angle.__abstractmethods__ = frozenset()
    assert repr(Angle(15)) == "Angle(15)"
    assert repr(Angle(15, turns=3)) == "Angle(15, turns=3)"


def test_a_space_is_a_table_of_its_genes(archive):
    texts = cells(read_space(archive))
    assert texts[:2] == ["gene", "values"]
    assert dict(zip(texts[2::2], texts[3::2], strict=True))["model.init_args.lr"] == "LogUniform(0.0001, 0.1)"
    assert STRANGE_GENE in texts


# -- algorithms --------------------------------------------------------------------------------------------------------


def told(algorithm, space, objectives, count):
    algorithm.bind(SearchSetup(SearchSpace(space), objectives, seed=1))
    for id in range(count):
        candidate = algorithm.ask()
        algorithm.tell(candidate, Result("completed", tuple(float(id) for _ in objectives)))
    return algorithm


def test_an_algorithm_says_its_arguments_and_how_far_it_is():
    algorithm = RegularizedEvolution(population_size=4, select=Operator("selTournament", {"tournsize": 2}))
    arguments = repr(algorithm)
    assert arguments.startswith("RegularizedEvolution(population_size=4")
    assert "select=Operator(name='selTournament'" in arguments
    assert "survive" not in arguments
    told(algorithm, {"x": Integer(0, 100)}, [Objective("val_acc")], 6)
    algorithm.ask()
    assert repr(algorithm) == f"{arguments} <6 of 7 told; val_acc 5 (candidate 5)>"


def test_an_algorithm_that_was_just_bound_has_no_best_yet():
    algorithm = told(RandomSearch(), {"x": Integer(0, 9)}, [Objective("val_acc")], 0)
    assert repr(algorithm) == "RandomSearch() <0 of 0 told>"
    assert cells(algorithm) == [repr(algorithm)]
    assert cells(RandomSearch()) == ["RandomSearch()"]


def test_an_algorithms_table_has_the_best_it_knows_escaped():
    strange = {"<b>x": Layers((1, 8, 8), 10), "y": Integer(0, 9)}
    algorithm = told(NSGA2(population_size=4), strange, [Objective("<i>"), Objective("b", "min")], 4)
    texts = cells(algorithm)
    assert {"id", "<i>", "b", "genome", "parents"} <= set(texts)
    assert any(text.startswith("{<b>x: [") for text in texts)
    # Both objectives grow together, so that nobody dominates anybody.
    assert len(re.findall("{<b>x", " ".join(texts))) == 4


def test_showing_needs_neither_torch_nor_pandas(run):
    code = (
        "import sys; from lightning_evo.archive import Archive; a = Archive(sys.argv[1]); a._repr_html_(); "
        "a.candidate(1)._repr_html_(); a.result(1)._repr_html_(); "
        "sys.exit(any(name in sys.modules for name in ('torch', 'lightning', 'pandas')))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(run)], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
