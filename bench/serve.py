"""Serve an app of these benchmarks exactly as `cli.py serve` serves the service.

usage: python -m bench.serve APP [PROFILE]: with PROFILE the time of each function goes there.
"""

import cProfile
import signal
import sys

import uvicorn

import cli
import config
import logs
import outlets


def serve(app: str) -> None:
    current = config.settings()
    logs.start(current.log_level, current.log_format, current.log_file)
    options = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        http=outlets.Protocol,
        timeout_graceful_shutdown=cli.GRACE_SECONDS,
    )
    options.load()  # before the signal handlers are set, as in `cli.Server`
    uvicorn.Server(options).run(sockets=[cli.listening(current.host, current.port)])


def main(app: str, profile: str | None = None) -> None:
    if profile is None:
        serve(app)
        return
    # uvicorn raises the signal that ended it once more; the profile is to be written then.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    watch = cProfile.Profile()
    try:
        watch.runcall(serve, app)
    finally:
        watch.dump_stats(profile)


if __name__ == "__main__":
    main(*sys.argv[1:])
