import re
import shutil
import subprocess
import sys
from xml.etree import ElementTree

import numpy
import pytest
from reporting_archives import CREATED, HOSTILE, empty, featured, synthetic, unfinished

from lightning_evo.archive import Archive, ArchiveError, ArchiveWriter
from lightning_evo.genome import Candidate, Genome, Prediction, Result
from lightning_evo.reporting.pictures import KINDS, plot
from lightning_evo.reporting.views import front, importance, progress, read_snapshot

matplotlib = pytest.importorskip("matplotlib")
from matplotlib.colors import to_rgb  # noqa: E402
from matplotlib.image import imread  # noqa: E402

CM = 1 / 2.54


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Two objectives and enough candidates for every kind of picture."""
    return synthetic(tmp_path_factory.mktemp("pictures") / "run", candidates=300, objectives=2)


@pytest.fixture(scope="module")
def strange(tmp_path_factory):
    """One of everything, with markup in every name."""
    return featured(tmp_path_factory.mktemp("strange") / "<i>$x$", objectives=3)


@pytest.fixture(scope="module")
def recorded(run):
    with Archive(run) as archive:
        return read_snapshot(archive)


def texts(figure):
    return [text.get_text() for text in figure.findobj(matplotlib.text.Text) if text.get_text()]


# -- every kind --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [".pdf", ".svg", ".png"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_written_in_every_format_in_the_width_of_a_column(run, tmp_path, kind, ending):
    to = tmp_path / f"x{ending}"
    figure = plot(run, kind, to, dpi=100)
    assert figure.get_figwidth() == pytest.approx(8.5 * CM)
    if ending == ".png":
        pixels = imread(to)
        assert pixels.shape[1] == int(8.5 * CM * 100)
        assert (pixels[..., :3].min(axis=2) < 0.5).mean() > 0.005  # something was drawn
    elif ending == ".svg":
        root = ElementTree.parse(to).getroot()
        assert root.get("width") == f"{8.5 * CM * 72:.6f}".rstrip("0") + "pt"
        assert len(list(root.iter("{http://www.w3.org/2000/svg}text"))) > 3  # text, not outlines
    else:
        content = to.read_bytes()
        assert b"/CIDFontType2" in content or b"/TrueType" in content
        assert b"/Type3" not in content
        [box] = re.findall(rb"/MediaBox \[ 0 0 ([\d.]+) ([\d.]+) \]", content)
        assert float(box[0]) == pytest.approx(8.5 * CM * 72, abs=0.01)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "importance"])
def test_names_with_markup_and_dollars_are_text_and_nothing_else(strange, tmp_path, kind):
    plot(strange, kind, tmp_path / "x.svg")
    root = ElementTree.parse(tmp_path / "x.svg").getroot()
    tags = {element.tag.rpartition("}")[2] for element in root.iter()}
    assert tags.isdisjoint({"img", "i", "script", "foreignObject", "a"})


def test_a_name_with_dollars_is_no_formula(strange, tmp_path):
    copy = shutil.copytree(strange, tmp_path / "a$b$c")
    plot([strange, copy], "progress", tmp_path / "x.svg")
    said = "".join((tmp_path / "x.svg").read_text())
    assert "a$b$c" in said
    assert "&lt;i&gt;$x$" in said


@pytest.mark.parametrize(
    ("kind", "ending"),
    [("progress", ".svg"), ("parallel", ".pdf"), ("lineage", ".svg"), ("occupation", ".pdf"), ("costs", ".svg")],
)
def test_the_same_archive_gives_the_same_file(strange, tmp_path, kind, ending):
    for name in ("a", "b"):
        plot(strange, kind, tmp_path / f"{name}{ending}")
    assert (tmp_path / f"a{ending}").read_bytes() == (tmp_path / f"b{ending}").read_bytes()


def test_matplotlibs_own_settings_and_pyplots_figures_stay_as_they_were(run, tmp_path):
    code = (
        "import sys, matplotlib\n"
        "def settings(): return {k: matplotlib.rcParams[k] for k in matplotlib.rcParams if k != 'backend'}\n"
        "before = settings()  # asking for the backend would import pyplot\n"
        "from lightning_evo.reporting.pictures import plot\n"
        f"plot({str(run)!r}, 'costs', {str(tmp_path / 'x.pdf')!r})\n"
        "assert settings() == before\n"
        "assert 'matplotlib.pyplot' not in sys.modules and 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_size_and_resolution_are_as_asked(run, tmp_path):
    plot(run, "costs", tmp_path / "x.png", width=12.7, height=5.08, dpi=50)
    assert imread(tmp_path / "x.png").shape[:2] == (100, 250)


NEWEST = 24
"""Id of a candidate that is recorded while the archive is open for writing: the best one so far."""


def lines_of_parallel(figure):
    return len(figure.axes[0].collections[0].get_segments())


DRAWN = {
    "progress": lambda figure: max(line.get_ydata()[-1] for line in figure.axes[0].lines),
    "parallel": lines_of_parallel,
    "lineage": lambda figure: {text.split("\n")[0] for text in texts(figure)} & {"20", str(NEWEST)},
    "curves": lambda figure: {text for text in texts(figure) if text.startswith("best")},
    "predicted": lambda figure: [text.split(",")[0] for text in texts(figure) if text.startswith("before training")],
    "occupation": lambda figure: sum(len(bars.get_paths()) for bars in figure.axes[0].collections),
    "costs": lambda figure: figure.axes[0].get_yticklabels()[0].get_text(),
}
"""What a picture shows of the newest candidate, by kind."""


@pytest.mark.parametrize("kind", DRAWN)
def test_a_search_that_still_writes_is_drawn_with_its_newest_result(strange, tmp_path, kind):
    directory = shutil.copytree(strange, tmp_path / "run")
    before = DRAWN[kind](plot(directory, kind, **({"candidate": 20} if kind == "lineage" else {})))
    with ArchiveWriter(directory) as writer:
        prediction = Prediction((0.9, 1000.0, 2.0), (0.1, 100.0, 0.5), used=True)
        newest = Candidate(NEWEST, Genome({"model.init_args.lr": 0.01}), parents=(20,), prediction=prediction)
        writer.record_candidate(newest, queued=CREATED + 60.0)
        fitness, cost = (0.99, 1000.0, 3.0), {"params": 1000, "seconds": 3.0, "epochs": 1}
        times = {"started": CREATED + 61.0, "ended": CREATED + 64.0, "slot": 0}
        result = Result("completed", fitness, curve=[{"epoch": 0, "val_acc": 0.99}], cost=cost, **times)
        writer.record_result(NEWEST, result)
        after = DRAWN[kind](plot(directory, kind))
        writer.set_meta("still", "writing")
    expected = {
        "progress": 0.99,
        "parallel": lines_of_parallel(plot(strange, "parallel")) + 1,
        "lineage": {"20", str(NEWEST)},
        "curves": {f"best (candidate {NEWEST})"},
        "predicted": ["before training: 10"],
        "occupation": DRAWN["occupation"](plot(strange, "occupation")) + 1,
        "costs": "23 candidates",
    }
    assert before != after == expected[kind]


# -- what is drawn -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("against", ["candidates", "epochs", "seconds"])
def test_progress_shows_the_best_so_far(run, recorded, against):
    [axes] = plot(run, "progress", against=against).axes
    course = progress(recorded)
    best = next(line for line in axes.lines if line.get_linestyle() == "-")
    numpy.testing.assert_array_equal(best.get_ydata(), course.best)
    x = numpy.asarray(best.get_xdata(), dtype=float)
    if against == "candidates":
        numpy.testing.assert_array_equal(x, course.count)
    elif against == "epochs":
        numpy.testing.assert_array_equal(x, course.epochs)
    else:
        numpy.testing.assert_allclose(x, course.seconds)
        assert axes.get_xlabel() == "time [s]"


def test_progress_compares_runs_by_their_names_and_tells_them_apart_without_color(run, tmp_path):
    other = synthetic(tmp_path / "other", candidates=60, seed=1)
    [axes] = plot([run, other], "progress").axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "run", "other", "quartiles of the population"
    ]  # fmt: skip
    assert len({line.get_linestyle() for line in axes.lines}) == 2


def test_an_exploded_loss_does_not_flatten_the_progress(tmp_path):
    with ArchiveWriter(tmp_path / "run") as writer:
        writer.set_meta("objectives", [{"monitor": "val_loss", "mode": "min"}])
        for id in range(400):
            writer.record_candidate(Candidate(id, Genome({"x": id})), queued=1.0)
            loss = 1e12 if id in (5, 6, 7, 8) else 2.0 - id / 400
            writer.record_result(id, Result("completed", (loss,), started=1.0 + id, ended=2.0 + id, slot=0))
    [axes] = plot(tmp_path / "run", "progress").axes
    low, high = axes.get_ylim()
    assert low < 1.01 < 1.99 < high < 10


def test_importance_ranks_genes_as_the_forest_does(run, recorded):
    [axes] = plot(run, "importance", top=3).axes
    known = importance(recorded).genes[:3]
    assert [label.get_text() for label in axes.get_yticklabels()] == [gene.name for gene in known]
    assert [bar.get_width() for bar in axes.patches] == [gene.mean for gene in known]
    assert any(text.startswith("R² = ") for text in texts(axes))


def test_the_front_is_that_of_the_archive(run, recorded):
    [axes] = plot(run, "front").axes
    shown = front(recorded)
    drawn = {tuple(point) for point in axes.lines[0].get_xydata()}
    assert drawn == {tuple(point) for point in shown.values[shown.ranks == 0]}
    assert len(axes.collections[0].get_offsets()) == (shown.ranks > 0).sum()
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("val_acc ↑", "parameters ↓")


def test_the_staircase_of_the_front_passes_no_candidate_on_its_better_side(run):
    figure = plot(run, "front")
    figure.draw_without_rendering()
    [axes] = figure.axes
    points = axes.lines[0].get_xydata()
    # Accuracy is better to the right, parameters below: to the right of a point the next one's parameters are needed.
    assert axes.lines[0].get_drawstyle() == "steps-pre"
    for x, y in axes.collections[0].get_offsets():
        assert min(b for a, b in points if a >= x) <= y


def test_three_objectives_are_drawn_in_space(strange):
    axes = plot(strange, "front").axes
    assert axes[0].name == "3d"
    assert "training time [s] ↓" in {text for each in axes for text in texts(each)}


def test_parallel_has_a_line_for_every_candidate_that_has_a_fitness(strange):
    with Archive(strange) as archive:
        scored = read_snapshot(archive).scored()
    [axes] = plot(strange, "parallel", width=17).axes
    [lines] = axes.collections
    assert len(lines.get_segments()) == len(scored)
    # A gene that isn't active is passed below its axis.
    assert any((segment[:, 1] < -0.05).any() for segment in lines.get_segments())
    assert "inactive" in texts(axes)
    assert 'a<b>"c' in texts(axes)
    [top] = plot(strange, "parallel", top=4).axes[0].collections
    assert len(top.get_segments()) == 4


def test_parallel_draws_as_many_genes_as_have_room_and_a_sample_of_many_candidates(tmp_path):
    run = synthetic(tmp_path / "run", candidates=700)
    narrow, wide = (plot(run, "parallel", width=width).axes[0] for width in (5, 20))
    assert len(narrow.lines) < len(wide.lines) == 9  # upright axes: eight genes that can be drawn, and the fitness
    assert len(wide.collections[0].get_segments()) == 300


def test_better_is_darker_in_grey_whichever_way_better_is(tmp_path):
    for mode in ("max", "min"):
        with ArchiveWriter(tmp_path / mode) as writer:
            writer.set_meta("objectives", [{"monitor": "score", "mode": mode}])
            for id in range(10):
                writer.record_candidate(Candidate(id, Genome({"x": id, "y": -id})), queued=1.0)
                writer.record_result(id, Result("completed", (float(id),)))
        [lines] = plot(tmp_path / mode, "parallel").axes[0].collections
        grey = [0.299 * r + 0.587 * g + 0.114 * b for r, g, b, _ in lines.get_colors()]
        height = [segment[-1, 1] for segment in lines.get_segments()]
        best, worst = (max, min) if mode == "max" else (min, max)
        assert grey[height.index(best(height))] < grey[height.index(worst(height))] - 0.3


def test_statuses_are_told_apart_in_grey():
    from lightning_evo.reporting.pictures.style import STATUSES

    greys = sorted(numpy.dot(to_rgb(style["facecolor"]), (0.299, 0.587, 0.114)) for style in STATUSES.values())
    assert min(numpy.diff(greys)) > 0.15


def test_lineage_shows_the_ancestors_and_the_genes_that_changed(strange):
    [axes] = plot(strange, "lineage", candidate=18).axes
    with Archive(strange) as archive:
        rows = {row["id"]: row for row in archive.candidates()}
    ancestors, last = {18}, {18}
    while last:
        last = {parent for id in last for parent in rows[id]["parents"]} - ancestors
        ancestors |= last
    nodes = {int(match[1]) for text in texts(axes) if (match := re.match(r"(\d+)\n", text))}
    assert nodes == ancestors
    assert any("→" in text or "model.width" in text for text in texts(axes))


def test_lineage_puts_every_parent_above_its_children(run):
    [axes] = plot(run, "lineage", top=12).axes
    height = {
        int(t.get_text().split("\n")[0]): t.get_position()[1] for t in axes.texts if re.match(r"\d+\n", t.get_text())
    }
    with Archive(run) as archive:
        parents = {id: archive.candidate(id).parents for id in height}
    assert 1 < len(height) <= 13
    for child, above in parents.items():
        assert all(height[parent] > height[child] for parent in above if parent in height)
    # No candidate hides another.
    places = [text.get_position() for text in axes.texts if re.match(r"\d+\n", text.get_text())]
    assert len(set(places)) == len(places)


def test_weights_that_came_from_somebody_who_is_no_parent_are_dashed(strange):
    figure = plot(strange, "lineage", candidate=17)
    assert any(line.get_linestyle() == "--" for line in figure.axes[0].lines)
    assert "weights only" in texts(figure)


def test_curves_show_the_best_and_where_others_were_stopped(strange):
    figure = plot(strange, "curves")
    [axes] = figure.axes
    with Archive(strange) as archive:
        [best] = archive.best(1)
        curve = archive.result(best["id"]).curve
    bold = max(axes.lines, key=lambda line: line.get_linewidth())
    assert list(bold.get_ydata()) == [point["val_acc"] for point in curve]
    assert list(bold.get_xdata()) == [point["epoch"] + 1 for point in curve]
    assert {f"best (candidate {best['id']})", "stopped (2)", "predicted final value, 90%"} <= set(texts(figure))
    crosses = next(line for line in axes.lines if line.get_marker() == "x")
    assert sorted(crosses.get_xdata()) == [3, 4]


def test_curves_of_another_metric_and_candidate(strange):
    figure = plot(strange, "curves", metric="train_loss", candidate=1, top=4)
    assert "candidate 1" in texts(figure)
    assert figure.axes[0].get_ylabel() == "train_loss"


def test_predicted_has_a_point_for_every_prediction_that_came_true_or_not(strange):
    figure = plot(strange, "predicted")
    before, early = figure.axes[0].collections[-2:] if len(figure.axes[0].collections) == 2 else [
        each for each in figure.axes[0].collections if len(each.get_offsets()) and each.get_label().startswith(("b", "f"))
    ]  # fmt: skip
    assert len(before.get_offsets()) == 9
    assert len(early.get_offsets()) == 2
    assert any(text.startswith("before training: 9, τ = ") for text in texts(figure))


def test_occupation_has_a_bar_for_every_training(strange):
    figure = plot(strange, "occupation")
    with Archive(strange) as archive:
        rows = [row for row in archive.candidates() if row["slot"] is not None]
    assert sum(len(bars.get_paths()) for bars in figure.axes[0].collections) == len(rows)
    assert {"completed", "stopped", "failed", "time since the search began [s] (slots busy: 70%)"} <= set(texts(figure))


def test_costs_say_what_was_trained_and_saved(strange):
    figure = plot(strange, "costs")
    [axes] = figure.axes
    labels = [label.get_text() for label in axes.get_yticklabels()]
    with Archive(strange) as archive:
        rows = archive.candidates()
    epochs = sum(row.get("cost/epochs", 0) for row in rows if row["duplicate_of"] is None)
    assert f"{epochs} epochs trained" in labels
    row = labels.index(f"{epochs} epochs trained")
    widths = [bar.get_width() for bar in axes.patches if abs(bar.get_y() + bar.get_height() / 2 - row) < 0.1]
    # 7 and 14 were stopped after 3 and 4 of 10 epochs.
    assert widths[-1] == pytest.approx(13 / (epochs + 13))
    assert sum(widths) == pytest.approx(1)


# -- what can't be drawn -----------------------------------------------------------------------------------------------


def refusal(run, kind, **arguments):
    with pytest.raises(ValueError) as refused:  # noqa: PT011 - the message is looked at by the caller
        plot(run, kind, **arguments)
    return str(refused.value)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("build", "counts"), [(empty, "no candidates"), (unfinished, "2 pending, 2 failed")])
def test_a_run_in_which_nobody_has_finished_is_refused_with_a_reason(tmp_path, kind, build, counts):
    run = build(tmp_path / "run")
    if (kind, build) in {("occupation", unfinished), ("costs", unfinished)}:
        plot(run, kind)  # failed ones took their time
        return
    said = refusal(run, kind, to=tmp_path / "x.pdf")
    reasons = {
        "importance": "only 0 of the required 20 candidates have a fitness",
        "front": "has one objective (val_acc)",
        "predicted": "there are no predictions of val_acc",
        "occupation": "no training has ended yet",
        "costs": "no candidate has ended yet",
        "curves": "logged 'val_acc' per epoch",
    }
    assert reasons.get(kind, f"no candidate has a fitness yet ({counts})") in said
    assert not (tmp_path / "x.pdf").exists()


def test_a_run_without_objectives_is_refused(tmp_path):
    with ArchiveWriter(tmp_path / "run") as writer:
        writer.record_candidate(Candidate(0, Genome({"x": 1})), queued=0.0)
    for kind in ("progress", "parallel", "importance", "front", "curves", "predicted"):
        assert "none" in refusal(tmp_path / "run", kind)


@pytest.mark.parametrize(
    ("kind", "arguments", "said"),
    [
        ("pie", {}, "kind: 'pie' is unknown; choose from progress: the best fitness so far"),
        ("progress", {"to": "x.jpeg"}, "to: x.jpeg does not end in one of .pdf, .svg, .png"),
        ("progress", {"to": "x"}, "to: x does not end in one of"),
        ("progress", {"to": "none/x.pdf"}, "does not exist"),
        ("progress", {"metric": "val_auc"}, "has no objective 'val_auc'"),
        (
            "progress",
            {"top": 3},
            "top: does not apply to progress, only to parallel, importance, lineage, curves",
        ),
        ("front", {"metric": "val_acc"}, "metric: does not apply to front"),
        ("parallel", {"top": 0}, "top: 0 is not at least 1"),
        ("progress", {"width": 0.5}, "width: 0.5 cm is not between 2 and 200"),
        ("progress", {"height": float("nan")}, "height: nan cm is not between 2 and 200"),
        ("progress", {"dpi": 1}, "dpi: 1 is not between 20 and 2400"),
        ("progress", {"against": "flops"}, "against: 'flops' is not one of candidates, epochs, seconds"),
        ("lineage", {"candidate": 999}, "there is no candidate 999"),
        ("curves", {"candidate": 999}, "has no candidate 999"),
        ("curves", {"metric": "val_auc"}, "logged 'val_auc' per epoch; logged metrics: train_loss, val_acc, val_loss"),
    ],
)
def test_what_makes_no_sense_is_refused_by_its_name(run, kind, arguments, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert said in refusal(run, kind, **arguments)


def test_several_runs_are_refused_where_one_is_shown(run):
    assert (
        refusal([run, run], "front") == "front: shows a single run, but 2 were given; kinds for several runs: progress"
    )
    assert refusal([], "progress") == "location: give at least one run"


def test_a_file_that_cannot_be_written_leaves_what_was_there(run, tmp_path, monkeypatch):
    before = b"%PDF-1.7 before"
    (tmp_path / "x.pdf").write_bytes(before)

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", full)
    assert "the disk is full" in refusal(run, "costs", to=tmp_path / "x.pdf")
    assert (tmp_path / "x.pdf").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["x.pdf"]


def test_no_archive_is_an_archives_error(tmp_path):
    with pytest.raises(ArchiveError, match="no archive here"):
        plot(tmp_path / "nowhere", "progress")


def test_without_matplotlib_the_error_says_what_to_install(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'lightning-evo\[plot\]'"):
        plot(run, "progress")


def test_pictures_of_many_candidates_stay_small(tmp_path):
    run = synthetic(tmp_path / "run", candidates=2500)
    for kind in ("occupation", "parallel", "curves", "predicted"):
        plot(run, kind, tmp_path / f"{kind}.pdf")
        assert (tmp_path / f"{kind}.pdf").stat().st_size < 400_000


def test_hostile_run_names_do_not_reach_the_error_as_anything_but_text(tmp_path):
    run = featured(tmp_path / "run", objectives=1)
    assert HOSTILE in refusal(run, "front")
