"""Readers that never read: they are dropped, cost little, and find everything again."""

import random

import pytest

from tests import deaf


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_readers_that_never_read_are_dropped_and_cost_little() -> None:
    """50 of them cost 256 KiB each at most, are ended after 20 s, and miss nothing afterwards."""
    seen = deaf.tried(50, random.Random(7), 20)
    assert seen.wrong == []
    assert seen.resumed >= 10
