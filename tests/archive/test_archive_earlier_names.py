"""What was stored before public names were is read as the same, and a search from it built anew."""

from __future__ import annotations

import json
from pathlib import Path

from described_objects import ALGORITHMS, CALLBACKS, GENES, descriptions

from lightning_evo.archive import Archive, ArchiveWriter, compare_search, read_space
from lightning_evo.evolution.description import complete, describe

STORED = json.loads((Path(__file__).parent / "samples" / "descriptions.json").read_text())


def test_everything_described_before_is_the_same_as_its_description_now():
    now = {"space": GENES, "algorithms": ALGORITHMS, "callbacks": CALLBACKS}
    assert compare_search(complete(STORED, now), descriptions()) == []


def test_no_description_names_a_file_any_more():
    named = {word for word in json.dumps(descriptions()).split('"') if word.startswith("lightning_evo.")}
    stored = {word for word in json.dumps(STORED).split('"') if word.startswith("lightning_evo.")}
    assert len(named) == len(stored) > 30
    # A gene's choice is the user's own text.
    assert {name for name in named if name.count(".") > 2} == {"lightning_evo.models.convnet.ConvNet"}


def test_a_space_described_before_is_built_anew(tmp_path):
    with ArchiveWriter(tmp_path) as writer:
        writer.set_meta("search", {"evolution": {"space": STORED["space"]}})
    with Archive(tmp_path) as archive:
        assert describe(read_space(archive)) == describe(GENES)


def test_an_earlier_name_is_the_same_class_but_not_the_same_choice():
    earlier, public = "lightning_evo.genome.genes.Integer", "lightning_evo.genome.Integer"
    assert compare_search({"a": {"class_path": earlier}}, {"a": {"class_path": public}}) == []
    assert compare_search({"a": {"class_path": public}}, {"a": {"class_path": earlier}}) == []
    assert compare_search({"a": [earlier]}, {"a": [public]}) == []
    assert compare_search({"choices": [{"class_path": earlier}]}, {"choices": [{"class_path": public}]}) == [
        f"choices.0.class_path: {earlier!r} in the archive, {public!r} given"
    ]
    assert compare_search({"a": earlier}, {"a": "lightning_evo.genome.Uniform"}) == [
        f"a: {earlier!r} in the archive, 'lightning_evo.genome.Uniform' given"
    ]
