"""What httpx-sse reads, one line of JSON an event.

usage: python read_httpx_sse.py URL TOKEN
"""

import json
import sys
import time

import httpx
from httpx_sse import connect_sse


def follow(url: str, token: str) -> None:
    headers = {"Authorization": f"Bearer {token}"}
    wait = 1.0
    with httpx.Client(timeout=httpx.Timeout(10, read=40), trust_env=False) as client:
        while True:
            try:
                with connect_sse(client, "GET", url, headers=headers) as source:
                    for event in source.iter_sse():
                        told = {"event": event.event, "id": event.id, "data": event.data}
                        print(json.dumps(told), flush=True)
                        headers["Last-Event-ID"] = event.id
                        wait = wait if event.retry is None else event.retry / 1000
            except httpx.TransportError:
                pass  # it does not come back by itself
            time.sleep(wait)


follow(*sys.argv[1:])
