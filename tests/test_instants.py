"""Instants: what is written is RFC 3339, and reads back as it was."""

import re

from hypothesis import given
from hypothesis import strategies as st

from instants import parse, stamp

FIRST, LAST = parse("0001-01-01T00:00:00Z"), parse("9999-12-31T23:59:59.999Z")


@given(st.integers(FIRST, LAST))
def test_an_instant_is_written_and_read(instant: int) -> None:
    """Every instant of the calendar has one form of 24 characters, also in the year 1."""
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", stamp(instant))
    assert parse(stamp(instant)) == instant
