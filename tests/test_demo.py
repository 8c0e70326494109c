"""The demo: the same orders each time, and books that find what is wrong."""

import csv
import gzip
import io
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

import demo
from tests import forks
from tests.house import API
from tests.ledger import Ledger
from tests.services import Postgres, Server, free_port

PASSWORD = "a-password-of-the-demo"
PURCHASES = 500
FEW = 20
SECONDS = 100.0


# --- the orders -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def everything() -> list[demo.Order]:
    return list(demo.orders(demo.ALL, 1997))


@pytest.fixture(scope="module")
def rows() -> list[dict[str, str]]:
    with gzip.open(demo.SAMPLES / "purchases-1997.csv.gz", "rt", newline="") as file:
        return list(csv.DictReader(file))


def test_every_purchase_is_there_as_it_was(
    everything: list[demo.Order], rows: list[dict[str, str]]
) -> None:
    """Customer, date, number of discs and every cent: duplicates and zeros too."""
    assert len(everything) == len(rows) == demo.ALL
    for number, (order, row) in enumerate(zip(everything, rows, strict=True), 1):
        body = order.body
        assert body["customer"] == f"cdnow-{row['customer']}"
        assert body["metadata"] == {"date": row["date"]}
        assert order.key == f"cdnow-{number}"
        assert sum(item["quantity"] for item in body["items"]) == int(row["discs"])
        total = sum(item["amount_cents"] for item in body["items"])
        assert total == round(float(row["amount_usd"]) * 100)
    assert any(item["amount_cents"] == 0 for order in everything for item in order.body["items"])


def test_a_seed_makes_the_same_orders(everything: list[demo.Order]) -> None:
    """Each run posts the same bodies by the same keys, however many it posts; no line twice."""
    assert list(demo.orders(700, 1997)) == everything[:700]
    other = list(demo.orders(700, 7))
    assert other != everything[:700]
    assert [order.body["customer"] for order in other] == [
        order.body["customer"] for order in everything[:700]
    ]
    for order in everything:
        skus = [item["sku"] for item in order.body["items"]]
        assert len(skus) == len(set(skus))


def test_a_few_hits_sell_most(everything: list[demo.Order]) -> None:
    """A long tail: a tenth of the discs make more than half of the sales, and all are sold."""
    sold: Counter[str] = Counter()
    for order in everything:
        sold.update({item["sku"]: item["quantity"] for item in order.body["items"]})
    hits = sold.most_common(len(sold) // 10)
    assert len(sold) == 347
    assert sum(count for _, count in hits) > sold.total() / 2


def test_a_plan_ends_where_it_says(everything: list[demo.Order]) -> None:
    """Most are completed in the last queue; some die in each; every detour comes to its end."""
    ends = Counter(order.end for order in everything)
    assert set(ends) == {(demo.QUEUES[-1], "completed"), *((q, "failed") for q in demo.QUEUES)}
    assert ends["shipping", "completed"] > 0.97 * demo.ALL
    detours = Counter(step for order in everything for plan in order.plan.values() for step in plan)
    assert min(detours["release"], detours["nack"], detours["refuse"]) > demo.ALL / 200


@given(
    total=st.integers(0, 10**12), weights=st.lists(st.integers(1, 10_000), min_size=1, max_size=100)
)
def test_no_cent_is_lost(total: int, weights: list[int]) -> None:
    """An amount that is split over lines is whole again when they are added up."""
    parts = demo.split(total, weights)
    assert sum(parts) == total
    assert len(parts) == len(weights)
    whole = sum(weights)
    assert all(abs(part - total * w / whole) <= 1 for part, w in zip(parts, weights, strict=True))


# --- a run ----------------------------------------------------------------------------


class Stage(NamedTuple):
    server: Server
    ledger: Ledger


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def stage(request: pytest.FixtureRequest) -> Iterator[Stage]:
    """A service as it comes, with its rate limits, in which a short demo has run already."""
    if request.param == "sqlite":
        with Server(ADMIN_PASSWORD=PASSWORD) as server:
            yield opened(Stage(server, Ledger.sqlite(server)))
        return
    cluster: Postgres = request.getfixturevalue("postgres_server")
    name = cluster.create()
    with Server(ADMIN_PASSWORD=PASSWORD, DATABASE_URL=cluster.url(name)) as server:
        yield opened(Stage(server, Ledger.postgres(cluster, name)))
    cluster.drop(name)


def opened(stage: Stage) -> Stage:
    status, _, wrong = against(stage, FEW)
    assert (status, wrong) == (0, "")
    return stage


def play(folder: Path, *args: str, **settings: str) -> tuple[int, str, str]:
    """`cli.py demo` to its end: status, what it said, what it complained about."""
    named = {f"FILAVIVA_{name}": value for name, value in settings.items()}
    around = {"HOME": str(folder), "TMPDIR": str(folder), **named}
    done = forks.run(["demo", *args], folder, around, SECONDS)
    return done.returncode, done.stdout, done.stderr


def against(stage: Stage, purchases: int, *more: str) -> tuple[int, str, str]:
    options = ["--url", stage.server.url, "--password", PASSWORD, "--purchases", str(purchases)]
    return play(stage.server.folder, *options, *more)


@contextmanager
def signed_in(server: Server) -> Iterator[httpx.Client]:
    form = {"username": "admin", "password": PASSWORD}
    with httpx.Client(base_url=server.url + API, timeout=60) as http:
        token = http.post("/auth/token", data=form).json()["access_token"]
        http.headers["Authorization"] = f"Bearer {token}"
        yield http


def test_the_books_agree(stage: Stage) -> None:
    """Run for 20, then for 500: 500 posted, 500 ended, as the database counts too.

    And the tracking link of the beginning opens the page of the first order.
    """
    planned = Counter(order.end for order in demo.orders(PURCHASES, 1997))
    status, said, wrong = against(stage, PURCHASES)
    assert (status, wrong) == (0, "")
    assert "500 purchases in" in said
    assert "20 of them were here from an earlier run" in said
    assert "The service, the books and the plan agree." in said
    counted = stage.ledger.counted()
    assert counted == dict(planned)
    assert sum(counted.values()) == PURCHASES
    assert stage.ledger.faults() == []
    link = re.search(r"Follow the first order: (\S+)$", said, re.MULTILINE)
    assert link is not None
    assert httpx.get(link[1], timeout=60).status_code == 200


def test_another_seed_is_other_purchases(stage: Stage) -> None:
    """The same keys with other discs are refused by the service, and the demo says so."""
    status, _, wrong = against(stage, FEW, "--seed", "7")
    assert status == 1
    assert re.fullmatch(r"filaviva: posting.*key.*\n", wrong)
    assert stage.ledger.faults() == []


async def test_books_find_what_is_wrong(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A count that is off by one, and a history that ends elsewhere, are named."""
    counted = demo.Demo.counted

    async def off_by_one(self: demo.Demo) -> Counter[demo.Place]:
        return await counted(self) + Counter({("picking", "failed"): 1})

    monkeypatch.setattr(demo.Demo, "counted", off_by_one)
    console = Console(file=io.StringIO())
    found = await demo.run(stage.server.url, "admin", PASSWORD, FEW, 1997, console)
    assert [line.split(":")[0] for line in found] == ["picking failed"]


def test_it_leaves_other_purchases_alone(stage: Stage) -> None:
    """Where somebody else's purchases wait it works on nothing."""
    body = {"customer": "c-7", "items": [{"sku": "disc-001", "quantity": 1}]}
    with signed_in(stage.server) as http:
        posted = http.post("/queues/picking/messages", json=body).json()
        status, _, wrong = against(stage, FEW)
        assert (status, wrong.count("\n")) == (1, 1)
        assert "other purchases wait in picking" in wrong
        assert http.get(f"/messages/{posted['id']}").json()["version"] == 1
        assert http.post(f"/messages/{posted['id']}/cancel").status_code == 200


def test_a_wrong_password_is_said(stage: Stage) -> None:
    """Whoever cannot sign in is told so in one line."""
    status, _, wrong = against(stage, FEW, "--password", "not the password")
    assert status == 1
    assert re.fullmatch(r"filaviva: admin cannot sign in at .+ password is wrong\.\n", wrong)


def test_an_address_where_nobody_answers(tmp_path: Path) -> None:
    """Who names a service means that one: the demo starts no other."""
    nowhere = f"http://127.0.0.1:{free_port()}"
    status, _, wrong = play(tmp_path, "--url", nowhere)
    assert (status, wrong) == (1, f"filaviva: nothing answers at {nowhere}\n")


def test_it_asks_before_production(tmp_path: Path) -> None:
    """Nobody fills a real shop with purchases of 1997 by accident."""
    status, _, wrong = play(tmp_path, ENVIRONMENT="production")
    assert status == 1
    assert wrong == (
        "filaviva: this looks like production; name the service with --url if you mean it\n"
    )


def test_it_finds_the_local_service(tmp_path: Path) -> None:
    """With the settings of a service that runs here it needs no address and no password."""
    with Server() as server:
        given = {name: server.settings[name] for name in ("PORT", "DATA_DIR")}
        status, said, wrong = play(tmp_path, "--purchases", str(FEW), **given)
        assert (status, wrong) == (0, "")
        assert f"{server.url}/track/" in said
        assert sum(Ledger.sqlite(server).counted().values()) == FEW


def test_it_brings_a_service_along(tmp_path: Path) -> None:
    """Where none runs it starts one for itself, says so, and leaves nothing behind."""
    given = {"PORT": str(free_port()), "DATA_DIR": str(tmp_path / "data")}
    status, said, wrong = play(tmp_path, "--purchases", str(FEW), **given)
    assert (status, wrong) == (0, "")
    assert "starting one that ends with the demo" in said
    assert "The service, the books and the plan agree." in said
    assert list(tmp_path.iterdir()) == []
    link = re.search(r"Follow the first order: (http://127.0.0.1:\d+)/", said)
    assert link is not None
    with pytest.raises(httpx.ConnectError):
        httpx.get(link[1])


# --- calls that fail ------------------------------------------------------------------


def answering(*statuses: int) -> tuple[demo.Client, list[httpx.Request]]:
    """A client whose service answers with these statuses, then 200; 0 cuts the line."""
    left, seen = list(statuses), list[httpx.Request]()

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        status = left.pop(0) if left else 200
        if status == 0:
            raise httpx.ReadError("cut")
        return httpx.Response(status, json={"access_token": "t"}, headers={"Retry-After": "0"})

    http = httpx.AsyncClient(transport=httpx.MockTransport(answer), base_url="http://x")
    return demo.Client(http, "admin", PASSWORD), seen


@pytest.mark.parametrize("status", [429, 503])
async def test_a_call_is_repeated_while_it_may_help(status: int) -> None:
    """A service that is overloaded, or away for a moment, does not end the demo."""
    client, seen = answering(status, status)
    assert await client.call("POST", "/queues/x/claim", {"max": 1}) == {"access_token": "t"}
    assert len({request.content for request in seen}) == 1
    assert len(seen) == 3


async def test_an_expired_token_is_renewed() -> None:
    """A run that takes longer than a quarter of an hour signs in again."""
    client, seen = answering(401)
    await client.call("GET", "/queues")
    assert [request.url.path for request in seen] == [
        f"{API}/queues",
        f"{API}/auth/token",
        f"{API}/queues",
    ]
    assert seen[-1].headers["Authorization"] == "Bearer t"


async def test_a_service_that_stays_away_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A minute without an answer, and the demo says who was silent."""
    monkeypatch.setattr(demo, "PATIENCE_SECONDS", 0.1)
    client, _ = answering(0, 0, 0)
    with pytest.raises(demo.DemoFailed, match="http://x does not answer: ReadError cut"):
        await client.call("GET", "/queues")
