"""Genes in few words: every form means a gene of the long form, or is refused in a line that says what is accepted."""

import json
import random
import re

import optuna.distributions as optuna
import pytest

from lightning_evo.genome import Boolean, Categorical, Integer, LogUniform, Ordinal, Uniform, read_gene
from lightning_evo.genome.shorthand import flattened

SECTIONS = [{"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}}, {"class_path": "torch.optim.AdamW"}]

FORMS = {
    "texts": (["relu", "gelu"], Categorical(["relu", "gelu"])),
    "whole sections": (SECTIONS, Categorical(SECTIONS)),
    "numbers are ordered": ([64, 16, 32.5], Ordinal([16, 32.5, 64])),
    "numbers and nothing": ([None, 0.5, 1.0], Categorical([None, 0.5, 1.0])),
    "true and false": ([True, False], Boolean()),
    "one choice": ([3], Categorical([3])),
    "integers": ({"low": 1, "high": 8}, Integer(1, 8)),
    "integers in steps": ({"low": 8, "high": 64, "step": 8}, Integer(8, 64, step=8)),
    "reals by one bound": ({"low": 0, "high": 1.0}, Uniform(0.0, 1.0)),
    "reals by their step": ({"low": 0, "high": 1, "step": 0.25}, Uniform(0.0, 1.0, step=0.25)),
    "a logarithmic scale": ({"low": 1e-4, "high": 0.1, "log": True}, LogUniform(1e-4, 0.1)),
    "integers on it": ({"low": 1, "high": 64, "log": True}, Integer(1, 64, log=True)),
    "numbers that YAML 1.1 reads as texts": ({"low": "1e-4", "high": "1e-1", "log": True}, LogUniform(1e-4, 0.1)),
    "a condition": ({"low": 1, "high": 8, "when": {"a": [1]}}, Integer(1, 8, when={"a": [1]})),
    "a mutation": ({"low": 1, "high": 8, "mutation": 0.5}, Integer(1, 8, mutation=0.5)),
    "the long form": ({"class_path": "Integer", "init_args": {"low": 1, "high": 8}}, Integer(1, 8)),
    "a class": ("Boolean", Boolean()),
    # W&B
    "values": ({"values": ["a", "b"]}, Categorical(["a", "b"])),
    "a value": ({"value": None}, Categorical([None])),
    "a constant": ({"distribution": "constant", "value": 5}, Categorical([5])),
    "equal probabilities": ({"values": ["a", "b"], "probabilities": [0.5, 0.5]}, Categorical(["a", "b"])),
    "min and max": ({"min": 1, "max": 8}, Integer(1, 8)),
    "uniform": ({"distribution": "uniform", "min": 0, "max": 1}, Uniform(0.0, 1.0)),
    "int_uniform": ({"distribution": "int_uniform", "min": 0, "max": 9}, Integer(0, 9)),
    "q_uniform": ({"distribution": "q_uniform", "min": 10, "max": 100, "q": 16}, Integer(16, 96, step=16)),
    "q_uniform of reals": ({"distribution": "q_uniform", "min": 0, "max": 0.5, "q": 0.1}, Uniform(0.0, 0.5, step=0.1)),
    "log_uniform": ({"distribution": "log_uniform", "min": 0, "max": 2}, LogUniform(1.0, 7.38905609893065)),
    "log_uniform_values": ({"distribution": "log_uniform_values", "min": 1e-4, "max": 1}, LogUniform(1e-4, 1.0)),
    "inv_log_uniform": ({"distribution": "inv_log_uniform", "min": 0, "max": 2}, LogUniform(0.1353352832366127, 1.0)),
    "inv_log_uniform_values": ({"distribution": "inv_log_uniform_values", "min": 0.1, "max": 1}, LogUniform(0.1, 1.0)),
    "q_log_uniform": ({"distribution": "q_log_uniform", "min": 0, "max": 5}, Integer(1, 148, log=True)),
    "q_log_uniform_values": (
        {"distribution": "q_log_uniform_values", "min": 32, "max": 256, "q": 8},
        Integer(32, 256, step=8, log=True),
    ),
    # Optuna
    "float": ({"type": "float", "low": 1, "high": 3}, Uniform(1.0, 3.0)),
    "int": ({"type": "int", "low": 1.0, "high": 9, "step": 2}, Integer(1, 9, step=2)),
    "categorical": ({"type": "categorical", "choices": ["a", "b"]}, Categorical(["a", "b"])),
    "a float's JSON": (
        json.loads(optuna.distribution_to_json(optuna.FloatDistribution(0.1, 1, log=True))),
        LogUniform(0.1, 1.0),
    ),
    "an integer's JSON": (
        json.loads(optuna.distribution_to_json(optuna.IntDistribution(1, 9, step=2))),
        Integer(1, 9, step=2),
    ),
    "choices' JSON": (
        json.loads(optuna.distribution_to_json(optuna.CategoricalDistribution(["a", 1]))),
        Categorical(["a", 1]),
    ),
    "an object": (optuna.FloatDistribution(0.0, 1.0, step=0.25), Uniform(0.0, 1.0, step=0.25)),
    "an earlier name": (
        {"name": "DiscreteUniformDistribution", "attributes": {"low": 0.0, "high": 1.0, "q": 0.5}},
        Uniform(0.0, 1.0, step=0.5),
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_short_form_is_a_gene_of_the_long_one(form):
    written, gene = FORMS[form]
    assert repr(read_gene(written)) == repr(gene)


REFUSED = {
    "nothing": (None, "None is not a gene; give a list of choices, {low: 1, high: 8}"),
    "an empty mapping": ({}, "{} is not a gene"),
    "an empty list": ([], "choices: [] is not a non-empty list"),
    "a choice twice": ([1, 2, 1], "contains a value twice"),
    "no list of values": ({"values": 3}, "choices: 3 is not a non-empty list"),
    "another distribution": (
        {"distribution": "normal", "mu": 0, "sigma": 1},
        "distribution: 'normal' is not supported",
    ),
    "another type": ({"type": "str"}, "type: 'str' is not supported"),
    "another of Optuna's": ({"name": "BetaDistribution", "attributes": {}}, "name: 'BetaDistribution' is not one of"),
    "another word": ({"normal": {"mu": 0}}, '\'normal\' in {"normal": {"mu": 0}} is not understood; give'),
    "half a range": ({"min": 1}, "high: is missing"),
    "a step alone": ({"step": 1}, "is not a gene"),
    "both ways at once": ({"low": 1, "min": 1, "high": 2}, "min: is given twice"),
    "values and a range": ({"values": [1], "min": 1}, "doesn't go together"),
    "a range without one": ({"distribution": "uniform", "values": [1]}, "doesn't go together"),
    "a constant without one": ({"distribution": "constant"}, "doesn't go together"),
    "unequal probabilities": ({"values": ["a", "b"], "probabilities": [0.9, 0.1]}, "leave probabilities out"),
    "values for exponents": ({"distribution": "log_uniform", "min": 1e-4, "max": 0.1}, "write log_uniform_values"),
    "exponents too large": ({"distribution": "log_uniform", "min": 1, "max": 1e4}, "e to the 10000.0 is no number"),
    "a range the wrong way round": ({"low": 8, "high": 1}, "low: 8 is not at most high 1"),
    "no whole number": ({"type": "int", "low": 0.5, "high": 2}, "low: 0.5 is not a whole number"),
    "no number": ({"low": "a", "high": 2}, "low: 'a' is not a finite number"),
    "a truth for a number": ({"low": False, "high": 2}, "low: False is not a finite number"),
    "no truth": ({"low": 1, "high": 2, "log": "yes"}, "log: 'yes' is not true or false"),
    "zero on a logarithmic scale": ({"low": 0, "high": 2.0, "log": True}, "low: 0 is not above 0"),
    "a step too large": ({"low": 0, "high": 1.0, "step": 2}, "step: 2 is not above 0 and at most high - low, 1"),
    "a step and a quantum": ({"min": 0, "max": 8, "q": 2, "step": 2}, "leave one of them out"),
    "a quantum of nothing": ({"min": 0, "max": 8, "q": 0}, "q: 0 is not above 0"),
    "a mutation of choices": ({"values": [1, 2], "mutation": 0.1}, "mutation: 0.1 belongs to a range"),
    "another class": ("random.Random", "is not a class of genes"),
    "another argument": ({"class_path": "Integer", "init_args": {"lo": 1}}, "unexpected keyword argument 'lo'"),
}


@pytest.mark.parametrize("form", REFUSED)
def test_what_is_no_gene_is_refused_in_one_line(form):
    written, said = REFUSED[form]
    with pytest.raises(ValueError, match=f"^[^\n]*{re.escape(said)}[^\n]*$"):
        read_gene(written)


def test_nested_parameters_are_paths():
    sweep = {"model": {"parameters": {"init_args": {"parameters": {"lr": [1, 2]}}, "width": {"value": 3}}}}
    flat = {"model.init_args.lr": [1, 2], "model.width": {"value": 3}}
    assert flattened(sweep) == flattened({"parameters": sweep}) == flat
    assert flattened({"parameters": {"low": 1, "high": 2}}) == {"parameters": {"low": 1, "high": 2}}
    with pytest.raises(ValueError, match=r"model\.width: is given twice"):
        flattened({"model.width": [1, 2], **sweep})


def test_a_logarithmic_integer_in_steps_samples_small_and_large_values_alike():
    gene, rng = Integer(8, 512, step=8, log=True), random.Random(0)
    values = [gene.sample(rng) for _ in range(2000)]
    assert all(value % 8 == 0 for value in values)
    assert 0.4 < sum(value <= 64 for value in values) / len(values) < 0.6
