"""The line to the database cut around a COMMIT: 40 of each verb, half of them committed."""

import httpx

from tests import chaos
from tests.soak import Report


def main(args: list[str]) -> Report:
    """`cut [CUTS OF EACH VERB] [--seed N]`"""
    rounds, draw = chaos.arguments(args, 40)
    plan = [(verb, n % 2 == 0) for verb in chaos.CUTS for n in range(rounds)]
    draw.shuffle(plan)
    found: list[str] = []
    with chaos.own_pair() as pair:
        for verb, committed in plan:
            try:
                chaos.cut(pair, verb, committed=committed)
            except (AssertionError, OSError, LookupError, httpx.HTTPError) as error:
                found.append(
                    f"{verb}, {'committed' if committed else 'lost'}: {chaos.reason(error)}"
                )
        found += pair.ledger.faults()
    print("\n".join(found), flush=True)
    return Report(len(plan), len(plan) - len(found), "; ".join(found[:3]) or "ok")
