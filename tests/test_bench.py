"""What the benchmarks compare is comparable."""

import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from bench import load, report, stand


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[httpx.Client, str, str]]:
    """A client with the service's address and its twin's route."""
    with stand.Service(SECRET_KEY="k" * 32) as service:
        token = service.account("shop", "producer")
        ours = f"{service.url}{stand.API}/queues/{stand.QUEUE}/messages"
        answer = service.call(f"/queues/{stand.QUEUE}/messages", stand.PURCHASE, token)
        with stand.Twin(answer.content, SECRET_KEY="k" * 32) as twin:
            twin.account("shop", "producer")
            twin.account("worker", "worker")
            headers = {"Authorization": f"Bearer {twin.token('shop')}"}
            with httpx.Client(headers=headers) as client:
                yield client, ours, f"{twin.url}{stand.API}/twin"


def test_the_twin_answers_as_the_service_does(pair: tuple[httpx.Client, str, str]) -> None:
    """The same status, headers and number of bytes: else the ratio would compare two things."""
    client, ours, its = pair
    real, twin = (client.post(url, json=stand.PURCHASE) for url in (ours, its))
    assert twin.status_code == real.status_code == 201
    assert list(twin.headers) == list(real.headers)
    assert len(twin.content) == len(real.content)
    assert re.sub(r"\d+", "9", twin.headers["ratelimit-policy"]) == '"write";q=9;w=9'


@pytest.mark.parametrize("body", [{}, {"customer": "c-7", "items": []}, {**stand.PURCHASE, "x": 1}])
def test_the_twin_checks_the_body_too(pair: tuple[httpx.Client, str, str], body: object) -> None:
    """What the service refuses, the twin refuses with the same problem."""
    client, ours, its = pair
    real, twin = (client.post(url, json=body).json() for url in (ours, its))
    assert twin | {"instance": ""} == real | {"instance": ""}
    assert twin["status"] == 422


def test_the_twin_checks_the_caller_too(pair: tuple[httpx.Client, str, str]) -> None:
    """Without a credential the twin is as closed as the service."""
    _, ours, its = pair
    assert [httpx.post(url, json=stand.PURCHASE).status_code for url in (ours, its)] == [401, 401]


def test_without_wrk_it_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever has no wrk learns how to get it."""
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(load.NoWrk, match=re.escape("apt-get install wrk")):
        load.wrk_path()


def test_a_section_takes_the_place_of_its_predecessor(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Measuring again replaces one section of docs/measured.md and leaves the others alone."""
    file = tmp_path / "measured.md"
    monkeypatch.setattr(report, "MEASURED", file)
    for title, text in [("One", "old"), ("Two", "kept"), ("One", "new")]:
        report.publish(title, text, write=True)
    assert file.read_text() == f"{report.HEAD}\n## One\n\nnew\n\n## Two\n\nkept\n"
