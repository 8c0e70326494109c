"""Whether the service of this container is ready: exit 0, else 1 with why in one line."""

import os
import sys
import urllib.error
import urllib.request

SECONDS = 3


def main() -> int:
    port = os.environ.get("FILAVIVA_PORT") or "8000"
    # No proxy: HTTP_PROXY is meant for what leaves the machine.
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(f"http://127.0.0.1:{port}/readyz", timeout=SECONDS) as answer:
            sys.stdout.write(answer.read().decode())
            return 0
    except urllib.error.HTTPError as error:
        with error:
            sys.stderr.write(error.read().decode())
    except OSError as error:
        sys.stderr.write(str(error))
    return 1


if __name__ == "__main__":
    sys.exit(main())
