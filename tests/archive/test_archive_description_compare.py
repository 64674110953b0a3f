import math

from lightning_evo.archive import compare_search


def test_equal_searches_have_no_differences():
    search = {"space": {"lr": {"low": 1, "choices": (1, 2)}}, "nan": math.nan, "none": None}
    same = {"space": {"lr": {"low": 1.0, "choices": [1, 2]}}, "nan": math.nan, "none": None}
    assert compare_search(search, same) == []


def test_each_difference_is_named_by_its_dotted_path_with_both_values():
    stored = {"evolution": {"space": {"model.lr": {"high": 0.1}}, "gone": 1, "list": [1, 2], "flag": True}}
    asked = {"evolution": {"space": {"model.lr": {"high": 0.2}}, "new": {}, "list": [1, 3, 4], "flag": 1}}
    assert compare_search(stored, asked) == [
        "evolution.space.model.lr.high: 0.1 in the archive, 0.2 given",
        "evolution.gone: 1 in the archive, absent given",
        "evolution.list.1: 2 in the archive, 3 given",
        "evolution.list.2: absent in the archive, 4 given",
        "evolution.flag: True in the archive, 1 given",
        "evolution.new: absent in the archive, {} given",
    ]


def test_a_section_in_place_of_a_value_is_a_difference():
    assert compare_search({"a": {"b": 1}}, {"a": 2}) == ["a: {'b': 1} in the archive, 2 given"]
