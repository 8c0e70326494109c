"""Fan-out as sse-starlette's own examples do it: a queue and a generator for each subscriber."""

import asyncio
from collections.abc import AsyncIterator

from fastapi import FastAPI, Request, Response
from sse_starlette import EventSourceResponse, ServerSentEvent

app = FastAPI()
queues: dict[str, set[asyncio.Queue[ServerSentEvent]]] = {}
count = 0


@app.get("/events")
async def events(topic: str) -> EventSourceResponse:
    queue = asyncio.Queue[ServerSentEvent]()
    queues.setdefault(topic, set()).add(queue)
    return EventSourceResponse(told(topic, queue), sep="\n")


async def told(topic: str, queue: asyncio.Queue[ServerSentEvent]) -> AsyncIterator[ServerSentEvent]:
    try:
        while True:
            yield await queue.get()
    finally:
        queues[topic].discard(queue)


@app.post("/publish")
async def publish(topic: str, request: Request) -> Response:
    """The body becomes the event's data."""
    global count
    count += 1
    event = ServerSentEvent((await request.body()).decode(), event="order.created", id=str(count))
    for queue in queues.get(topic, ()):
        queue.put_nowait(event)
    return Response(status_code=202)
