"""Text from outside, made storable, bounded and printable."""

from __future__ import annotations

import sys

import pytest

from lightning_evo.utils.text import (
    bounded,
    first_line_of,
    printable,
    printable_lines,
    storable,
    storable_data,
    traceback_of,
)

EVERY_CHARACTER = "".join(map(chr, range(sys.maxunicode + 1)))


def test_any_text_is_storable_and_stays_so():
    text = storable(EVERY_CHARACTER)
    assert "\0" not in text
    assert text.encode().decode() == text
    assert storable(text) == text
    kept = "".join(c for c in EVERY_CHARACTER if c != "\0" and not "\ud800" <= c <= "\udfff")
    assert storable(kept) is kept or storable(kept) == kept


def test_data_is_storable_keys_included():
    assert storable_data({"\udce9": [("\0", 1), None]}) == {"\\udce9": [["\\x00", 1], None]}


@pytest.mark.parametrize("length", [0, 99, 100, 101, 150, 1000, 10**6])
def test_bounded_text_keeps_head_and_tail_and_is_not_bounded_twice(length):
    text = "".join(str(i % 10) for i in range(length))
    short = bounded(text, 100)
    assert len(short) <= 100
    assert bounded(short, 100) == short
    if length <= 100:
        assert short == text
    else:
        assert text.startswith(short[:10])
        assert text.endswith(short[-10:])


def test_nothing_that_moves_reorders_or_sets_anything_is_printed():
    line, lines = printable(EVERY_CHARACTER), printable_lines(EVERY_CHARACTER)
    for code in (*range(0x20), *range(0x7F, 0xA0), 0x202E, 0x2066, 0x200F, 0x2028, 0xDCE9, 0xFEFF, 0xFFFE, 0xFFFF):
        assert chr(code) not in line
        assert chr(code) not in lines or chr(code) in "\n\t"
    line.encode()
    assert printable("café 🙂 日本") == "café 🙂 日本"


def test_exceptions_that_refuse_to_tell_are_described():
    class Silent(Exception):
        def __str__(self):
            raise KeyboardInterrupt

    assert first_line_of(Silent()) == "Silent: (its message can't be shown: __str__ raises)"
    assert "Silent" in traceback_of(Silent())
    assert first_line_of(ValueError("\n\nfirst\nsecond")) == "ValueError: first"
