"""What is stored in ``Result.extra`` and the archive's meta values is written and read through a dataclass per key."""

from __future__ import annotations

import ast
from collections import Counter

from architecture_source import modules

PLAIN = {"seed", "budget", "version", "created", "elapsed", "end", "objectives"}
"""The meta values that are a number, a text, or plain rows of them; ``archive/meta.py`` says what each is."""

WRITERS = ("set_meta", "update_meta", "extras")
"""Methods whose first argument is a key, or a mapping of keys to values."""


def kinds():
    """The dataclasses that say what is stored under which key."""
    for module in modules().values():
        for node in ast.walk(module.tree):
            if isinstance(node, ast.ClassDef):
                for line in node.body:
                    targets = line.targets if isinstance(line, ast.Assign) else [getattr(line, "target", None)]
                    value = getattr(line, "value", None)
                    if "key" in [getattr(t, "id", "") for t in targets] and isinstance(value, ast.Constant):
                        yield node.name, value.value


def spelt(node: ast.AST | None) -> list[str]:
    """The keys that an expression spells out, or has from a constant: of a mapping, or a text itself."""
    keys = [key for each in ast.walk(node) if isinstance(each, ast.Dict) for key in each.keys] if node else []
    texts = [key.value for key in [*keys, node] if isinstance(key, ast.Constant) and isinstance(key.value, str)]
    return texts + [key.id for key in [*keys, node] if isinstance(key, ast.Name) and key.id.isupper()]


def is_store(node: ast.AST) -> bool:
    """Whether an expression is ``Result.extra`` or an archive's meta values."""
    return getattr(node, "attr", getattr(node, "id", "")) in ("extra", "meta")


def named_keys(tree: ast.AST):
    """Keys of either store that code names itself, in writing and reading."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = getattr(node.func, "attr", "")
            if node.args and (called in WRITERS or (called == "get" and is_store(node.func.value))):
                yield from spelt(node.args[0])
            yield from (key for keyword in node.keywords if keyword.arg == "extra" for key in spelt(keyword.value))
        elif isinstance(node, ast.Subscript) and is_store(node.value):
            yield from spelt(node.slice)
        elif isinstance(node, ast.Compare) and is_store(node.comparators[0]):
            yield from spelt(node.left)
        elif isinstance(node, ast.FunctionDef) and node.name == "extra":
            yield from (key for line in node.body[1:] for key in spelt(line))
        elif isinstance(node, ast.Assign) and is_store(node.targets[0]):
            yield from spelt(node.value)


def test_no_two_kinds_share_a_key():
    counts = Counter(key for _, key in kinds())
    assert len(counts) > 10
    assert {key for key, count in counts.items() if count > 1} == set()


def test_every_key_is_written_and_read_through_its_dataclass():
    found = {(module.where, key) for module in modules().values() for key in named_keys(module.tree)}
    assert {(where, key) for where, key in found if key not in PLAIN} == set()


def test_the_page_of_meta_values_names_the_plain_ones():
    page = ast.get_docstring(modules()["lightning_evo.archive.meta"].tree)
    assert {key for key in PLAIN if f"``{key}``" in page} == PLAIN
