"""Queues over HTTP: settings, counts, pause, purge, redrive, delete."""

import pytest

from tests.answers import good, parameters, pointers, problem, stored
from tests.house import House
from tests.services import until

SETTINGS = {
    "description": "Cards",
    "lease_seconds": 43_200,
    "max_attempts": 100,
    "max_lost_leases": 1,
    "backoff_seconds": 0,
    "retention_days": 3_650,
}
DEFAULTS = {
    "description": "",
    "lease_seconds": 30,
    "max_attempts": 10,
    "max_lost_leases": 5,
    "backoff_seconds": 1,
    "retention_days": 30,
}
NONE = dict.fromkeys(["pending", "processing", "completed", "failed", "cancelled", "expired"], 0)


def fail(house: House, queue: str, error: str = "no card", **purchase: object) -> str:
    """Post a message and nack it for good; its id."""
    posted = house.post(queue, **purchase)
    [claimed] = house.claim(queue)
    assert claimed["id"] == posted["id"]
    good(house.settle("nack", claimed, error=error, retry=False))
    return posted["id"]


def test_a_new_queue_has_the_settings_asked_for_and_defaults(house: House) -> None:
    """POST /queues answers 201 with Location, ETag and the whole Queue."""
    admin = house.client()
    plain = admin.post("/queues", json={"name": "new.plain-1"})
    body = good(plain, 201)
    assert plain.headers["location"] == "/api/v1/queues/new.plain-1"
    assert plain.headers["etag"] == '"1"'
    assert {name: body[name] for name in DEFAULTS} == DEFAULTS
    assert body["counts"] == NONE
    assert (body["paused"], body["version"]) == (False, 1)
    assert (body["oldest_pending_seconds"], body["last_claim_at"]) == (None, None)
    full = good(admin.post("/queues", json={"name": "new_full", **SETTINGS}), 201)
    assert {name: full[name] for name in SETTINGS} == SETTINGS
    assert good(admin.get("/queues/new_full")) == full


def test_a_live_name_is_taken(house: House) -> None:
    """A second queue of a name is 409, also when two ask at once."""
    name = house.queue()
    refused = problem(house.client().post("/queues", json={"name": name}), 409, "queue_exists")
    assert refused["errors"][0]["pointer"] == "#/name"
    problem(house.client().post("/queues", json={"name": "orders"}), 409, "queue_exists")


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "Big"},
        {"name": "-a"},
        {"name": "a" * 65},
        {"name": "a\n"},
        {"name": ""},
        {"name": None},
        {"name": "a", "lease_seconds": 0},
        {"name": "a", "lease_seconds": 43_201},
        {"name": "a", "lease_seconds": 30.0},
        {"name": "a", "lease_seconds": "30"},
        {"name": "a", "lease_seconds": True},
        {"name": "a", "max_attempts": 101},
        {"name": "a", "max_lost_leases": 0},
        {"name": "a", "backoff_seconds": 901},
        {"name": "a", "retention_days": 3_651},
        {"name": "a", "description": "\x00"},
        {"name": "a", "paused": True},
    ],
    ids=str,
)
def test_settings_out_of_their_bounds_are_refused(house: House, wrong: dict[str, object]) -> None:
    """Bounds, types, names and unknown fields of a queue are checked, and located."""
    field = list(wrong)[-1]
    assert pointers(house.client().post("/queues", json=wrong)) == [f"#/{field}"]


def test_the_queue_orders_is_there_and_stays(house: House) -> None:
    """`orders` exists from the start and nobody can delete it."""
    admin = house.client()
    good(admin.get("/queues/orders"))
    problem(admin.delete("/queues/orders"), 409, "queue_protected")
    problem(admin.delete("/queues/orders?force=true"), 409, "queue_protected")


def test_a_patch_changes_what_it_names(house: House) -> None:
    """PATCH changes settings, null means the default, and the version counts changes."""
    admin, name = house.client(), house.queue(**SETTINGS)
    changed = admin.patch(f"/queues/{name}", json={"lease_seconds": 60, "max_attempts": None})
    body = good(changed)
    assert (body["lease_seconds"], body["max_attempts"], body["version"]) == (60, 10, 2)
    assert changed.headers["etag"] == '"2"'
    assert body["description"] == SETTINGS["description"]
    same = good(admin.patch(f"/queues/{name}", json={"lease_seconds": 60}))
    assert same["version"] == 2, "what changes nothing is no change"
    assert good(admin.patch(f"/queues/{name}"))["version"] == 2
    assert pointers(admin.patch(f"/queues/{name}", json={"name": "other"})) == ["#/name"]
    assert pointers(admin.patch(f"/queues/{name}", json={"nmae": None})) == ["#/nmae"]


def test_if_match_guards_a_queue(house: House) -> None:
    """A change or deletion with an old version is 412 and does nothing."""
    admin, name = house.client(), house.queue()
    path = f"/queues/{name}"
    good(admin.patch(path, json={"description": "a"}, headers={"If-Match": '"1"'}))
    for old in (b'"1"', b'"nonsense"', b'W/"2"', '"٢"'.encode()):
        answer = admin.patch(path, json={"description": "b"}, headers=[(b"If-Match", old)])
        problem(answer, 412, "version_mismatch")
    problem(admin.delete(path, headers={"If-Match": '"1"'}), 412, "version_mismatch")
    for wrong in ("2", '"2', '"1", "2"', ""):
        answer = admin.patch(path, json={"description": "b"}, headers={"If-Match": wrong})
        assert problem(answer, 400, "bad_header")["errors"][0]["header"] == "If-Match"
    good(admin.patch(path, json={"description": "c"}, headers={"If-Match": "*"}))
    assert good(admin.get(path))["description"] == "c"
    assert admin.delete(path, headers={"If-Match": '"3"'}).status_code == 204


def test_counts_are_exact(house: House) -> None:
    """A queue says at once how many of its messages stand where."""
    name = house.queue()
    for _ in range(5):
        house.post(name)
    first, second, third, _ = house.claim(name, 4)
    good(house.settle("ack", first))
    good(house.settle("nack", second, error="x", retry=False))
    good(house.client().post(f"/messages/{third['id']}/cancel"), 202)
    good(house.settle("release", third))
    found = good(house.client("viewer").get(f"/queues/{name}"))
    assert found["counts"] == {
        **NONE,
        "pending": 1,
        "processing": 1,
        "completed": 1,
        "failed": 1,
        "cancelled": 1,
    }
    assert found["oldest_pending_seconds"] in range(60)
    listed = good(house.client("worker").get("/queues", params={"prefix": name}))
    assert [one["counts"] for one in listed["items"] if one["name"] == name] == [found["counts"]]


def test_the_last_claim_is_told(house: House) -> None:
    """`last_claim_at` is written within seconds, without a version."""
    name = house.queue()
    house.claim(name)
    path = f"/queues/{name}"
    found = until(
        lambda: (q := good(house.client().get(path)))["last_claim_at"] and q, 60, "a claim told"
    )
    assert found["version"] == 1


def test_a_paused_queue_gives_nothing(house: House) -> None:
    """While paused claims answer []; everything else goes on; resume serves again."""
    admin, name = house.client(), house.queue()
    house.post(name)
    [leased] = house.claim(name)
    paused = good(admin.post(f"/queues/{name}/pause"))
    assert (paused["paused"], paused["version"]) == (True, 2)
    again = good(admin.post(f"/queues/{name}/pause", json={}))
    assert again["version"] == 2, "paused already"
    house.post(name)
    assert house.claim(name) == []
    good(house.settle("ack", leased))
    resumed = good(admin.post(f"/queues/{name}/resume"))
    assert (resumed["paused"], resumed["version"]) == (False, 3)
    assert good(admin.post(f"/queues/{name}/resume"))["version"] == 3
    assert len(house.claim(name)) == 1
    assert pointers(admin.post(f"/queues/{name}/pause", json={"why": 1})) == ["#/why"]


def test_a_purge_cancels_what_is_pending(house: House) -> None:
    """Purge cancels pending messages, delayed ones too, and leaves what is in work."""
    admin, name = house.client(), house.queue()
    house.post(name)
    house.claim(name)
    posted = [house.post(name), house.post(name, delay_seconds=1000)]
    assert good(admin.post(f"/queues/{name}/purge")) == {"cancelled": 2, "remaining": 0}
    for one in posted:
        assert good(admin.get(f"/messages/{one['id']}"))["status"] == "cancelled"
    assert good(admin.get(f"/queues/{name}"))["counts"]["processing"] == 1
    assert good(admin.post(f"/queues/{name}/purge")) == {"cancelled": 0, "remaining": 0}


def test_a_purge_and_a_redrive_of_many(house: House) -> None:
    """More than one step of 500: one call cancels all, one puts all dead letters back."""
    admin, name = house.client(), house.queue()
    batch = {"messages": [{"customer": "c-1", "items": [{"sku": "a", "quantity": 1}]}] * 600}
    path = f"/queues/{name}/messages/batch"
    for _ in range(2):
        good(house.client("producer").post(path, json=batch))
    for _ in range(6):
        claimed = house.claim(name, 100)
        nacks = [
            {"id": one["id"], "receipt": one["receipt"], "error": "no", "retry": False}
            for one in claimed
        ]
        good(house.client("worker").post("/messages/nack", json={"nacks": nacks}))
    assert good(admin.post(f"/queues/{name}/purge")) == {"cancelled": 600, "remaining": 0}
    redriven = good(admin.post(f"/queues/{name}/redrive", json={"limit": 550}))
    assert redriven == {"matched": 600, "redriven": 550, "refused": 0, "remaining": 50}
    assert good(admin.get(f"/queues/{name}"))["counts"] == {
        **NONE,
        "pending": 550,
        "failed": 50,
        "cancelled": 600,
    }


def test_a_redrive_takes_the_oldest_first_and_only_what_fits(house: House) -> None:
    """Redrive filters, counts, tries dry, and puts dead letters back with fresh counters."""
    admin, name = house.client(), house.queue()
    first = fail(house, name, "card: no")
    second = fail(house, name, "card: maybe", customer="c-other")
    fail(house, name, "stock", items=[{"sku": "disc-9", "quantity": 1}])
    path = f"/queues/{name}/redrive"

    def told(**body: object) -> tuple[int, int, int, int]:
        found = good(admin.post(path, json=body))
        return found["matched"], found["redriven"], found["refused"], found["remaining"]

    assert told(dry_run=True) == (3, 0, 0, 3)
    assert told(customer="c-other", dry_run=True) == (1, 0, 0, 1)
    assert told(sku="disc-9", dry_run=True) == (1, 0, 0, 1)
    assert told(error_contains="card", dry_run=True) == (2, 0, 0, 2)
    assert told(finished_before="2020-01-01T00:00:00Z", dry_run=True) == (0, 0, 0, 0)
    assert told(finished_after="2020-01-01T00:00:00+02:00", dry_run=True) == (3, 0, 0, 3)
    assert told(error="card", dry_run=True) == (0, 0, 0, 0)
    assert told(error="card: maybe", dry_run=True) == (1, 0, 0, 1)
    assert told(error="", dry_run=True) == (0, 0, 0, 0)
    assert told(error_contains="card", limit=1) == (2, 1, 0, 1)
    revived = good(admin.get(f"/messages/{first}"))
    assert (revived["status"], revived["attempts"], revived["finished_at"]) == ("pending", 0, None)
    assert good(admin.get(f"/messages/{second}"))["status"] == "failed"
    assert told() == (2, 2, 0, 0)
    assert good(admin.post(path))["matched"] == 0, "without a body too"
    for wrong in (
        {"limit": 0},
        {"limit": 10_001},
        {"dry_run": 1},
        {"sku": "-"},
        {"error": "é" * 1025},
    ):
        assert pointers(admin.post(path, json=wrong)) == [f"#/{next(iter(wrong))}"]


def test_failures_are_grouped_by_error(house: House) -> None:
    """Dead letters are told by their error, most first, with an example."""
    name = house.queue()
    ids = [fail(house, name, "a"), fail(house, name, "b"), fail(house, name, "b")]
    items = good(house.client("producer").get(f"/queues/{name}/failures"))["items"]
    assert [(one["error"], one["count"]) for one in items] == [("b", 2), ("a", 1)]
    assert items[1]["example_id"] == ids[0]
    assert items[0]["example_id"] in ids[1:]
    assert items[0]["oldest"] <= items[0]["newest"]


def test_one_error_is_looked_at_and_put_back_exactly(house: House) -> None:
    """`error` is the whole text as `failures` tells it, at its longest too, and "" is none."""
    admin, name = house.client(), house.queue()
    long = "é" * 1024
    texts = ("no", "no!", "No", "%", long, long[:-1])
    ids = {text: fail(house, name, text) for text in texts}
    none = fail(house, name, "nothing is known")
    stored(house, f"UPDATE messages SET last_error = NULL WHERE id = '{none}'")
    ids[""] = none
    path = f"/queues/{name}"
    told = {one["error"] for one in good(admin.get(f"{path}/failures"))["items"]}
    assert told == ids.keys()
    for text, message in ids.items():
        query = {"status": "failed", "error": text}
        [found] = good(admin.get(f"{path}/messages", params=query))["items"]
        assert (found["id"], found["last_error"] or "") == (message, text)
    assert parameters(admin.get(f"{path}/messages", params={"error": long + "x"})) == ["error"]
    for text in ("", "no"):
        done = good(admin.post(f"{path}/redrive", json={"error": text}))
        assert (done["matched"], done["redriven"]) == (1, 1)
        assert good(admin.get(f"/messages/{ids.pop(text)}"))["status"] == "pending"
    told = {one["error"] for one in good(admin.get(f"{path}/failures"))["items"]}
    assert told == ids.keys()


def test_a_deleted_queue_is_gone_and_its_messages_stay(house: House) -> None:
    """DELETE is 204; messages stay readable by id; the name may be used again, empty."""
    admin, name = house.client(), house.queue()
    failed = fail(house, name)
    house.post(name, idempotency_key="k")
    problem(admin.delete(f"/queues/{name}"), 409, "queue_not_empty")
    problem(admin.delete(f"/queues/{name}?force=false"), 409, "queue_not_empty")
    [leased] = house.claim(name)
    problem(admin.delete(f"/queues/{name}"), 409, "queue_not_empty")
    good(house.settle("ack", leased))
    gone = admin.delete(f"/queues/{name}")
    assert (gone.status_code, gone.content) == (204, b"")
    for method, path in (
        ("GET", ""),
        ("PATCH", ""),
        ("DELETE", ""),
        ("GET", "/messages"),
        ("GET", "/failures"),
        ("POST", "/purge"),
        ("POST", "/redrive"),
        ("POST", "/pause"),
    ):
        problem(admin.request(method, f"/queues/{name}{path}"), 404, "not_found")
    found = good(admin.get(f"/messages/{failed}"))
    assert (found["status"], found["queue"]) == ("failed", name)
    answer = problem(admin.post(f"/messages/{failed}/retry"), 409, "illegal_transition")
    assert answer["current"] == "failed"
    fresh = good(admin.post("/queues", json={"name": name}), 201)
    assert fresh["counts"] == NONE
    assert good(admin.get(f"/queues/{name}/messages"))["items"] == []
    assert house.post(name, idempotency_key="k")["id"] != leased["id"], "keys are the old queue's"


def test_a_forced_delete_cancels_what_waits(house: House) -> None:
    """force=true: pending is cancelled after the 204, processing may still be acked."""
    admin, name = house.client(), house.queue()
    waiting = house.post(name, delay_seconds=1000)
    house.post(name)
    house.post(name)
    acked, released = house.claim(name, 2)
    assert admin.delete(f"/queues/{name}", params={"force": "true"}).status_code == 204

    def status(message: str) -> str:
        return good(admin.get(f"/messages/{message}"))["status"]

    until(lambda: status(waiting["id"]) == "cancelled", 60, "the rest was cancelled")
    assert good(house.settle("ack", acked))["status"] == "completed"
    assert good(house.settle("release", released))["status"] == "cancelled"
    assert parameters(admin.delete("/queues/x?force=yes")) == ["force"]
