import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_evo.models.chromosome import DEPTHS, LENGTH, canonical_chromosome, decode

chromosomes = st.text("01", min_size=LENGTH, max_size=LENGTH)


def test_every_field_is_read_where_the_layout_says():
    assert decode("0" * 20).width == 0
    assert decode("11" + "0" * 18).width == 3
    assert decode("00010" + "0" * 15).kernel_size == 7
    assert decode("0" * 6 + "01" + "0" * 12).activation == "elu"
    assert decode("0" * 9 + "11" + "0" * 9).pooling == "stride"
    assert decode("01" + "0" * 10 + "1010000" + "0").convolutions == (1, 2, 1)


def test_there_are_3840_networks_behind_a_million_chromosomes():
    assert len({canonical_chromosome(format(number, "020b")) for number in range(2**20)}) == 3840


@given(chromosomes)
def test_a_canonical_chromosome_says_the_same_and_stands_for_itself(bits):
    canonical = canonical_chromosome(bits)
    assert decode(canonical) == decode(bits)
    assert canonical_chromosome(canonical) == canonical


@given(chromosomes, chromosomes)
def test_canonical_chromosomes_differ_exactly_where_what_they_say_differs(first, second):
    assert (canonical_chromosome(first) == canonical_chromosome(second)) == (decode(first) == decode(second))


@given(chromosomes, st.integers(0, LENGTH - 1))
def test_flipping_a_bit_that_is_not_read_changes_nothing(bits, at):
    flipped = bits[:at] + "01"[bits[at] == "0"] + bits[at + 1 :]
    unread = at in (2, 5, 8, 11, 19) or at >= 12 + DEPTHS[int(bits[:2], 2)]
    assert (decode(flipped) == decode(bits)) == unread


@pytest.mark.parametrize("bits", ["", "0" * 19, "0" * 21, "0" * 19 + "2", " " * 20])
def test_what_is_no_chromosome_is_refused_by_name(bits):
    with pytest.raises(ValueError, match="20 characters 0 and 1"):
        decode(bits)
    with pytest.raises(ValueError, match="20 characters 0 and 1"):
        canonical_chromosome(bits)


def test_a_chromosome_that_yaml_read_as_a_number_is_told_to_be_quoted():
    with pytest.raises(ValueError, match="quotes"):
        decode(10101)


def test_reading_chromosomes_imports_neither_torch_nor_lightning():
    code = (
        "import sys; from lightning_evo.models.chromosome import canonical_chromosome;"
        "sys.exit(bool({'torch', 'lightning', 'numpy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
