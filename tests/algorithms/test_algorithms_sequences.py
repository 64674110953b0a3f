import random

import pytest

from lightning_evo.algorithms import NSGA2, GenerationalEvolution, Operator, RegularizedEvolution, SearchSetup
from lightning_evo.algorithms.sequences import LAYER_MATES, LAYER_MUTATIONS
from lightning_evo.algorithms.variation import mating, mutation
from lightning_evo.genome import Boolean, Categorical, Layers, LogUniform, Objective, Result, SearchSpace, SpaceError

PATH = "model.init_args.layers"
SPACE = SearchSpace({PATH: Layers([1, 8, 8], 10), "lr": LogUniform(1e-4, 1e-1)})
SWITCHED = SearchSpace(
    {
        "kind": Categorical(["template", "other"]),
        PATH: Layers([1, 8, 8], 10, when={"kind": ["template"]}),
        "norm": Boolean(),
    }
)


@pytest.mark.parametrize("space", [SPACE, SWITCHED], ids=["plain", "conditional"])
@pytest.mark.parametrize("name", LAYER_MUTATIONS)
def test_every_mutation_of_layers_gives_valid_children_that_differ(name, space):
    mutate, rng = mutation(Operator(name), space), random.Random(0)
    for _ in range(30):
        parent = space.sample(rng)
        child = mutate(parent, rng)
        space.validate(child)
        assert child != parent


@pytest.mark.parametrize("space", [SPACE, SWITCHED], ids=["plain", "conditional"])
@pytest.mark.parametrize("name", LAYER_MATES)
def test_every_crossover_of_layers_gives_valid_children(name, space):
    mate, rng = mating(Operator(name), space), random.Random(0)
    changed = 0
    for _ in range(30):
        first, second = space.sample(rng), space.sample(rng)
        for child in mate(first, second, rng):
            space.validate(child)
            changed += child not in (first, second)
    assert changed >= 12


def test_other_genes_mutate_at_the_rate_given():
    mutate, rng = mutation(Operator("insert_layer", {"rate": 0.0}), SPACE), random.Random(0)
    parent = SPACE.sample(rng)
    assert all(mutate(parent, rng)["lr"] == parent["lr"] for _ in range(50))
    mutate = mutation(Operator("insert_layer", {"rate": 1.0}), SPACE)
    assert all(mutate(parent, rng)["lr"] != parent["lr"] for _ in range(50))


@pytest.mark.parametrize("name", [*LAYER_MUTATIONS, *LAYER_MATES])
def test_a_space_without_layers_is_refused(name):
    role = "mutate" if name in LAYER_MUTATIONS else "mate"
    algorithm = GenerationalEvolution(**{role: Operator(name)})
    with pytest.raises(ValueError, match=f"{role}: {name} .*acts on a Layers gene, and this space has none: lr"):
        algorithm.bind(SearchSetup(SearchSpace({"lr": LogUniform(1e-4, 1e-1)}), [Objective("score")], seed=0))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GenerationalEvolution(mate=Operator("insert_layer")), "mate: 'insert_layer' is of another kind"),
        (
            lambda: GenerationalEvolution(mutate=Operator("one_point_layers")),
            "mutate: 'one_point_layers' is of another",
        ),
        (lambda: RegularizedEvolution(mutate=Operator("alter_layer", {"rate": 2})), "rate: 2 is not a probability"),
        (lambda: RegularizedEvolution(mutate=Operator("alter_layer", {"x": 2})), "its arguments are rate"),
        (lambda: Operator("insert_layers"), "did you mean 'insert_layer'"),
    ],
)
def test_a_wrong_use_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    "make",
    [
        lambda: RegularizedEvolution(8, 4),
        lambda: RegularizedEvolution(8, 4, mutate=Operator("alter_layer")),
        lambda: GenerationalEvolution(8, mate=Operator("homologous_layers"), mutate=Operator("insert_layer")),
        lambda: GenerationalEvolution(8, mate=Operator("cxTwoPoint", acts_on="unit"), mutate=Operator("self_adaptive")),
        lambda: NSGA2(8, mate=Operator("one_point_layers")),
    ],
)
def test_searches_over_layers_find_better_templates(make):
    """A made-up score: many features from few parameters."""
    algorithm = make()
    objectives = [Objective("score"), Objective("size", "min")][: 1 + isinstance(algorithm, NSGA2)]
    algorithm.bind(SearchSetup(SPACE, objectives, seed=1))
    gene, scores = SPACE[PATH], []
    for _ in range(160):
        candidate = algorithm.ask()
        assert candidate is not None
        SPACE.validate(candidate.genome)
        row = dict(zip(gene.feature_names, gene.features(candidate.genome[PATH]), strict=True))
        scores.append(row["log_features"] - row["log_params"])
        algorithm.tell(
            candidate, Result("completed", fitness=(scores[-1], row["log_flops"])[: len(algorithm.objectives)])
        )
    assert max(scores[40:]) >= max(scores[:16])
    assert sum(scores[-30:]) / 30 > sum(scores[:8]) / 8


def test_layers_written_by_hand_are_an_initial_genome():
    space = SearchSpace({"model.layers": Layers(input_shape=[1, 8, 8], num_classes=10)})
    algorithm = RegularizedEvolution(initial=[{"model.layers": ["Conv2d 32 kernel=3", "ReLU", "Linear 10"]}])
    algorithm.bind(SearchSetup(space, [Objective("val_acc")], seed=0))
    lines = algorithm.ask().genome["model.layers"]
    assert [line.split()[0] for line in lines] == ["Conv2d", "ReLU", "Flatten", "Linear"]
    space.validate({"model.layers": lines})
    algorithm = RegularizedEvolution(initial=[{"model.layers": ["Conv7d 32"]}])
    message = r"initial\[0\]\.model\.layers: layer 1 \('Conv7d 32'\): 'Conv7d' is not a kind of layer"
    with pytest.raises(SpaceError, match=message):
        algorithm.bind(SearchSetup(space, [Objective("val_acc")], seed=0))
