"""The recipes of docs/streams.md, run as they stand there."""

import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import pytest
from playwright.sync_api import Page

from tests import node
from tests.answers import good
from tests.chromium import chromium
from tests.conftest import entered
from tests.house import API, CUSTOMER, House, running
from tests.live import head, ticket
from tests.services import ROOT, Process, until
from tests.sse import Block, Stream
from tests.test_nginx import CONF, nginx

pytestmark = pytest.mark.timeout(300)  # nearly all of it happens before the first test

# What programs take for the end of a line, and a stream does not.
REFERENCE = "a\u2028b\u0085c"
SECONDS = 90.0


def recipe(title: str) -> str:
    """The first block of code below a heading."""
    text = (ROOT / "docs" / "streams.md").read_text(encoding="utf-8")
    found = re.search(rf"^### {title}\n.*?^```\w+\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    assert found is not None, title
    return found[1]


class Follower(Protocol):
    def ids(self) -> list[str]: ...

    def over(self) -> bool: ...


class Program(Process):
    """A recipe as a process of its own, which prints a line for each event: type and data."""

    def __init__(self, folder: Path, command: Sequence[str]) -> None:
        super().__init__(folder)
        self._command = command
        self.launch()

    def command(self) -> Sequence[str]:
        return self._command

    def ids(self) -> list[str]:
        whole = self.log.rpartition("\n")[0]
        lines = [line for line in whole.split("\n") if line]
        assert all(line.startswith("order.created {") for line in lines), lines
        return [json.loads(line.partition(" ")[2])["data"]["id"] for line in lines]

    def over(self) -> bool:
        return not self.running


@dataclass
class InPage:
    """The recipe for a browser, in a page; `show` notes what it is given."""

    page: Page

    def ids(self) -> list[str]:
        return self.page.evaluate("shown")

    def over(self) -> bool:
        return bool(self.page.evaluate("source.readyState === EventSource.CLOSED"))


@dataclass(frozen=True)
class Start:
    """What a recipe is given: where and from which cursor on, by whose token or ticket."""

    url: str
    token: str
    ticket: str
    cursor: str
    folder: Path


def in_shell(start: Start) -> Program:
    (start.folder / "cursor").write_text(start.cursor)
    given = f"cd '{start.folder}'\nAPI={start.url}{API} TOKEN={start.token}\n"
    return Program(start.folder, ["bash", "-c", given + recipe("A shell")])


def in_python(start: Start) -> Program:
    given = (f"{start.url}{API}/events", start.token, "queue:orders", start.cursor)
    use = "    print(kind, json.dumps(data), flush=True)\n"
    program = f"{recipe('Python')}\nfor kind, data in follow(*{given!r}):\n{use}"
    return Program(start.folder, [sys.executable, "-c", program])


def in_node(start: Start) -> Program:
    (start.folder / "node_modules").symlink_to(node.packages())
    names = {"api": start.url + API, "token": start.token, "cursor": start.cursor}
    given = f"const {{ api, token, cursor }} = {json.dumps(names)};\n"
    given += "const handle = (event, data) => console.log(event, JSON.stringify(data));\n"
    script = start.folder / "recipe.mjs"
    script.write_text(given + recipe("Node"))
    return Program(start.folder, [str(node.program()), str(script)])


def in_page(page: Page, start: Start) -> InPage:
    page.route("**/recipe", lambda route: route.fulfill(body="", content_type="text/html"))
    page.goto(f"{start.url}/recipe")
    given = f"const shown = [], show = ({{ id }}) => shown.push(id), ticket = '{start.ticket}';\n"
    page.add_script_tag(content=given + recipe("A browser, by itself"))
    return InPage(page)


MAKERS: dict[str, Callable[[Start], Program]] = {
    "shell": in_shell,
    "python": in_python,
    "node": in_node,
}
FOLLOWERS = [*MAKERS, "browser"]


@dataclass
class Story:
    """What each recipe and two streams through nginx were told, and what was posted."""

    posted: list[str]
    told: dict[str, list[str]]
    ended: dict[str, bool]
    passed: Block
    farewell: Block


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """A service that is killed once, and then ends every credential."""
    with ExitStack() as stack:
        browser = entered(stack, chromium)
        house = stack.enter_context(running())
        secret = ticket(house, [f"customer:{CUSTOMER}"])
        start = Start(house.url, house.token("viewer"), secret, head(house), Path())
        page = stack.enter_context(browser.new_page())
        followers: dict[str, Follower] = {"browser": in_page(page, start)}
        for name, make in MAKERS.items():
            program = make(replace(start, folder=tmp_path_factory.mktemp(name)))
            stack.callback(program.kill)
            followers[name] = program
        yield tell(stack, house, followers, start)


def tell(stack: ExitStack, house: House, followers: dict[str, Follower], start: Start) -> Story:
    text = "events {} http { include upstream.conf; access_log off; server { include listen.conf; "
    port = house.servers[0].port
    front = entered(stack, lambda: nginx([port, port], {CONF: f"{text}{recipe('nginx')} }} }}"}))
    posted = [post(house) for _ in range(5)]
    with Stream(front.url, topic="stock", headers=bearer(start)) as stream:
        passed = stream.first("hello")
    house.servers[0].kill()
    with Stream(front.url, topic="stock", headers=bearer(start)) as stream:
        farewell = stream.end()
    house.servers[0].start()
    posted += [post(house) for _ in range(5)]
    patiently(lambda: all(posted[-1] in one.ids() for one in followers.values()))
    told = {name: one.ids() for name, one in followers.items()}
    end_credentials(house, start)
    patiently(lambda: all(one.over() for one in followers.values()))
    ended = {name: one.over() for name, one in followers.items()}
    return Story(posted, told, ended, passed, farewell)


def patiently(done: Callable[[], bool]) -> None:
    """Until it is so or time is up: which of them it was is for the tests to say."""
    with suppress(TimeoutError):
        until(done, SECONDS, "all of them")


def bearer(start: Start) -> dict[str, str]:
    return {"Authorization": f"Bearer {start.token}"}


def post(house: House) -> str:
    return house.post("orders", reference=REFERENCE)["id"]


def end_credentials(house: House, start: Start) -> None:
    revoked = house.client("producer").post("/events/tickets/revoke", json={"ticket": start.ticket})
    assert revoked.status_code == 204
    good(house.client().patch("/accounts/viewer", json={"revoke_tokens": True}))


@pytest.mark.parametrize("name", FOLLOWERS)
def test_a_recipe_misses_nothing_and_doubles_nothing(story: Story, name: str) -> None:
    """Over a kill of the service every event comes once and in order."""
    assert story.told[name] == story.posted


@pytest.mark.parametrize("name", FOLLOWERS)
def test_a_recipe_ends_with_its_credential(story: Story, name: str) -> None:
    """It does not ask for ever for what it may not have."""
    assert story.ended[name]


def test_the_recipe_for_nginx_passes_streams_on_and_says_goodbye(story: Story) -> None:
    """While the service is away an EventSource is told to come back, by a stream."""
    assert story.passed.event == "hello"
    assert story.farewell.json == {"reason": "overloaded", "reconnect_ms": story.farewell.retry}


def test_what_is_shown_as_code_is_tested() -> None:
    """Every recipe is one of these, and says in which language it is."""
    text = (ROOT / "docs" / "streams.md").read_text(encoding="utf-8")
    titles = re.findall(r"^### (.+)$", text.partition("\n## Recipes\n")[2], re.MULTILINE)
    tested = {"A browser, by itself", "A shell", "Python", "Node", "nginx"}
    assert tested <= {*titles}
    assert {title for title in titles if "```" in section(text, title)} == tested


def section(text: str, title: str) -> str:
    return re.split(r"^##", text.partition(f"\n### {title}\n")[2], maxsplit=1, flags=re.MULTILINE)[
        0
    ]
