"""What aiohttp-sse-client2 reads, one line of JSON an event.

usage: python read_aiohttp_sse_client2.py URL TOKEN
"""

import asyncio
import json
import sys

from aiohttp import ClientError, ClientTimeout
from aiohttp_sse_client2.client import EventSource

# Else aiohttp ends every stream after five minutes.
PATIENCE = ClientTimeout(total=None, sock_connect=10, sock_read=40)


async def follow(url: str, token: str) -> None:
    headers = {"Authorization": f"Bearer {token}"}
    while True:
        wait = 1.0
        try:
            async with EventSource(url, headers=headers, timeout=PATIENCE) as source:
                async for event in source:
                    told = {"event": event.type, "id": event.last_event_id, "data": event.data}
                    print(json.dumps(told), flush=True)
                    headers["Last-Event-ID"] = event.last_event_id
                    if event.type == "goodbye":
                        wait = json.loads(event.data)["reconnect_ms"] / 1000
                        break  # it would wait for twice that, and try once
        except (ClientError, TimeoutError):
            pass  # it does not come back from a broken line
        await asyncio.sleep(wait)


asyncio.run(follow(*sys.argv[1:]))
