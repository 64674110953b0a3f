"""TensorBoard shows a search: read back by its own reader, its own HParams plugin and its own server."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from google.protobuf import json_format
from reporting_archives import CREATED, FEATURED, HOSTILE, STRANGE_GENE, featured, synthetic
from tensorboard import plugin_util
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.hparams import api_pb2, backend_context, get_experiment, list_session_groups

from lightning_evo.archive import Archive, read_space
from lightning_evo.evolution import Budget, Evolution, SearchError, Workers
from lightning_evo.genome import Candidate, Categorical, Genome, Integer, LogUniform, Objective, Result, SearchSpace
from lightning_evo.reporting.progress import SearchState
from lightning_evo.reporting.reporter import ActiveTraining, SearchInfo
from lightning_evo.reporting.tensorboard.reporter import TensorBoardReporter

SPACE = SearchSpace({"model.init_args.lr": LogUniform(1e-4, 0.1), "model.init_args.width": Integer(1, 8)})
ONE = (Objective("val_acc"),)
STATUSES = [api_pb2.STATUS_UNKNOWN, api_pb2.STATUS_SUCCESS, api_pb2.STATUS_FAILURE, api_pb2.STATUS_RUNNING]


def info(directory: Path, space=SPACE, objectives=ONE, **rest) -> SearchInfo:
    known = {"name": "run", "algorithm": "RandomSearch", "description": {}, "seed": 0, "limits": {}, "slots": 2}
    known |= {"config": {}, "resumed": False, **rest}
    return SearchInfo(location=directory, directory=directory, space=space, objectives=tuple(objectives), **known)


def candidate(id: int, **rest) -> Candidate:
    return Candidate(id, Genome({"model.init_args.lr": 0.01, "model.init_args.width": 1 + id % 8}), **rest)


def curve_of(*numbers: float) -> list[dict[str, float]]:
    return [{"epoch": epoch, "val_acc": number} for epoch, number in enumerate(numbers)]


def replay(location: Path, resumed: bool = False) -> None:
    """Tell the reporter of an archive's search, as a search that goes on does."""
    with Archive(location) as archive:
        reporter, state = TensorBoardReporter(), SearchState(archive.objectives, {})
        reporter.start(info(location, read_space(archive), archive.objectives, name=archive.run, resumed=resumed))
        for asked, result in archive.events():
            if result is None:
                state.asked += 1
                reporter.asked(asked)
            else:
                state.add_result(asked, result)
                reporter.told(asked, result, state)
        reporter.finish(state, "finished")


def scalars(directory: Path, run: str) -> dict[str, list[tuple[int, float]]]:
    """Tag -> (step, value) as TensorBoard reads them."""
    files = [file for file in (directory / "tensorboard" / run).iterdir() if file.stat().st_size]
    assert len(files) == 1
    reader = EventAccumulator(str(files[0]), size_guidance={"tensors": 0, "scalars": 0})
    reader.Reload()
    return {tag: [(each.step, each.value) for each in reader.Scalars(tag)] for tag in reader.Tags()["scalars"]}


class Plugin:
    """TensorBoard's own HParams plugin, looking at a directory."""

    def __init__(self, logdir: Path) -> None:
        multiplexer = EventMultiplexer(tensor_size_guidance={"scalars": 1000, "hparams": 0})
        multiplexer.AddRunsFromDirectory(str(logdir))
        multiplexer.Reload()
        provider = MultiplexerDataProvider(multiplexer, str(logdir))
        self._arguments = RequestContext(), backend_context.Context(TBContext(data_provider=provider)), ""

    def experiment(self) -> dict:
        """What the table's columns are, as the browser gets it."""
        found = get_experiment.Handler(*self._arguments, api_pb2.GetExperimentRequest()).run()
        return json.loads(plugin_util.proto_to_json(found))

    def table(self, **sort) -> list[dict]:
        """The table's rows, as the browser gets them: session, status, hparams and metrics by name."""
        request = api_pb2.ListSessionGroupsRequest(start_index=0, slice_size=100_000, allowed_statuses=STATUSES)
        json_format.ParseDict({"colParams": [sort] if sort else []}, request)
        groups = list_session_groups.Handler(*self._arguments, request).run()
        return [row_of(group) for group in json.loads(plugin_util.proto_to_json(groups)).get("sessionGroups", [])]


def row_of(group: dict) -> dict:
    [session] = group["sessions"]
    return {
        "session": session["name"],
        "status": session.get("status", "STATUS_UNKNOWN"),
        "start": session["startTimeSecs"],
        "end": session.get("endTimeSecs"),
        "hparams": group.get("hparams", {}),
        "metrics": {each["name"]["tag"]: each["value"] for each in group.get("metricValues", [])},
    }


@pytest.fixture(scope="module")
def everything(tmp_path_factory) -> Path:
    """A search in which everything happens that can happen, told to TensorBoard."""
    directory = featured(tmp_path_factory.mktemp("featured"))
    replay(directory)
    return directory


# -- scalars -----------------------------------------------------------------------------------------------------------


def test_a_candidate_has_its_curve_by_epoch_and_what_came_of_it(tmp_path):
    reporter, state = TensorBoardReporter(), SearchState(ONE, {})
    reporter.start(info(tmp_path))
    result = Result(
        "completed", (0.75,), curve=curve_of(0.5, 0.75, 0.25), cost={"params": 10}, started=100.0, ended=106.0
    )
    state.add_result(candidate(12), result)
    reporter.told(candidate(12), result, state)
    assert scalars(tmp_path, "candidates/000012") == {
        "val_acc": [(0, 0.5), (1, 0.75), (2, 0.25)],
        "fitness/val_acc": [(2, 0.75)],
        "cost/params": [(2, 10.0)],
    }
    [file] = (tmp_path / "tensorboard" / "candidates" / "000012").iterdir()
    reader = EventAccumulator(str(file))
    reader.Reload()
    assert [each.wall_time for each in reader.Scalars("val_acc")] == [102.0, 104.0, 106.0]


def test_a_continued_training_keeps_the_number_of_its_epochs(tmp_path):
    reporter, state = TensorBoardReporter(), SearchState(ONE, {})
    reporter.start(info(tmp_path))
    segment = [{"epoch": epoch, "val_acc": 0.5} for epoch in (5, 6, 7)]
    reporter.told(candidate(0), Result("completed", (0.5,), curve=segment), state)
    read = scalars(tmp_path, "candidates/000000")
    assert read == {"val_acc": [(5, 0.5), (6, 0.5), (7, 0.5)], "fitness/val_acc": [(7, 0.5)]}


def test_nan_and_infinities_are_shown_in_curves(tmp_path):
    reporter, state = TensorBoardReporter(), SearchState(ONE, {})
    reporter.start(info(tmp_path))
    odd = curve_of(math.nan, math.inf, -math.inf, 1e300)
    reporter.told(candidate(0), Result("failed", curve=odd, error="no", error_type="no"), state)
    read = [value for _, value in scalars(tmp_path, "candidates/000000")["val_acc"]]
    assert math.isnan(read[0])
    assert read[1:] == [math.inf, -math.inf, math.inf]


def test_the_search_has_its_own_scalars_by_candidates_told(everything):
    read = scalars(everything, "search")
    with Archive(everything) as archive:
        counts = archive.counts()
        completed = [r for c, r in archive.events() if r is not None and r.status == "completed" and r.fitness]
    told = FEATURED - counts["pending"]
    assert read["candidates/completed"][-1] == (told, counts["completed"])
    assert read["candidates/failed"][-1] == (told, counts["failed"])
    assert read["candidates/answered"][-1] == (told, 1)
    best = max(result.fitness[0] for result in completed if math.isfinite(result.fitness[0]))
    assert read["best/val_acc"][-1][1] == pytest.approx(best)
    assert {f"recent/{m}/quantile_{q}" for m in ("val_acc", "cost/params") for q in (0.25, 0.5, 0.75)} <= set(read)
    low, median, high = (read[f"recent/val_acc/quantile_{q}"][-1][1] for q in (0.25, 0.5, 0.75))
    assert low < median < high
    assert read["pareto_front/size"][-1][1] >= 1


def test_the_search_says_how_many_train(tmp_path):
    reporter, state = TensorBoardReporter(), SearchState(ONE, {})
    reporter.start(info(tmp_path))
    state.asked = 2
    for id in range(3):
        result = Result("completed", (0.5,))
        state.add_result(candidate(id), result)
        reporter.told(candidate(id), result, state)
        state.asked += id == 0
    assert scalars(tmp_path, "search")["candidates/training"] == [(1, 2), (2, 2), (3, 1)]


# -- while it runs -----------------------------------------------------------------------------------------------------


def test_a_candidate_that_trains_is_there_with_its_curve_so_far(tmp_path):
    reporter, state = TensorBoardReporter(), SearchState(ONE, {})
    reporter.start(info(tmp_path))
    whole = curve_of(0.5, 0.625, 0.75)
    reporter.running([ActiveTraining(candidate(0), 0, whole[:2])], state)
    assert scalars(tmp_path, "candidates/000000") == {"val_acc": [(0, 0.5), (1, 0.625)]}
    [row] = Plugin(tmp_path / "tensorboard").table()
    assert (row["status"], row["hparams"]["model.init_args.lr"], row["metrics"]) == ("STATUS_UNKNOWN", 0.01, {})
    result = Result("completed", (0.75,), curve=whole, started=time.time() - 1, ended=time.time())
    reporter.told(candidate(0), result, state)
    assert scalars(tmp_path, "candidates/000000")["val_acc"] == [(0, 0.5), (1, 0.625), (2, 0.75)]


def test_a_candidate_that_began_again_has_each_epoch_once(tmp_path):
    reporter, state = TensorBoardReporter(), SearchState(ONE, {})
    reporter.start(info(tmp_path))
    reporter.running([ActiveTraining(candidate(0), 0, curve_of(0.5, 0.625))], state)
    reporter.running([ActiveTraining(candidate(0), 0, curve_of(0.25))], state)
    assert scalars(tmp_path, "candidates/000000")["val_acc"] == [(0, 0.25)]
    reporter.told(candidate(0), Result("completed", (0.5,), curve=curve_of(0.25, 0.5)), state)
    assert scalars(tmp_path, "candidates/000000")["val_acc"] == [(0, 0.25), (1, 0.5)]


def test_a_tensorboard_that_runs_follows_a_search_that_is_continued(tmp_path):
    reporter, state = TensorBoardReporter(), SearchState(ONE, {})
    reporter.start(info(tmp_path))
    reporter.running([ActiveTraining(candidate(0), 0, curve_of(0.5, 0.625))], state)
    multiplexer = EventMultiplexer()
    multiplexer.AddRunsFromDirectory(str(tmp_path / "tensorboard"))
    multiplexer.Reload()
    # The search is killed and continued: the candidate trains from its beginning.
    continued = TensorBoardReporter()
    continued.start(info(tmp_path, resumed=True))
    continued.told(candidate(0), Result("completed", (0.75,), curve=curve_of(0.25, 0.5, 0.75)), state)
    multiplexer.Reload()
    read = multiplexer.Tensors("candidates/000000", "val_acc")
    assert [(each.step, each.tensor_proto.float_val[0]) for each in read] == [(0, 0.25), (1, 0.5), (2, 0.75)]


def test_a_continued_search_leaves_everything_once(tmp_path):
    directory = featured(tmp_path)
    replay(directory)
    (directory / "tensorboard" / "candidates" / "notes.txt").write_text("mine")
    before = {run: scalars(directory, run) for run in ("search", "candidates/000004")}
    replay(directory, resumed=True)
    assert {run: scalars(directory, run) for run in before} == before
    replay(directory, resumed=True)
    # Only what a TensorBoard that is running may be reading stays, emptied, until the next time.
    assert len(list((directory / "tensorboard").glob("**/*tfevents*"))) == 2 + FEATURED - 2
    assert (directory / "tensorboard" / "candidates" / "notes.txt").read_text() == "mine"


def test_thousands_of_candidates_do_not_need_thousands_of_open_files(tmp_path):
    directory = synthetic(tmp_path, candidates=400)
    opened = len(os.listdir("/proc/self/fd"))
    highest = 0

    class Watched(TensorBoardReporter):
        def told(self, candidate, result, state):
            nonlocal highest
            super().told(candidate, result, state)
            highest = max(highest, len(os.listdir("/proc/self/fd")))

    reporter, state = Watched(), SearchState(ONE, {})
    with Archive(directory) as archive:
        reporter.start(info(directory, read_space(archive)))
        for asked, result in list(archive.events()):
            if result is not None:
                reporter.told(asked, result, state)
    assert highest - opened < 20


# -- the HParams plugin ------------------------------------------------------------------------------------------------


def test_the_table_shows_every_candidate_with_its_genes_and_what_came_of_it(everything):
    rows = {int(row["session"].rpartition("/")[2]): row for row in Plugin(everything / "tensorboard").table()}
    with Archive(everything) as archive:
        told = [(c, r) for c, r in archive.events() if r is not None]
    assert sorted(rows) == sorted(candidate.id for candidate, _ in told)
    for each, result in told:
        row = rows[each.id]
        assert row["status"] == ("STATUS_FAILURE" if result.status == "failed" else "STATUS_SUCCESS")
        assert set(row["hparams"]) == {*each.genome, "candidate/generation"}
        assert row["hparams"]["model.init_args.lr"] == each.genome["model.init_args.lr"]
        assert row["hparams"]["model.init_args.norm"] is each.genome["model.init_args.norm"]
        assert row["hparams"]["candidate/generation"] == each.generation
        shown = dict(zip(("fitness/val_acc", "fitness/cost/params"), result.fitness or (), strict=bool(result.fitness)))
        expected = {tag: value for tag, value in shown.items() if math.isfinite(value)}
        assert {tag: v for tag, v in row["metrics"].items() if tag.startswith("fitness/")} == pytest.approx(expected)
        assert row["metrics"].get("cost/flops") == pytest.approx(result.cost.get("flops"))
        if result.started is not None:
            assert (row["start"], row["end"]) == (result.started, result.ended)
    assert rows[0]["start"] > CREATED


def test_the_columns_are_the_genes_with_their_domains_and_objectives_and_costs(everything):
    experiment = Plugin(everything / "tensorboard").experiment()
    columns = {each["name"]: each for each in experiment["hparamInfos"]}
    assert HOSTILE in experiment["description"]
    assert columns["model.init_args.lr"]["domainInterval"] == {"minValue": 1e-4, "maxValue": 0.1}
    assert columns["model.init_args.width"]["domainDiscrete"] == [16, 32, 64, 128]
    assert columns["model.init_args.norm"]["domainDiscrete"] == [False, True]
    assert columns["model.init_args.norm"]["type"] == "DATA_TYPE_BOOL"
    # Structures are texts, and text beside a structure stays as it is.
    structure = '{"class_path": "torch.nn.GELU", "init_args": {"approximate": "tanh"}}'
    assert columns[STRANGE_GENE]["domainDiscrete"] == ["relu", HOSTILE, structure]
    assert columns["model.init_args.layers"]["type"] == "DATA_TYPE_STRING"
    # The plugin shows the first five until the user checks others: what can be read at a glance.
    long = {"candidate/generation", "model.init_args.chromosome", "model.init_args.layers"}
    assert {*columns} - {*list(columns)[:6]} == long | {"trainer.callbacks.StructuralGrowth.init_args.initial"}
    names = {name: each["displayName"] for name, each in columns.items()}
    assert names["model.init_args.lr"] == "lr"
    assert names["model.init_args.width"] == "model.width"
    assert len(set(names.values())) == len(names)
    metrics = {each["name"]["tag"]: each["displayName"] for each in experiment["metricInfos"]}
    assert metrics["fitness/val_acc"] == "val_acc"
    assert metrics["fitness/cost/params"] == "cost/params"
    assert "cost/seconds" in metrics
    assert "cost/params" not in metrics


def test_the_table_can_be_sorted_by_fitness_and_by_every_gene(everything):
    plugin = Plugin(everything / "tensorboard")
    rows = plugin.table(metric={"tag": "fitness/val_acc"}, order="ORDER_DESC")
    shown = [row["metrics"]["fitness/val_acc"] for row in rows if "fitness/val_acc" in row["metrics"]]
    assert shown == sorted(shown, reverse=True)
    for column in plugin.experiment()["hparamInfos"]:
        assert len(plugin.table(hparam=column["name"], order="ORDER_ASC")) == FEATURED - 2


@pytest.mark.parametrize(
    ("choices", "value", "shown"),
    [
        ([None, 0.5, 1.0], None, "null"),
        ([None, 0.5, 1.0], 0.5, "0.5"),
        ([math.nan, 1.0], math.nan, "NaN"),
        ([True, "auto"], True, "true"),
        ([[64, 10], [32]], [64, 10], "[64, 10]"),
        (["1", "2"], "1", "1"),
        (["lone \ud800", "ä"], "lone \ud800", "lone \\ud800"),
        ([1, 2.5], 1, 1),
        ([True, False], False, False),
    ],
)
def test_any_choice_is_shown(tmp_path, choices, value, shown):
    reporter, state = TensorBoardReporter(), SearchState(ONE, {})
    reporter.start(
        info(tmp_path, SearchSpace({"model.init_args.generation": Categorical(choices)}), name="lone \ud800")
    )
    asked = Candidate(0, Genome({"model.init_args.generation": value}), generation=3)
    reporter.told(asked, Result("completed", (0.5,), metrics={}), state)
    plugin = Plugin(tmp_path / "tensorboard")
    [row] = plugin.table()
    assert row["hparams"] == {"model.init_args.generation": shown, "candidate/generation": 3}
    gene, generation = plugin.experiment()["hparamInfos"]
    assert shown in gene["domainDiscrete"]
    assert (gene["displayName"], generation["displayName"]) == ("model.generation", "generation")


def test_several_searches_below_one_directory_can_be_looked_at_together(tmp_path):
    for name in ("a", "b"):
        replay(featured(tmp_path / name))
    assert len(Plugin(tmp_path).table()) == 2 * (FEATURED - 2)


# -- whole searches ----------------------------------------------------------------------------------------------------


def search(directory: Path, executor=None, **rest) -> Evolution:
    return Evolution(
        space={"x": LogUniform(0.1, 1)},
        objectives=[Objective("y", "min")],
        budget=Budget(candidates=3),
        workers=Workers(slots=1),
        directory=directory,
        seed=1,
        function=square,
        executor=executor,
        progress=False,
        **rest,
    )


def test_a_search_is_told_to_tensorboard_also_after_it_has_ended(tmp_path):
    with ThreadPoolExecutor(1) as executor:
        search(tmp_path, executor).run()
        assert not (tmp_path / "tensorboard").exists()
        search(tmp_path, executor, reporters=[TensorBoardReporter()]).run()
    with Archive(tmp_path) as archive:
        expected = {f"candidates/{row['id']:06d}": pytest.approx(row["y"]) for row in archive.candidates()}
    rows = Plugin(tmp_path / "tensorboard").table()
    assert {row["session"]: row["metrics"]["fitness/y"] for row in rows} == expected
    assert len(rows) == 3
    metrics = {each["name"]["tag"] for each in Plugin(tmp_path / "tensorboard").experiment()["metricInfos"]}
    assert metrics == {"fitness/y", "cost/seconds"}


def square(genome, seed, directory):
    return {"y": genome["x"] ** 2}


def test_without_tensorboard_the_search_is_refused_before_it_trains(tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "tensorboard"]:
        monkeypatch.delitem(sys.modules, name)
    for module in ("lightning_evo.reporting.tensorboard.files", "lightning_evo._compat.tensorboard"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(SearchError, match=re.escape("pip install 'lightning-evo[tensorboard]'")):
        search(tmp_path / "run", reporters=[TensorBoardReporter()]).run()
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_the_tensorboard_server_shows_the_table(everything):
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(everything / "tensorboard"), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as server:
        try:
            address = next(found[0] for line in server.stdout if (found := re.search(r"http://localhost:\d+/", line)))
            request = {"startIndex": 0, "sliceSize": 1000, "allowedStatuses": [*map(api_pb2.Status.Name, STATUSES)]}
            rows: list = []
            deadline = time.monotonic() + 60
            while len(rows) < FEATURED - 2 and time.monotonic() < deadline:
                rows = ask(f"{address}data/plugin/hparams/session_groups", request).get("sessionGroups", [])
                time.sleep(0.2)
            runs = ask(f"{address}data/runs")
        finally:
            server.terminate()
    assert len(rows) == FEATURED - 2
    assert all({"model.init_args.lr", STRANGE_GENE} <= set(row["hparams"]) for row in rows)
    assert "search" in runs


def ask(address: str, body: dict | None = None):
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(address, data, headers), timeout=30) as answer:
        return json.loads(answer.read())
