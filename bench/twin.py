"""The twin of `POST /queues/{name}/messages`: all of it but the storing.

The same service with one more route: the same layers, the same check of the credential and
the role, the same rate limit and bucket, the same model of the body and an answer of the same
headers and size. It has no writer and no database in it, so the ratio of the two is what the
queue itself costs. BENCH_ANSWER names a file with a real answer, whose bytes it gives.
"""

import os
from pathlib import Path
from typing import Annotated

from fastapi import Depends, Request, Response

import main
import schemas

ANSWER = Path(os.environ["BENCH_ANSWER"]).read_bytes()
HEADERS = {"Location": f"{main.API}/messages/01a1ff43-dd00-7b3e-8f21-4c5d6e7f8091", "ETag": '"1"'}
Purchase = Annotated[schemas.Purchase, Depends(main.Json(schemas.Purchase))]


@main.message_route("POST", "/twin", main.PRODUCERS, status=201, limit="write")
async def twin(request: Request, purchase: Purchase, key: main.Key, who: main.Caller) -> Response:
    """Post a purchase that goes nowhere."""
    main.one_key(key, purchase.idempotency_key)
    return Response(ANSWER, 201, dict(HEADERS), "application/json")


app = main.app
