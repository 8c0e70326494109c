"""The directory of customers over HTTP: made, found, changed, counted, and forgotten for good."""

import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.answers import execute, good, parameters, pointers, problem, stored
from tests.house import API, CUSTOMER, LINES, PASSWORD, House
from tests.services import Postgres
from tests.test_lists_api import pages
from tests.test_migrations import migrate

SHAPE = {
    "id",
    "nickname",
    "name",
    "email",
    "birth_date",
    "tags",
    "active",
    "erased",
    "version",
    "created_at",
    "updated_at",
}
NOBODY = "c-ffffffffffffffffffff"
TABLES = {
    "sqlite": "SELECT name FROM sqlite_master WHERE type = 'table'",
    "postgres": "SELECT tablename FROM pg_tables WHERE schemaname = 'public'",
}


def fresh(text: str = "ana") -> str:
    """A word nobody else uses."""
    return f"{text}-{uuid4().hex[:12]}"


def customer(house: House, **fields: Any) -> dict[str, Any]:
    return good(house.client("producer").post("/customers", json=fields), 201)


def signed_in(house: House, customer: str) -> httpx.Client:
    """A client of an account that belongs to this customer."""
    username = fresh("own")
    body = {"username": username, "password": PASSWORD, "roles": ["customer"]}
    good(house.client().post("/accounts", json={**body, "customer": customer}), 201)
    form = {"username": username, "password": PASSWORD}
    token = good(house.client(None).post("/auth/token", data=form))["access_token"]
    headers = {"Authorization": f"Bearer {token}"}
    return httpx.Client(base_url=house.url + API, headers=headers, timeout=30, limits=LINES)


def found(house: House, **query: Any) -> list[str]:
    """The ids a list gives, newest first."""
    walked = pages(house.client("viewer"), "/customers", **query)
    return [one["id"] for page in walked for one in page]


def count(house: House, **query: Any) -> int:
    return good(house.client("viewer").get("/customers/count", params=query))["count"]


def kind(house: House) -> str:
    return "postgres" if "DATABASE_URL" in house.servers[0].settings else "sqlite"


def rows_with(house: House, text: str) -> list[str]:
    """The tables of the database in which a text stands, whatever the column."""
    tables = [name for (name,) in stored(house, TABLES[kind(house)])]
    assert "customers" in tables
    return [name for name in tables if text in str(stored(house, f"SELECT * FROM {name}"))]


# --- made -----------------------------------------------------------------------------


def test_a_customer_is_made_and_read(house: House) -> None:
    """All of it comes back, tags in their order and each once, under an id that is ours."""
    nickname, email = fresh("Ána"), f"{fresh()}@Example.org"
    given = {
        "nickname": nickname,
        "name": "Ana Souza",
        "email": email,
        "birth_date": "1984-02-29",
        "tags": ["vinyl", "Jazz", "vinyl"],
    }
    answer = house.client("producer").post("/customers", json=given)
    made = good(answer, 201)
    assert made.keys() == SHAPE
    assert re.fullmatch("c-[0-9a-f]{20}", made["id"])
    expected = {**given, "email": email.lower(), "tags": ["vinyl", "Jazz"]}
    assert expected.items() <= made.items()
    assert (made["active"], made["erased"], made["version"]) == (True, False, 1)
    assert made["created_at"] == made["updated_at"]
    assert answer.headers["location"] == f"{API}/customers/{made['id']}"
    read = house.client("viewer").get(f"/customers/{made['id']}")
    assert (good(read), read.headers["etag"]) == (made, answer.headers["etag"])
    problem(house.client("viewer").get(f"/customers/{NOBODY}"), 404, "not_found")
    problem(house.client("viewer").get("/customers/-"), 404, "not_found")


def test_nothing_is_required(house: House) -> None:
    """A customer may be nothing but an id, and two of those are no doubles."""
    first, second = customer(house), customer(house, nickname=None, tags=None)
    assert first["id"] != second["id"]
    assert (first["nickname"], first["email"], first["tags"]) == (None, None, [])
    bare = house.client("producer").post("/customers", headers={"content-type": ""})
    assert bare.status_code == 201


@pytest.mark.parametrize(
    "fields, where",
    [
        ({"id": "c-7"}, "#/id"),
        ({"nickname": ""}, "#/nickname"),
        ({"nickname": "a" * 65}, "#/nickname"),
        ({"nickname": 7}, "#/nickname"),
        ({"nickname": "a\0"}, "#/nickname"),
        ({"name": "a" * 201}, "#/name"),
        ({"email": "nobody"}, "#/email"),
        ({"birth_date": "1983-02-29"}, "#/birth_date"),
        ({"birth_date": "19840229"}, "#/birth_date"),
        ({"birth_date": "1984-W09-3"}, "#/birth_date"),
        ({"birth_date": "1984-02-29T00:00:00Z"}, "#/birth_date"),
        ({"birth_date": 0}, "#/birth_date"),
        ({"tags": ["a"] * 33}, "#/tags"),
        ({"tags": ["a", ""]}, "#/tags/1"),
        ({"tags": ["a" * 33]}, "#/tags/0"),
        ({"tags": "jazz"}, "#/tags"),
    ],
)
def test_what_does_not_fit_is_refused(house: House, fields: dict[str, Any], where: str) -> None:
    """Each fault is located, in a new customer and in a change."""
    client = house.client()
    assert pointers(client.post("/customers", json=fields)) == [where]
    path = f"/customers/{customer(house)['id']}"
    assert pointers(client.patch(path, json=fields)) == [where]


def test_nickname_and_address_are_his_alone(house: House) -> None:
    """Another's nickname, as written, or address, in any case, is 409 and says which."""
    nickname, email = fresh(), f"{fresh()}@example.org"
    made = customer(house, nickname=nickname, email=email)
    post = house.client("producer").post
    other = customer(house, nickname=nickname.upper(), email=f"x{email}")

    def which(answer: httpx.Response) -> list[str]:
        return [one["pointer"] for one in problem(answer, 409, "customer_exists")["errors"]]

    assert which(post("/customers", json={"nickname": nickname})) == ["#/nickname"]
    assert which(post("/customers", json={"email": email.upper()})) == ["#/email"]
    both = {"nickname": nickname, "email": email}
    assert which(post("/customers", json=both)) == ["#/nickname", "#/email"]
    patch = house.client("producer").patch
    assert which(patch(f"/customers/{other['id']}", json={"email": email})) == ["#/email"]
    assert good(patch(f"/customers/{made['id']}", json=both)) == made
    person = {"username": fresh(), "password": PASSWORD, "email": email}
    assert which(house.client(None).post("/auth/register", json=person)) == ["#/email"]


@pytest.mark.parametrize("field", ["nickname", "email"])
def test_of_32_at_once_one_is_made(twins: House, field: str) -> None:
    """The same nickname or address from two processes: one 201, the others 409, one row."""
    body = {field: f"{fresh()}@example.org"}
    clients = [twins.client("producer", process) for process in (0, 1)]
    changed = customer(twins)["id"]
    before = count(twins)

    def post(n: int) -> int:
        if n == 13:  # one of them by a change
            return clients[1].patch(f"/customers/{changed}", json=body).status_code
        return clients[n % 2].post("/customers", json=body).status_code

    with ThreadPoolExecutor(32) as pool:
        statuses = sorted(pool.map(post, range(32)))
    assert statuses[1:] == [409] * 31
    assert statuses[0] in (200, 201)
    assert len(found(twins, **body)) == 1
    assert count(twins) - before == (statuses[0] == 201)


def test_who_registers_stands_in_the_directory(house: House) -> None:
    """Registering makes a customer, who reads and changes himself and nobody else."""
    person = {"username": fresh(), "password": PASSWORD, "email": f"{fresh()}@example.org"}
    account = good(house.client(None).post("/auth/register", json=person), 201)
    his = good(house.client("viewer").get(f"/customers/{account['customer']}"))
    assert (his["email"], his["nickname"]) == (person["email"], None)


# --- found ----------------------------------------------------------------------------


def test_a_part_of_a_word_finds(house: House) -> None:
    """q is a part of nickname, name or a tag, whatever case and accents, and never a pattern."""
    mark = uuid4().hex[:8]
    one = customer(house, nickname=f"{mark}A%_\\b", name="Élise Straße")["id"]
    two = customer(house, name=f"Bruno {mark}", tags=["Forró", f"x{mark}axb"])["id"]
    by = {
        mark: [two, one],
        f"{mark.upper()}a%_\\B": [one],
        f"{mark}a%b": [],
        f"{mark}a__b": [],
        f"{mark}axb": [two],
        f"no {mark}": [two],
        f"BRÜNO {mark}": [two],
        f"bruno {mark} forró": [],
    }
    assert {q: found(house, q=q) for q in by} == by
    assert one in found(house, q="STRASSE")
    assert one in found(house, q="elise strasse")
    assert two in found(house, q="FORRO")
    assert found(house, tag="forro", q=mark) == []
    assert found(house, q=mark, limit=1) == [two, one]


def test_filters_are_exact(house: House) -> None:
    """tag, nickname and email match whole; active and erased as they are; all together."""
    mark = fresh()
    one = customer(house, nickname=mark, tags=[mark, "a"])["id"]
    two = customer(house, email=f"{mark}@example.org", tags=[mark.upper(), f"{mark}x"])["id"]
    assert found(house, tag=mark) == [one]
    assert found(house, tag=f"{mark}x") == [two]
    assert (found(house, nickname=mark), found(house, nickname=mark.upper())) == ([one], [])
    assert found(house, email=f"{mark.upper()}@example.org") == [two]
    good(house.client().post(f"/customers/{one}/deactivate"))
    assert (found(house, q=mark, active="false"), found(house, q=mark, active="true")) == (
        [one],
        [two],
    )
    assert found(house, q=mark, tag=mark, active="true") == []
    get = house.client("viewer").get
    assert parameters(get("/customers?active=yes")) == ["active"]
    assert parameters(get("/customers?q=")) == ["q"]
    assert parameters(get("/customers?sort=name")) == ["sort"]


def test_the_list_is_walked_once_while_it_grows(house: House) -> None:
    """Newest first; nothing comes twice, and a cursor belongs to its filters."""
    mark = fresh()
    made = [customer(house, tags=[mark])["id"] for _ in range(5)]
    viewer = house.client("viewer")
    query = {"tag": mark, "limit": 2}
    first = good(viewer.get("/customers", params=query))
    made.append(customer(house, tags=[mark])["id"])
    cursor = first["next_cursor"]
    walked = [one["id"] for one in first["items"]]
    walked += found(house, **query, cursor=cursor)
    assert sorted(walked) == sorted(made[:5])
    times = [good(viewer.get(f"/customers/{one}"))["created_at"] for one in walked]
    assert times == sorted(times, reverse=True)
    problem(viewer.get("/customers", params={"cursor": cursor}), 400, "bad_cursor")


def test_the_count_is_exact(house: House) -> None:
    """Every way to come, to pause and to go is counted, and a refusal is not."""
    before, asleep = count(house), count(house, active="false")
    made = [customer(house, email=f"{fresh()}@example.org") for _ in range(4)]
    house.client("producer").post("/customers", json={"email": made[0]["email"]})
    post = house.client().post
    for verb, n in (
        ("deactivate", 0),
        ("deactivate", 1),
        ("deactivate", 1),
        ("activate", 0),
        ("erase", 1),
        ("erase", 2),
        ("erase", 2),
    ):
        good(post(f"/customers/{made[n]['id']}/{verb}"))
    good(post(f"/customers/{made[3]['id']}/deactivate"))
    assert (count(house) - before, count(house, active="false") - asleep) == (2, 1)
    assert count(house, active="true") == count(house) - count(house, active="false")
    sql = "SELECT count(*) FROM customers WHERE erased_at IS NULL"
    assert stored(house, sql) == [(count(house),)]


# --- changed --------------------------------------------------------------------------


def test_a_change_needs_the_version_it_saw(house: House) -> None:
    """If-Match is honoured, null is the default, and what changes nothing is no version."""
    made = customer(house, nickname=fresh(), name="Ana", tags=["a", "b"])
    path, patch = f"/customers/{made['id']}", house.client("producer").patch
    answer = patch(path, json={"name": "Ana B", "tags": ["b"]}, headers={"If-Match": '"1"'})
    changed = good(answer)
    assert changed == {
        **made,
        "name": "Ana B",
        "tags": ["b"],
        "version": 2,
        "updated_at": changed["updated_at"],
    }
    assert answer.headers["etag"] == '"2"'
    problem(patch(path, json={}, headers={"If-Match": '"1"'}), 412, "version_mismatch")
    assert good(patch(path, json={"name": "Ana B"})) == changed
    emptied = good(patch(path, json={"nickname": None, "name": None, "tags": None}))
    assert (emptied["nickname"], emptied["name"], emptied["tags"]) == (None, None, [])
    assert found(house, q=made["nickname"]) == []
    problem(patch(f"/customers/{NOBODY}", json={}), 404, "not_found")


def test_a_customer_reaches_himself_alone(house: House) -> None:
    """His own row to read and change; of all others nothing, not even whether they are there."""
    me, other = customer(house, name="I")["id"], customer(house, name="Other")["id"]
    with signed_in(house, me) as client:
        assert good(client.get(f"/customers/{me}"))["name"] == "I"
        assert good(client.patch(f"/customers/{me}", json={"tags": ["x"]}))["tags"] == ["x"]
        for stranger in (other, NOBODY):
            for answer in (
                client.get(f"/customers/{stranger}"),
                client.patch(f"/customers/{stranger}", json={"name": "Me"}),
                client.get(f"/customers/{stranger}/orders"),
                client.get(f"/customers/{stranger}/favourites"),
                client.put(f"/customers/{stranger}/favourites/a"),
                client.delete(f"/customers/{stranger}/favourites/a"),
            ):
                problem(answer, 404, "not_found")
    assert good(house.client("viewer").get(f"/customers/{other}"))["version"] == 1


def test_his_orders(house: House) -> None:
    """The same list as /orders gives for him, whether he stands in the directory or not."""
    his = fresh("c")
    posted = [house.post(house.queue(), customer=his)["id"] for _ in range(3)]
    house.post(house.queue(), customer=CUSTOMER)
    viewer = house.client("viewer")
    walked = pages(viewer, f"/customers/{his}/orders", limit=2, status="pending")
    assert [one["id"] for page in walked for one in page] == posted[::-1]
    assert walked == pages(viewer, "/orders", customer=his, limit=2, status="pending")
    assert parameters(viewer.get(f"/customers/{his}/orders?customer=c-7")) == ["customer"]
    own = good(house.client("customer").get(f"/customers/{CUSTOMER}/orders"))
    assert {one["customer"] for one in own["items"]} == {CUSTOMER}


# --- ended ----------------------------------------------------------------------------


def test_a_deactivated_customer_places_no_orders(house: House) -> None:
    """Until he is activated again; saying it twice is saying it once."""
    sku, his = fresh("s"), customer(house)["id"]
    good(house.client().post("/products", json={"sku": sku, "name": "x", "price_cents": 1}), 201)
    order = {"items": [{"sku": sku, "quantity": 1}]}
    post = house.client().post
    with signed_in(house, his) as client:
        off = good(post(f"/customers/{his}/deactivate"))
        assert (off["active"], off["version"]) == (False, 2)
        assert good(post(f"/customers/{his}/deactivate")) == off
        problem(client.post("/orders", json=order), 409, "customer_inactive")
        answer = house.client("producer").post("/orders", json={**order, "customer": his})
        problem(answer, 409, "customer_inactive")
        assert good(client.patch(f"/customers/{his}", json={"name": "still me"}))["name"]
        assert good(post(f"/customers/{his}/activate"))["active"]
        good(client.post("/orders", json=order), 201)
    problem(post(f"/customers/{NOBODY}/deactivate"), 404, "not_found")


def test_an_erased_customer_is_gone_for_good(house: House) -> None:
    """Nothing personal is left in any table, his accounts end, his orders stay."""
    secret = uuid4().hex
    fields = {
        "nickname": f"nick{secret}",
        "name": f"name{secret}",
        "email": f"mail{secret}@example.org",
        "birth_date": "1984-02-29",
        "tags": [f"tag{secret[:20]}"],
    }
    his = customer(house, **fields)["id"]
    client, post = signed_in(house, his), house.client().post
    good(client.put(f"/customers/{his}/favourites/{fresh('s')}"))
    ticket = good(client.post("/events/tickets", json={"topics": ["favourites"]}), 201)["ticket"]
    order = house.post(house.queue(), customer=his)["id"]
    assert rows_with(house, secret) == ["customers"]
    erased = good(post(f"/customers/{his}/erase"))
    bare = {**dict.fromkeys(fields), "tags": [], "active": False, "erased": True}
    assert bare.items() <= erased.items()
    assert rows_with(house, secret) == []
    assert stored(house, f"SELECT * FROM favourites WHERE customer = '{his}'") == []
    problem(client.get("/auth/me"), 401, "unauthenticated")
    with httpx.Client(base_url=house.url + API, timeout=30, limits=LINES) as bearer:
        problem(bearer.get("/events/history", params={"ticket": ticket}), 401, "unauthenticated")
    assert good(house.client("viewer").get(f"/orders/{order}"))["customer"] == his
    client.close()

    assert good(post(f"/customers/{his}/erase")) == erased
    assert good(post(f"/customers/{his}/deactivate")) == erased
    assert good(house.client("viewer").get(f"/customers/{his}")) == erased
    assert his not in found(house, active="false", limit=200)
    problem(post(f"/customers/{his}/activate"), 409, "customer_inactive")
    problem(house.client().patch(f"/customers/{his}", json={}), 409, "customer_inactive")
    problem(house.client().put(f"/customers/{his}/favourites/a"), 409, "customer_inactive")
    again = customer(house, nickname=fields["nickname"], email=fields["email"])
    assert again["id"] != his
    good(post(f"/customers/{again['id']}/erase"))


def test_personal_data_stays_in_the_directory(house: House) -> None:
    """An address is in one table alone, and in no log line, whatever was done with it."""
    secret = uuid4().hex
    email, other = f"{secret}@example.org", customer(house)["id"]
    his = customer(house, email=email, nickname=secret)["id"]
    house.client().post("/customers", json={"email": email})
    house.client().patch(f"/customers/{other}", json={"email": email, "nickname": secret})
    person = {"username": fresh(), "password": PASSWORD, "email": email}
    house.client(None).post("/auth/register", json=person)
    house.client().post("/customers", json={"email": [email]})
    found(house, email=email)
    found(house, q=secret)
    house.post(house.queue(), customer=his)
    with signed_in(house, his) as client:
        good(client.put(f"/customers/{his}/favourites/{fresh('s')}"))
    assert rows_with(house, secret) == ["customers"]
    assert secret not in house.servers[0].log


# --- the search index -----------------------------------------------------------------


def test_without_trigrams_the_directory_is_searched_all_the_same(
    postgres_server: Postgres,
) -> None:
    """Where the extension may not be made the schema is complete, but for one index."""
    name = postgres_server.create()
    role = f"{name}_plain"
    try:
        url = postgres_server.url(name)
        execute(url, f"CREATE ROLE {role} LOGIN")
        execute(url, f"REVOKE CREATE ON DATABASE {name} FROM PUBLIC")
        execute(url, f"GRANT CREATE ON SCHEMA public TO {role}")
        plain = re.sub(r"//[^@/]*@", f"//{role}@", url)
        done = migrate(plain)
        assert done.returncode == 0, done.stdout
        indexes = "SELECT indexname FROM pg_indexes WHERE tablename = 'customers'"
        names = {index for (index,) in execute(url, indexes)}
        assert "customers_newest" in names
        assert "customers_words" not in names
    finally:
        postgres_server.drop(name)
        execute(postgres_server.url("postgres"), f"DROP ROLE {role}")


def test_with_trigrams_there_is_an_index(house_on_postgres: House) -> None:
    """Where the extension is to be had, a rare text is found by it."""
    sql = "SELECT count(*) FROM pg_available_extensions WHERE name = 'pg_trgm'"
    index = "SELECT count(*) FROM pg_indexes WHERE indexname = 'customers_words'"
    assert stored(house_on_postgres, sql) == stored(house_on_postgres, index)
