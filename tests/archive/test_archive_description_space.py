from __future__ import annotations

import inspect
import random
from collections.abc import Callable

import pytest

from lightning_evo import genome
from lightning_evo.archive import Archive, ArchiveError, ArchiveWriter, read_space
from lightning_evo.evolution.description import describe
from lightning_evo.genome import (
    Bitstring,
    Boolean,
    Categorical,
    Gene,
    GrowthSteps,
    Integer,
    Layers,
    LogUniform,
    Ordinal,
    SearchSpace,
    Uniform,
)
from lightning_evo.models.chromosome import LENGTH, canonical_chromosome


class Angle(Uniform):
    """A user's own gene, which holds another gene and a function."""

    def __init__(
        self, low: float, high: float, inner: Gene | None = None, fold: Callable[[float], float] = abs
    ) -> None:
        super().__init__(low, high)
        self.inner, self.fold = inner, fold


class Nested:
    class Switch(Boolean):
        """A gene whose class lies within another one."""


class Forgetful(Uniform):
    def __init__(self, centre: float) -> None:
        super().__init__(centre - 1, centre + 1)


class ForgetsAnOption(Uniform):
    def __init__(self, low: float, high: float, stretch: float = 2.0) -> None:
        super().__init__(low, stretch * high)


SPACES = [
    {"a": Categorical(["relu", None, 1, 1.0, True, [1, {"x": 2}], {"class_path": "torch.nn.ReLU", "init_args": {}}])},
    {"a": Boolean(), "b": Ordinal([16, 32, 64], when={"a": [True]})},
    {"a": Integer(1, 64, log=True), "b": Integer(-3, 9, step=4, mutation=0.5)},
    {"a": Uniform(-1, 1, mutation=0.1), "b": LogUniform(1e-5, 1e-1)},
    {"a": Bitstring(7, flip=0.3), "b": Bitstring(LENGTH, canonical=canonical_chromosome)},
    {"a": Layers([1, 8, 8], 10)},
    {"a": GrowthSteps(["widen", "prune"], max_steps=3, ratios=[1.5, 3.0], initial_steps=1)},
    {
        "a": Boolean(),
        "b": Layers(
            [3, 32, 32],
            100,
            max_conv=8,
            channels=[8, 24],
            strides=[1, 3],
            activations=["GELU"],
            norm_probability=0.0,
            mutations={"insert": 1.0, "alter": 2.0},
            crossovers={"homologous": 1.0},
            when={"a": [True]},
        ),
    },
    {"a": Nested.Switch(), "b": Angle(0.0, 3.0, inner=Angle(0.0, 1.0), fold=round)},
]


def stored(place, space, **changes):
    """An archive that says this of its space."""
    with ArchiveWriter(place) as writer:
        writer.set_meta("search", {"evolution": {"space": describe(SearchSpace(space)) | changes}})
    return Archive(place)


@pytest.mark.parametrize("space", SPACES)
def test_a_space_built_anew_is_described_alike_and_gives_the_same_genomes(space, tmp_path):
    with stored(tmp_path, space) as archive:
        again = read_space(archive, trust=True)
    assert describe(again) == describe(SearchSpace(space))
    first, second = (random.Random(0) for _ in range(2))
    for _ in range(20):
        parent = again.sample(first)
        assert parent == SearchSpace(space).sample(second)
        assert again.mutate(parent, first) == SearchSpace(space).mutate(parent, second)
        assert again.phenotype(parent) == SearchSpace(space).phenotype(parent)
        assert again.features(parent, inactive=0.0) == SearchSpace(space).features(parent, inactive=0.0)


def test_every_gene_that_ships_is_among_them():
    tried = {type(gene) for space in SPACES for gene in space.values()}
    ships = {
        kind for name in genome.__all__ if inspect.isclass(kind := getattr(genome, name)) and issubclass(kind, Gene)
    }
    assert ships - tried == {Gene}


def test_a_gene_that_holds_a_gene_and_a_function_has_them_again(tmp_path):
    with stored(tmp_path, SPACES[-1]) as archive:
        angle = read_space(archive, trust=True)["b"]
    assert isinstance(angle.inner, Angle)
    assert angle.inner.high == 1.0
    assert angle.fold is round


def test_which_networks_are_the_same_is_known_again(tmp_path):
    with stored(tmp_path, {"a": Bitstring(LENGTH, canonical=canonical_chromosome)}) as archive:
        bits = read_space(archive, trust=True)["a"]
    unused = "0" * LENGTH
    assert bits.canonical(unused[:2] + "1" + unused[3:]) == bits.canonical(unused)


@pytest.mark.parametrize(
    ("description", "message"),
    [
        ({"class_path": "gone.Gene", "init_args": {}}, "gone.Gene can't be imported: No module named 'gone'"),
        ({"class_path": f"{__name__}.Gone", "init_args": {}}, "Gone can't be imported: module"),
        ({"class_path": "collections.OrderedDict", "init_args": {}}, "collections.OrderedDict is no gene"),
        ("what", "'what' is not a class_path with its init_args"),
        (describe(Uniform(0, 1)) | {"init_args": {"low": 2, "high": 1}}, "low: 2 is not below high 1"),
        (describe(Uniform(0, 1)) | {"init_args": {"low": 0}}, "missing 1 required positional argument: 'high'"),
        (
            describe(Bitstring(4)) | {"init_args": {"length": 4, "canonical": "toys.gone"}},
            "toys.gone can't be imported",
        ),
        (describe(Forgetful(0.0)), "missing 1 required positional argument: 'centre'"),
        (describe(ForgetsAnOption(0.0, 1.0)), "ForgetsAnOption doesn't store its argument 'stretch' under that name"),
    ],
)
def test_a_gene_that_cannot_be_built_anew_is_named_with_the_reason(description, message, tmp_path):
    with stored(tmp_path, {"x": Boolean()}, y=description) as archive, pytest.raises(ArchiveError) as refused:
        read_space(archive, trust=True)
    assert str(refused.value).startswith(f"{archive.run}: the gene at y can't be rebuilt: ")
    assert message in str(refused.value)


def test_conditions_that_no_longer_hold_together_are_refused(tmp_path):
    archive = stored(tmp_path, {"x": Boolean()}, y=describe(Boolean(when={"z": [True]})))
    with (
        archive,
        pytest.raises(ArchiveError, match=r"the search space can't be rebuilt: y\.when: 'z' is not a gene"),
    ):
        read_space(archive, trust=True)


def test_an_archive_that_says_nothing_of_a_space_is_refused(tmp_path):
    ArchiveWriter(tmp_path).close()
    with Archive(tmp_path) as archive, pytest.raises(ArchiveError, match="doesn't contain the search space"):
        read_space(archive, trust=True)
