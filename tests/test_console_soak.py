"""The long run of the console in small: what it would find is not there."""

import random
from collections.abc import Iterator

import pytest

from tests import console
from tests.console import Size
from tests.house import House, running
from tests.ledger import Ledger

pytestmark = pytest.mark.browser


@pytest.fixture
def house() -> Iterator[House]:
    """One that is stopped and filled."""
    with running() as found:
        yield found


def test_every_page_is_live_beside_each_other(house: House) -> None:
    """Eleven pages open, a visitor on all of them, 200 events a second: calm, live and exact."""
    size = Size(5_000, queues=10, skus=10, rate=200, seconds=4, warm=1, strict=False)
    console.furnish(house, size)
    found = console.run(house, size, random.Random(7))
    print("\n".join(found.told))
    assert found.wrong == []
    assert (found.pages, found.visits > 0, found.events > 0) == (len(console.SECTIONS), True, True)
    ledger = Ledger.sqlite(house.servers[0])
    assert ledger.counted() == ledger.kept()
