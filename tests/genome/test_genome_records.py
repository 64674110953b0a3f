import dataclasses
import json
import math

import pytest

from lightning_evo.genome import Candidate, Genome, Objective, Result, derive_seed


def test_a_result_survives_json_with_everything_in_it():
    result = Result(
        "stopped",
        fitness=(0.5, -math.inf),
        metrics={"val_acc": 0.5},
        curve=({"epoch": 0, "val_acc": 0.4}, {"epoch": 1, "val_acc": 0.5}),
        cost={"params": 10.0},
        checkpoint="candidates/000001/checkpoint.ckpt",
        checkpoint_bytes=123,
        started=1.0,
        ended=2.0,
        slot=0,
        attempts=2,
        extra={"stopped_by": "patience"},
    )
    again = Result.from_dict(json.loads(json.dumps(result.to_dict())))
    assert again.to_dict() == result.to_dict()
    assert again.fitness == result.fitness


def test_a_failed_result_has_no_fitness():
    result = Result("failed", error="Traceback ...", error_type="ValueError: no", fatal=True)
    assert Result.from_dict(result.to_dict()) == dataclasses.replace(result, curve=[])
    assert result.fitness is None


def test_an_unknown_key_is_refused_by_name():
    with pytest.raises(TypeError, match="colour"):
        Result.from_dict({"status": "completed", "colour": "red"})


def test_objectives_point_the_way_of_their_mode():
    best, least = Objective("val_acc"), Objective("cost/params", "min")
    assert (best.weight, best.worst) == (1.0, -math.inf)
    assert (least.weight, least.worst) == (-1.0, math.inf)


@pytest.mark.parametrize(("monitor", "mode"), [("val_acc", "maximum"), ("", "max")])
def test_an_objective_that_cannot_be_is_refused(monitor, mode):
    with pytest.raises(ValueError, match=r"is not"):
        Objective(monitor, mode)


def test_seeds_are_decided_by_their_parts_and_never_change_between_versions():
    assert derive_seed(1, "breed", 7) == 2678740828
    assert derive_seed(1, "breed", 7) != derive_seed(1, "breed", 77)
    assert derive_seed(1, "breed", 77) != derive_seed(1, "breed", 7, 7)
    assert 0 <= derive_seed("anything") < 2**32


def test_a_candidate_keeps_its_place_in_the_search():
    candidate = Candidate(3, Genome({"a": 1}), parents=(1, 2), generation=2, origin="mate")
    assert dataclasses.replace(candidate, duplicate_of=0).parents == (1, 2)
