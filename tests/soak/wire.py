"""Redis stopped, killed, cut off in a burst: 50 each; seconds until events come, and at once."""

from itertools import cycle
from statistics import quantiles

from tests import chaos, wires
from tests.soak import Report
from tests.wires import LIES, MENDED, Watch, Wires, watched

KINDS = ("stopped", "killed", "cut")


def main(args: list[str]) -> Report:
    """`wire [LIES OF EACH KIND] [--seed N]`"""
    rounds, draw = chaos.arguments(args, 50)
    plan = [kind for kind in KINDS for _ in range(rounds)]
    draw.shuffle(plan)
    late: dict[str, list[float]] = {kind: [] for kind in KINDS}
    back: dict[str, list[float]] = {kind: [] for kind in KINDS}
    found: list[str] = []
    with wires.own_wires() as house:
        for kind in plan:
            try:
                watch, took = lied(house, kind, draw.triangular(0, 2, 0))
                late[kind] += watch.late
                back[kind].append(took)
                found += [f"{kind}: {fault}" for fault in faults(watch, took)]
            except (AssertionError, OSError) as error:
                found.append(f"{kind}: {chaos.reason(error)}")
    for kind in KINDS:
        print(f"{kind}: {told(late[kind])} from a post to both streams", flush=True)
        print(f"{kind}: {told(back[kind])} from its end until events come at once", flush=True)
    print("\n".join(found), flush=True)
    return Report(len(plan), len(plan) - len(found), "; ".join(found[:3]) or "ok")


def lied(house: Wires, kind: str, seconds: float) -> tuple[Watch, float]:
    """One lie, that lasts so long, while somebody posts; how long until all was as before."""
    house.live()
    with watched(house) as watch:
        end = LIES[kind](watch)
        try:
            for process in cycle((0, 1)):
                watch.told(process)
                if sum(watch.late) >= seconds:
                    break
        finally:
            end()
        return watch, watch.back()


def faults(watch: Watch, back: float) -> list[str]:
    slow = [f"{seconds:.1f} s" for seconds in (*watch.late, back) if seconds > MENDED]
    return [*slow, *([] if watch.whole() else ["a stream lacks something"])]


def told(seconds: list[float]) -> str:
    if len(seconds) < 2:
        return f"{len(seconds)} measured"
    p50, p99 = (quantiles(seconds, n=100, method="inclusive")[n] for n in (49, 98))
    return f"max {max(seconds):.2f} s, p99 {p99:.2f} s, median {p50:.3f} s of {len(seconds)}"
