"""For context: what the framework alone costs, without anything of ours around it."""

from typing import Any

from fastapi import FastAPI, Response

app = FastAPI(openapi_url=None)


@app.post("/json")
async def parsed(body: dict[str, Any]) -> dict[str, int]:
    """The body as JSON, and a small answer."""
    return {"fields": len(body)}


@app.post("/empty")
async def empty() -> Response:
    """Nothing in, nothing out."""
    return Response(status_code=204)
