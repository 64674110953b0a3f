"""What a genome makes of a config, and what is refused before anything is trained."""

from __future__ import annotations

import pytest

from lightning_evo.evolution import Workers
from lightning_evo.evolution.executors import plan
from lightning_evo.genome import Candidate, Categorical, Genome, Integer, Objective, SearchSpace, SpaceError, Uniform
from lightning_evo.genome.links import read_links
from lightning_evo.training import ConfigTrainable, FunctionTrainable, Task, Trainable, TrainingRequest
from toys import sphere

ADAMW = {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.3}}


def test_a_candidate_is_the_config_with_its_genes(config):
    trainable = ConfigTrainable(config)
    resolved = trainable.resolve({"model.init_args.width": 7, "optimizer": ADAMW})
    assert resolved["model"]["init_args"]["width"] == 7
    assert resolved["optimizer"] == ADAMW
    assert trainable.resolve({})["model"]["init_args"]["width"] == 4


def test_the_seed_of_the_config_is_the_runs_and_each_candidate_gets_its_own(config, tmp_path):
    trainable = ConfigTrainable(config | {"seed_everything": 5})
    assert trainable.seed == 5
    request = TrainingRequest(str(tmp_path), [Objective("val_acc")])
    candidate = Candidate(0, Genome({}), seed=123)
    task = trainable.task(candidate, request)
    assert task.arguments["config"]["seed_everything"] == 123
    gene = Candidate(0, Genome({"seed_everything": 9}), seed=123)
    task = trainable.task(gene, request)
    assert task.arguments["config"]["seed_everything"] == 9


def test_another_class_gets_what_was_said_but_not_the_old_classs_defaults(config):
    trainable = ConfigTrainable(config | {"optimizer": ADAMW})
    optimizer = trainable.resolve({"optimizer.class_path": "torch.optim.SGD"})["optimizer"]["init_args"]
    assert optimizer["lr"] == 0.3
    assert optimizer["weight_decay"] == 0.0  # AdamW's default is 0.01
    same = trainable.resolve({"optimizer.class_path": "torch.optim.AdamW"})["optimizer"]["init_args"]
    assert same["weight_decay"] == 0.01


def test_genes_of_the_chosen_class_are_applied_after_it(config):
    space = SearchSpace(
        {
            "model.init_args.extra": Integer(1, 3, when={"model.class_path": ["toys.WideNet"]}),
            "model.class_path": Categorical(["toys.ToyNet", "toys.WideNet"]),
        }
    )
    config["model"]["init_args"]["width"] = 6
    trainable = ConfigTrainable(config)
    trainable.check(space, [Objective("val_acc")])
    model = trainable.resolve({"model.init_args.extra": 3, "model.class_path": "toys.WideNet"})["model"]
    assert model == {"class_path": "toys.WideNet", "init_args": {"width": 6, "lr": 0.1, "extra": 3}}


def test_every_extreme_is_tried_on_the_parser(config):
    trainable = ConfigTrainable(config)
    with pytest.raises(SpaceError, match=r"evolution\.space\.trainer\.max_epochs: 0\.5 is not accepted"):
        trainable.check(SearchSpace({"trainer.max_epochs": Uniform(0.5, 4)}), [])


def test_a_callbacks_argument_is_a_gene(config):
    config["trainer"]["callbacks"] = [
        {"class_path": "lightning.pytorch.callbacks.EarlyStopping", "init_args": {"monitor": "val_loss"}}
    ]
    path = "trainer.callbacks.EarlyStopping.init_args.patience"
    trainable = ConfigTrainable(config)
    trainable.check(SearchSpace({path: Integer(1, 5)}), [])
    assert trainable.resolve({path: 5})["trainer"]["callbacks"][0]["init_args"]["patience"] == 5


def linked(config, *links, genes=()):
    written = [{"from": source, "to": target} for source, target in links]
    return ConfigTrainable(config).linked(read_links(written, genes))


def test_what_follows_a_gene_a_class_or_the_config_has_its_value(config):
    size, width = "data.init_args.size", "model.init_args.width"
    config["trainer"]["callbacks"] = [{"class_path": "EarlyStopping", "init_args": {"monitor": "val_loss"}}]
    patience = "trainer.callbacks.EarlyStopping.init_args.patience"
    trainable = linked(config, (width, size), ("trainer.max_epochs", patience), (size, "data.init_args.batch_size"))
    resolved = trainable.resolve({width: 8})
    assert resolved["data"]["init_args"]["size"] == resolved["data"]["init_args"]["batch_size"] == 8
    assert resolved["trainer"]["callbacks"][0]["init_args"]["patience"] == config["trainer"]["max_epochs"]
    assert trainable.resolve({})["data"]["init_args"]["size"] == 4
    final = trainable.final_config(Candidate(0, Genome({width: 8})), {width: 16, "data.init_args.batch_size": 2})
    assert final["data"]["init_args"]["size"] == 16
    assert final["data"]["init_args"]["batch_size"] == 2

    config = {**config, "optimizer": ADAMW, "model": {"class_path": "toys.WideNet", "init_args": {"width": 6}}}
    trainable = linked(config, ("model.class_path", "data.class_path"), ("model.init_args.extra", size))
    with pytest.raises(SpaceError, match=r"links\[0\]: data.class_path can't follow model.class_path: "):
        trainable.check(SearchSpace({"model.init_args.lr": Uniform(0.1, 1)}), [])
    trainable = linked(config, ("model.init_args.extra", size))
    assert trainable.resolve({"model.init_args.extra": 3})["data"]["init_args"]["size"] == 3
    bare = trainable.resolve({"model": {"class_path": "toys.ToyNet"}})
    assert bare["data"]["init_args"]["size"] == trainable.config["data"]["init_args"]["size"]  # no `extra` there


@pytest.mark.parametrize(
    ("link", "said"),
    [
        (
            ("model.init_args.wdth", "data.init_args.size"),
            r"links\[0\]: model.init_args.wdth: there is no model.init_args.wdth; there",
        ),
        (
            ("model.init_args.depth", "data.init_args.sze"),
            r"data.init_args.sze can't follow model.init_args.depth: .*there are size,",
        ),
        (
            ("model.init_args.width", "data.init_args.sze"),
            r"data.init_args.sze can't follow model.init_args.width: .*there are size,",
        ),
        (
            ("model.init_args.activation", "data.init_args.size"),
            r"data.init_args.size can't follow model.init_args.activation",
        ),
        (
            ("model.init_args.width", "trainer.callbacks.3.x"),
            r"trainer.callbacks.3.x can't follow model.init_args.width: ",
        ),
    ],
)
def test_a_link_that_the_parser_refuses_is_named(config, link, said):
    genes = {"model.init_args.width": Integer(1, 8)}
    with pytest.raises(SpaceError, match=said):
        linked(config, link, genes=genes).check(SearchSpace(genes), [])


def test_describing_leaves_out_the_seed(config):
    assert ConfigTrainable(config | {"seed_everything": 5}).describe() == ConfigTrainable(config).describe()


def test_a_function_says_on_what_it_runs(monkeypatch):
    monkeypatch.setattr("lightning_evo.execution.slots._cuda_devices", lambda: ["0"])
    monkeypatch.setattr("lightning_evo.execution.slots.available_cores", lambda: 3)
    assert plan(FunctionTrainable(dict), Workers(), None) == [("0",)]
    assert plan(FunctionTrainable(dict, accelerator="cpu"), Workers(), None) == [()] * 3


class Own(Trainable):
    """Somebody else's kind of candidate."""

    def describe(self):
        return {"own": 1}

    def task(self, candidate, request):
        return Task(FunctionTrainable(sphere).task(candidate, request).function, {})


def test_a_trainable_of_ones_own_cant_do_what_it_does_not_declare():
    own = Own()
    assert (own.trains_modules, own.measures_proxies, own.has_winner, own.config) == (False, False, False, None)
    assert (own.accelerator, own.preload, own.seed) == ("auto", (), None)
    with pytest.raises(NotImplementedError, match="Own has no stack_task, which what it declares asks for"):
        own.stack_task([], TrainingRequest(".", []), print)
