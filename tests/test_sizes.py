"""Sizes as people write them, and back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mrm.errors import ArgumentError
from mrm.sizes import format_size, parse_size, parse_size_or_zero


@pytest.mark.parametrize(
    ("written", "nbytes"),
    [
        (1, 1),
        ("1", 1),
        ("17b", 17),
        ("4k", 4096),
        ("4KiB", 4096),
        ("4kb", 4000),
        ("2GiB", 2 << 30),
        ("2 GiB", 2 << 30),
        (" 512M ", 512 << 20),
        ("1GB", 10**9),
        ("1.5TiB", 3 << 39),
        ("0.5g", 1 << 29),
        (2**63 - 1, 2**63 - 1),
    ],
)
def test_sizes(written, nbytes):
    assert parse_size(written) == nbytes


@pytest.mark.parametrize(
    "written",
    [
        0,
        -1,
        "0",
        "-1",
        "",
        "GiB",
        "2 2",
        "2XiB",
        "1e9",
        "0x10",
        "2**30",
        "nan",
        2**63,
        "8388608TiB",
        None,
        1.5,
        True,
    ],
)
def test_no_sizes(written):
    with pytest.raises(ArgumentError):
        parse_size(written)


def test_what_counts_as_an_integer():
    class Index:
        def __index__(self) -> int:
            return 42

    assert parse_size(Index()) == 42


@pytest.mark.parametrize(
    ("nbytes", "written"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        (3 << 29, "1.5 GiB"),
        (2 << 40, "2 TiB"),
        (5000 << 40, "5000 TiB"),
    ],
)
def test_written_for_people(nbytes, written):
    assert format_size(nbytes) == written


@given(st.integers(1, 1023), st.sampled_from(["B", "KiB", "MiB", "GiB", "TiB"]))
def test_there_and_back(number, unit):
    nbytes = parse_size(f"{number}{unit}")
    assert parse_size(format_size(nbytes)) == nbytes


@given(st.one_of(st.text(max_size=12), st.floats(), st.integers()))
def test_anything_is_a_size_or_refused(anything):
    try:
        assert 0 < parse_size(anything) < 2**63
    except ArgumentError:
        pass


def test_a_size_that_may_be_nothing():
    assert parse_size_or_zero(0) == 0
    assert parse_size_or_zero("2MiB") == 2 << 20
    for wrong in (False, True, -1, "0"):
        with pytest.raises(ArgumentError):
            parse_size_or_zero(wrong)
