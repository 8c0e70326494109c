"""For context: what the framework alone costs, without anything of ours around it."""

from typing import Any

from fastapi import FastAPI, Response
from starlette.types import Receive, Scope, Send

app = FastAPI(openapi_url=None)


@app.post("/json")
async def parsed(body: dict[str, Any]) -> dict[str, int]:
    """The body as JSON, and a small answer."""
    return {"fields": len(body)}


@app.post("/empty")
async def empty() -> Response:
    """Nothing in, nothing out."""
    return Response(status_code=204)


class Waiting(Response):
    """The head of a stream, and nothing until the client leaves."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        while (await receive())["type"] != "http.disconnect":
            pass


@app.get("/wait")
async def wait() -> Response:
    """A stream that never says anything."""
    return Waiting()
