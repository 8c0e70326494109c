"""Where the time goes: the service under cProfile while it is posted to."""

import json
import pstats
import tempfile
from contextlib import ExitStack

from bench import load, stand
from bench.ingest import BATCH
from bench.load import Target


def run(kind: str, connections: int, seconds: int, *, batches: bool, lines: int) -> None:
    """Print the functions that took most time themselves. Profiled, everything is slower."""
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="filaviva-"))
        kept = f"{folder}/profile"
        fresh = stack.enter_context(stand.databases(kind))
        with stand.Service(profile=kept, **fresh()) as service:
            token = service.account("shop", "producer")
            url = f"{service.url}{stand.API}/queues/{stand.QUEUE}/messages"
            one = Target("single", url, json.dumps(stand.PURCHASE).encode(), service.pid, token)
            many = json.dumps({"messages": [stand.PURCHASE] * BATCH}).encode()
            hundred = Target("batch", f"{url}/batch", many, service.pid, token, BATCH)
            print(load.press(hundred if batches else one, connections, seconds))
        stats = pstats.Stats(kept)
    stats.sort_stats("tottime").print_stats(lines)
