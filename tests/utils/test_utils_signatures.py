"""The parameters of a constructor as a caller sees them."""

from __future__ import annotations

from lightning_evo.utils.signatures import constructor_parameters


class Base:
    def __init__(self, size: int = 3, seed: int = 0, name: str = "base") -> None: ...


class Passing(Base):
    def __init__(self, size: int = 5, *, depth: int, **shared) -> None: ...


class PassingTwice(Passing):
    def __init__(self, width: int = 1, **shared) -> None: ...


class Inheriting(Passing):
    pass


class Settling(Base):
    def __init__(self, size: int = 5, **settings) -> None: ...


def test_what_is_passed_on_follows_what_is_a_class_s_own():
    assert list(constructor_parameters(Passing)) == ["size", "depth", "seed", "name"]
    assert list(constructor_parameters(PassingTwice)) == ["width", "size", "depth", "seed", "name"]
    assert constructor_parameters(PassingTwice)["size"].default == 5


def test_a_class_without_a_constructor_has_its_base_class_s():
    assert constructor_parameters(Inheriting) == constructor_parameters(Passing)
    assert set(constructor_parameters(Base)) == {"size", "seed", "name"}


def test_the_name_of_the_keywords_does_not_matter():
    assert list(constructor_parameters(Settling)) == ["size", "seed", "name"]
    assert constructor_parameters(Settling)["size"].default == 5
