"""Genes as people write them: lists and ranges, also in the words of W&B's sweeps and of Optuna."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from lightning_evo.genome.genes import Boolean, Categorical, Gene, Integer, LogUniform, Ordinal, Uniform, identity
from lightning_evo.genome.representation import shown
from lightning_evo.utils.imports import import_by_name, named

__all__ = ["flattened", "is_full_form", "read_gene"]

ACCEPTED = (
    "a list of choices, {low: 1, high: 8} (with log: true or step: 2), {choices: [...]}, {value: ...}, the same in W&B's "
    "or Optuna's words, or class_path and init_args"
)


def flattened(space: Mapping[str, Any]) -> dict[str, Any]:
    """Config paths and what is written at each, with W&B's nested ``parameters:`` joined by dots.

    Raises:
        ValueError: If a path is given twice.

    >>> flattened({"parameters": {"model": {"parameters": {"lr": {"min": 0.1, "max": 1.0}}}, "data.size": [1, 2]}})
    {'model.lr': {'min': 0.1, 'max': 1.0}, 'data.size': [1, 2]}
    """
    flat: dict[str, Any] = {}
    for path, written in space.items():
        nested = written.get(_NESTED) if isinstance(written, Mapping) and set(written) == {_NESTED} else None
        # The whole of a sweep's section, with its key.
        if path == _NESTED and isinstance(written, Mapping) and not set(written) & _WORDS and not is_full_form(written):
            inner = flattened(written)
        elif isinstance(nested, Mapping):
            inner = {f"{path}.{name}": gene for name, gene in flattened(nested).items()}
        else:
            inner = {path: written}
        for name, gene in inner.items():
            if name in flat:
                raise ValueError(f"{name}: is given twice, once under {_NESTED}")
            flat[name] = gene
    return flat


def is_full_form(written: Any) -> bool:
    """Whether a gene is written as a class: by its name, or as ``class_path`` and ``init_args``."""
    return isinstance(written, str) or (isinstance(written, Mapping) and "class_path" in written)


def read_gene(written: Any) -> Gene:
    """The gene that is meant.

    Args:
        written: A gene; a list of choices (ordered, if they are numbers), classes by their import paths or as objects; a
            mapping with ``low`` and ``high``, ``choices``
            or ``value``; W&B's ``min``, ``max``, ``values`` and ``distribution``; Optuna's ``type``, its distributions as
            JSON or as objects; or a class with its arguments.

    Raises:
        ValueError: If it isn't understood; the message says what was given and what is accepted.

    >>> read_gene([64, 16, 32]), read_gene(["relu", "gelu"])
    (Ordinal([16, 32, 64]), Categorical(['relu', 'gelu']))
    >>> read_gene({"low": 1, "high": 8}), read_gene({"low": 1e-4, "high": 0.1, "log": True})
    (Integer(1, 8), LogUniform(0.0001, 0.1))
    >>> read_gene({"distribution": "q_log_uniform_values", "min": 32, "max": 256, "q": 8})
    Integer(32, 256, step=8, log=True)
    >>> read_gene({"name": "IntDistribution", "attributes": {"low": 1, "high": 9, "step": 2, "log": False}})
    Integer(1, 9, step=2)
    """
    if isinstance(written, Gene):
        return written
    if isinstance(written, (Mapping, list, tuple)):
        written = named(written)  # a choice among classes
    if is_full_form(written):
        return _constructed({"class_path": written} if isinstance(written, str) else written)
    if isinstance(written, (list, tuple)):
        return _choice(list(written), {})
    if type(written).__name__ in _OPTUNA and type(written).__module__.startswith("optuna."):
        written = {"name": type(written).__name__, "attributes": vars(written)}
    if not isinstance(written, Mapping) or not written:
        raise ValueError(f"{written!r} is not a gene; give {ACCEPTED}")
    return _described(written)


class _Kind(NamedTuple):
    """The properties of a range that a distribution's name implies.

    Args:
        number: ``int`` or ``float``; ``None``: as the bounds are, or the step.
        log: Whether its scale is logarithmic.
        quantized: Whether values are multiples of ``q``.
        exponents: The sign with which the bounds are exponents of e; 0: they are the values.
    """

    number: type | None = None
    log: bool = False
    quantized: bool = False
    exponents: int = 0


_RANGES = {
    "float": _Kind(float),
    "int": _Kind(int),
    "uniform": _Kind(float),
    "int_uniform": _Kind(int),
    "q_uniform": _Kind(quantized=True),
    "log_uniform": _Kind(float, log=True, exponents=1),
    "log_uniform_values": _Kind(float, log=True),
    "q_log_uniform": _Kind(log=True, quantized=True, exponents=1),
    "q_log_uniform_values": _Kind(log=True, quantized=True),
    "inv_log_uniform": _Kind(float, log=True, exponents=-1),
    "inv_log_uniform_values": _Kind(float, log=True),
}
_CHOICES = ("categorical", "constant")
_OPTUNA = {
    "FloatDistribution": "float",
    "UniformDistribution": "float",
    "LogUniformDistribution": "log_uniform_values",
    "DiscreteUniformDistribution": "float",
    "IntDistribution": "int",
    "IntUniformDistribution": "int",
    "IntLogUniformDistribution": "int",
    "CategoricalDistribution": "categorical",
}

_NESTED = "parameters"
_ALIASES = {"min": "low", "max": "high", "values": "choices", "type": "distribution"}
_KEYS = ("low", "high", "choices", "value", "distribution", "log", "step", "q", "probabilities", "mutation", "when")
_WORDS = {*_KEYS, *_ALIASES, "name", "attributes"}


def _described(written: Mapping[str, Any]) -> Gene:
    written = _from_optuna(written)
    for word in ("distribution", "type"):
        if (kind := written.get(word)) is not None and kind not in [*_RANGES, *_CHOICES]:
            raise ValueError(
                f"{word}: {kind!r} is not supported, as genes have bounds or choices; accepted are "
                f"{', '.join((*_RANGES, *_CHOICES))}"
            )
    given = _renamed(written)
    options = {name: given.pop(name) for name in ("mutation", "when") if given.get(name) is not None}
    kind = given.pop("distribution", None)
    if "choices" in given or "value" in given or kind in _CHOICES:
        return _chosen(given, kind, options, shown(dict(written)))
    if kind is None and not {"low", "high"} & set(given):
        raise ValueError(f"{shown(dict(written))} is not a gene; give {ACCEPTED}")
    return _ranged(given, _RANGES.get(kind, _Kind()), kind, options)


def _from_optuna(written: Mapping[str, Any]) -> Mapping[str, Any]:
    """What Optuna stores of a distribution, flat; anything else as it is."""
    name, held = written.get("name"), written.get("attributes")
    if set(written) != {"name", "attributes"} or not isinstance(held, Mapping):
        return written
    if name not in _OPTUNA:
        raise ValueError(f"name: {name!r} is not one of Optuna's distributions: {', '.join(_OPTUNA)}")
    attributes = {key.lstrip("_"): value for key, value in held.items() if value is not None}
    if name == "DiscreteUniformDistribution":
        attributes = {"step" if key == "q" else key: value for key, value in attributes.items()}
    if name == "IntLogUniformDistribution":
        attributes = {**attributes, "log": True, "step": 1}
    return {**attributes, "distribution": _OPTUNA[name]}


def _renamed(written: Mapping[str, Any]) -> dict[str, Any]:
    """The mapping under our own names; ``null`` is what was left out, but for a constant."""
    given: dict[str, Any] = {}
    for key, value in written.items():
        name = _ALIASES.get(key, key)
        if name not in _KEYS:
            raise ValueError(f"{key!r} in {shown(dict(written))} is not understood; give {ACCEPTED}")
        if name in given:
            raise ValueError(f"{key}: is given twice in {shown(dict(written))}, once in other words")
        if value is not None or name == "value":
            given[name] = value
    return given


def _chosen(given: dict[str, Any], kind: str | None, options: dict[str, Any], written: str) -> Gene:
    weights = given.pop("probabilities", None)
    if weights is not None and not (isinstance(weights, list) and len({identity(each) for each in weights}) == 1):
        raise ValueError(f"probabilities: {weights!r}: candidates are bred, not drawn; leave probabilities out")
    expected = {"constant": ["value"], "categorical": ["choices"], None: [*given]}.get(kind, ["low", "high"])
    if list(given) != expected or len(given) != 1:
        raise ValueError(
            f"{written} doesn't go together: give either choices (values), or a value, or a range of numbers"
        )
    if "mutation" in options:
        raise ValueError(f"mutation: {options['mutation']!r} belongs to a range of numbers, not to choices")
    chosen = [given["value"]] if "value" in given else given["choices"]
    if not isinstance(chosen, (list, tuple)):
        raise ValueError(f"choices: {chosen!r} is not a non-empty list of values")
    return _choice(list(chosen), options)


def _choice(choices: list[Any], options: dict[str, Any]) -> Gene:
    if len(choices) == 2 and all(isinstance(choice, bool) for choice in choices) and choices[0] != choices[1]:
        return Boolean(**options)
    if len(choices) > 1 and all(isinstance(each, (int, float)) and not isinstance(each, bool) for each in choices):
        return Ordinal(sorted(choices), **options)
    return Categorical(choices, **options)


def _ranged(given: dict[str, Any], kind: _Kind, name: str | None, options: dict[str, Any]) -> Gene:
    if "probabilities" in given:
        raise ValueError("probabilities: belong to choices, of which there are none")
    for end in ("low", "high"):
        if end not in given:
            raise ValueError(f"{end}: is missing; a range has low and high (or min and max)")
    number = {key: _number(key, given[key]) for key in ("low", "high", "step", "q") if key in given}
    log = given.get("log", kind.log)
    if not isinstance(log, bool):
        raise ValueError(f"log: {log!r} is not true or false")
    low, high = number["low"], number["high"]
    if kind.exponents:
        low, high = _exponentials(low, high, kind.exponents, name)
    step = number.get("step")
    if kind.quantized or "q" in number:
        if step is not None:
            raise ValueError("step: can't be combined with q; leave one of them out")
        step = number.get("q", 1)
        if step <= 0:
            raise ValueError(f"q: {step!r} is not above 0")
        whole = isinstance(step, int)
        # W&B rounds to the nearest multiple.
        low, high = (float(f"{step * round(bound / step):.12g}") for bound in (low, high))
        if log and low <= 0:
            low = step
    else:
        whole = kind.number is int or (
            kind.number is None and all(isinstance(each, int) for each in (low, high, step or 1))
        )
    if whole:
        for key, bound in (("low", low), ("high", high), ("step", step or 1)):
            if bound != int(bound):
                raise ValueError(f"{key}: {bound!r} is not a whole number")
        return Integer(int(low), int(high), step=int(step or 1), log=log, **options)
    return (LogUniform if log else Uniform)(low, high, step=step, **options)


def _exponentials(low: float, high: float, sign: int, name: str | None) -> tuple[float, float]:
    if 0 <= low <= high <= 1:
        raise ValueError(
            f"distribution: {name} takes exponents of e, so these bounds mean {math.exp(low):.4g} to {math.exp(high):.4g}; "
            f"for the values themselves write {name}_values"
        )
    try:
        low, high = sorted((math.exp(sign * low), math.exp(sign * high)))
    except OverflowError:
        raise ValueError(f"distribution: {name} takes exponents of e, and e to the {high!r} is no number") from None
    return low, high


def _number(name: str, value: Any) -> int | float:
    """A number; as text too, which ``1e-4`` is where YAML 1.1 was read."""
    if isinstance(value, str):
        with suppress(ValueError):
            value = float(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"{name}: {value!r} is not a finite number")
    return value


def _constructed(written: Mapping[str, Any]) -> Gene:
    """A gene of a class that is given by name; a short one is of this package."""
    path, arguments = written["class_path"], written.get("init_args") or {}
    if isinstance(path, str):
        try:
            path = import_by_name(path if "." in path else f"lightning_evo.genome.{path}")
        except ImportError as error:
            raise ValueError(f"class_path: {error}") from None
    if not (isinstance(path, type) and issubclass(path, Gene)):
        raise ValueError(f"class_path: {path!r} is not a class of genes")
    if not isinstance(arguments, Mapping):
        raise ValueError(f"init_args: {arguments!r} is not a mapping of arguments")
    try:
        return path(**arguments)
    except TypeError as error:
        raise ValueError(f"init_args: {error}") from None
