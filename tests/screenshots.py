"""The pictures of docs/screenshots.md, of a shop that is made for them.

usage: scripts/screenshots [part of a name …]

The purchases are those of `samples/`, drawn from a seed: each run shows the same shop, at
another time of day.
"""

import base64
import csv
import math
import sqlite3
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from playwright.sync_api import Browser, Page

import demo
from tests.answers import good
from tests.chromium import chromium
from tests.house import House
from tests.services import ROOT
from tests.visits import at_home, cookie_of

FOLDER = ROOT / "docs" / "screenshots"
SEED = 7
PURCHASES = 160
DISCS = 36
LEFT = {"payments": 23, "picking": 11, "shipping": 5}  # that still wait
AT_WORK = {"payments": 4, "picking": 3, "shipping": 2}
REFUSED_EVERY = 12  # the first queue's dead letters, so that there are some
QUALITY = 82  # of WebP
WIDE, TALL = 1280, 900
PHONE, LONG = 390, 844
READY = """() => [...document.querySelectorAll(".region[data-state=loading], [aria-busy=true]")]
  .every((node) => !node.checkVisibility())
  && !document.querySelector("#line[data-state=connecting]:not([hidden])")"""

# --- the shop ---------------------------------------------------------------------------


def shop(house: House) -> dict[str, str]:
    """A shop in the middle of a day; the names that the addresses of its pages need."""
    catalogue(house)
    for name in demo.QUEUES:
        made = {"name": name, "max_attempts": 3, "backoff_seconds": 0}
        good(house.client().post("/queues", json=made), 201)
    for name in ("gifts", "returns", "wholesale"):
        good(house.client().post("/queues", json={"name": name}), 201)
    trade(house)
    names = followed(house) | lost(house)
    acts(house)
    yesterday(house)
    return names


def catalogue(house: House) -> None:
    with (ROOT / "samples" / "discs.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))[:DISCS]
    for place, row in enumerate(rows):
        extra: dict[str, Any] = {"max_per_order": 2} if place % 5 == 0 else {}
        if place == 3:
            extra = {"available_from": soon(hours=51)}
        attributes = {"artist": row["artist"], "genre": row["genre"], "tracks": int(row["tracks"])}
        body = {"name": row["title"], "price_cents": int(row["price_cents"])}
        made = {"sku": row["sku"], **body, "attributes": attributes, **extra}
        good(house.client().post("/products", json=made), 201)
        if place != 5:  # sold out
            count = {"quantity": (3, 24, 60, 40)[place % 4], "reason": "first delivery"}
            good(house.client().post(f"/products/{row['sku']}/stock/receive", json=count))
    good(house.client().post("/products/disc-006/stock/receive", json={"quantity": 2}))
    buy(house, "disc-006", 2)


def soon(hours: int) -> str:
    return (datetime.now(UTC) + timedelta(hours=hours)).strftime("%Y-%m-%dT%H:%M:%SZ")


def buy(house: House, sku: str, quantity: int) -> None:
    body = {"items": [{"sku": sku, "quantity": quantity}]}
    good(house.client("customer").post("/orders", json=body), 201)


def trade(house: House) -> None:
    """Purchases of 1997 on their way: some are through, some wait, some went wrong."""
    bodies = [order.body for order in demo.orders(PURCHASES, SEED)]
    for body in bodies:
        body["items"] = [{**item, "sku": f"rec-{item['sku'][5:]}"} for item in body["items"]]
    path = "/queues/payments/messages/batch"
    good(house.client("producer").post(path, json={"messages": bodies}))
    for place, queue in enumerate(demo.QUEUES):
        follower = [*demo.QUEUES[place + 1 :], None][0]
        work(house, queue, follower)
        house.claim(queue, AT_WORK[queue], worker=f"{queue}-2", lease_seconds=3_600)


def work(house: House, queue: str, follower: str | None) -> None:
    """Until only so many are left; now and then one fails, for a moment or for good."""
    soon, never = demo.TROUBLE[queue]
    done = 0
    for _ in range(PURCHASES):
        counts = good(house.client().get(f"/queues/{queue}"))["counts"]
        most = counts["pending"] - LEFT[queue] - AT_WORK[queue]
        if most <= 0:
            return
        for message in house.claim(queue, min(most, 20), worker=f"{queue}-1"):
            done += 1
            if done % REFUSED_EVERY == 0:
                house.settle("nack", message, error=never, retry=False)
            elif done % 17 == 0:
                house.settle("nack", message, error=soon)
            else:
                house.settle("ack", message, **({"forward_to": follower} if follower else {}))


def followed(house: House) -> dict[str, str]:
    """An order that its customer looks at: paid for, picked at the second try, in line."""
    purchase = {
        "reference": "1042",
        "priority": 9,
        "items": [
            {"sku": "disc-005", "quantity": 1, "amount_cents": 1485},
            {"sku": "disc-008", "quantity": 2, "amount_cents": 2772},
        ],
    }
    posted = house.post("payments", **purchase)
    (message,) = house.claim("payments", worker="payments-1")
    house.settle("ack", message, forward_to="picking")
    (message,) = house.claim("picking", worker="picking-1")
    house.settle("nack", message, error=demo.TROUBLE["picking"][0])
    (message,) = house.claim("picking", worker="picking-3", wait_seconds=5)
    house.settle("ack", message, forward_to="shipping")
    return {"order": posted["id"], "ticket": posted["tracking"]["ticket"]}


def lost(house: House) -> dict[str, str]:
    """A dead letter."""
    failed = good(house.client().get("/queues/payments/messages?status=failed&limit=1"))
    return {"failed": failed["items"][0]["id"]}


def acts(house: House) -> None:
    """What admins did, and what the shop's own customer has in his cart."""
    admin = house.client()
    good(admin.post("/queues/returns/pause"))
    changed = {"max_attempts": 5, "backoff_seconds": 30}
    good(admin.patch("/queues/wholesale", json=changed))
    delivered = {"quantity": 30, "reason": "delivery 88"}
    good(admin.post("/products/disc-002/stock/receive", json=delivered))
    count = good(admin.get("/products/disc-002/stock"))["on_hand"]
    counted = {"on_hand": count - 1, "expected_on_hand": count, "reason": "one was broken"}
    good(admin.post("/products/disc-002/stock/adjust", json=counted))
    for name, roles in (("marina", ["viewer"]), ("caixa-1", ["producer"]), ("rui", ["admin"])):
        made = {"username": name, "password": "a-password-for-pictures", "roles": roles}
        good(admin.post("/accounts", json=made), 201)
    buy(house, "disc-002", 1)
    buy(house, "disc-010", 2)
    for sku, quantity in (("disc-001", 1), ("disc-007", 2), ("disc-012", 1)):
        good(house.client("customer").put(f"/cart/items/{sku}", json={"quantity": quantity}))


def yesterday(house: House) -> None:
    """A day of rates before this one, as a busy shop would have left them."""
    file = house.servers[0].folder / "data" / "filaviva.db"
    now = int(time.time())
    with sqlite3.connect(file, timeout=30) as database:
        ids = dict(database.execute("SELECT name, id FROM queues"))
        for place, queue in enumerate(demo.QUEUES):
            for span, back in ((60, 1_440), (1_800, 330)):
                last = now - now % span - span
                at = [last - n * span for n in range(back)]
                rows = [(ids[queue], span, one * 1_000, *busy(one, span, place)) for one in at]
                database.executemany(
                    "INSERT OR IGNORE INTO queue_rates (queue_id, span, at, entered, claimed, done,"
                    " failed, returned) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                    rows,
                )


def busy(at: int, span: int, place: int) -> tuple[int, int, int, int, int]:
    """Entered, claimed, done, failed and put back: more in the evening, with a ripple."""
    hour = at / 3_600 % 24
    day = 1.2 + math.sin((hour - 11) / 24 * math.tau)
    ripple = 1 + 0.3 * math.sin(at / 410 + place) + 0.2 * math.sin(at / 97 + 2 * place)
    n = max(0, round(span * 2.2 * day * ripple))
    late = max(0, round(n * (1 + 0.08 * math.sin(at / 700))))
    wrong = int(math.sin(at / 1_130 + place) > 0.98)
    return n, late, late - wrong, wrong, late // 25


# --- the pictures -----------------------------------------------------------------------


class Picture(NamedTuple):
    name: str
    path: str
    role: str | None
    languages: Sequence[str] = ("en",)
    phone: bool = False


BOTH = ("en", "pt-BR")
PICTURES = [
    Picture("login", "/login", None),
    Picture("track", "/track/{order}?ticket={ticket}", None, BOTH, phone=True),
    Picture("shop", "/shop", "customer", BOTH, phone=True),
    Picture("cart", "/cart", "customer"),
    Picture("queues", "/admin", "admin", BOTH, phone=True),
    Picture("queue", "/admin/queues/payments", "admin"),
    Picture("messages", "/admin/messages", "admin"),
    Picture("message", "/admin/messages/{failed}", "admin"),
    Picture("failures", "/admin/failures?queue=payments", "admin"),
    Picture("stock", "/admin/stock", "admin"),
    Picture("product", "/admin/stock/disc-002", "admin"),
    Picture("streams", "/admin/streams", "admin"),
    Picture("audit", "/admin/audit", "admin"),
    Picture("accounts", "/admin/accounts", "admin"),
    Picture("post", "/admin/post", "admin"),
]


class Shot(NamedTuple):
    """One file."""

    picture: Picture
    language: str
    theme: str
    phone: bool

    @property
    def file(self) -> str:
        language = "" if self.language == "en" else "-pt"
        phone = "-phone" if self.phone else ""
        return f"{self.picture.name}-{self.theme}{language}{phone}.webp"


def shots() -> Iterator[Shot]:
    for picture in PICTURES:
        for language in picture.languages:
            for theme in ("light", "dark") if language == "en" else ("light",):
                yield Shot(picture, language, theme, phone=False)
        if picture.phone:
            yield Shot(picture, "en", "dark", phone=True)


@contextmanager
def opened(browser: Browser, house: House, shot: Shot, path: str) -> Iterator[Page]:
    width, height = (PHONE, LONG) if shot.phone else (WIDE, TALL)
    context = browser.new_context(
        locale=shot.language,
        color_scheme="dark" if shot.theme == "dark" else "light",
        viewport={"width": width, "height": height},
        timezone_id="America/Sao_Paulo",
        reduced_motion="reduce",
    )
    if shot.picture.role is not None:
        name, _, value = cookie_of(house, shot.picture.role).partition("=")
        context.add_cookies([{"name": name, "value": value, "url": house.url}])
    page = context.new_page()
    page.goto(house.url + path)
    page.wait_for_function(READY)
    yield page
    context.close()


def take(page: Page, shot: Shot) -> int:
    """Write it; its bytes."""
    page.evaluate("document.fonts.ready")
    page.wait_for_timeout(600)  # charts are drawn by and by
    session = page.context.new_cdp_session(page)
    given = {"format": "webp", "quality": QUALITY}
    data = base64.b64decode(session.send("Page.captureScreenshot", given)["data"])
    (FOLDER / shot.file).write_bytes(data)
    return len(data)


def main(wanted: Sequence[str]) -> None:
    FOLDER.mkdir(exist_ok=True)
    with ExitStack() as stack:
        house = stack.enter_context(at_home(SHOP="true"))
        browser = stack.enter_context(chromium())
        names = shop(house)
        watchers: dict[str, Shot] = {}
        for shot in shots():
            if shot.picture.name in ("track", "shop") and shot.picture.name not in watchers:
                watchers[shot.picture.name] = shot  # somebody looks on while pictures are taken
                path = shot.picture.path.format(**names)
                stack.enter_context(opened(browser, house, shot, path))
        for shot in shots():
            if wanted and not any(part in shot.file for part in wanted):
                continue
            with opened(browser, house, shot, shot.picture.path.format(**names)) as page:
                print(f"{shot.file}: {take(page, shot) / 1024:.0f} KB", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
