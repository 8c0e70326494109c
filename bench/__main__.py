"""Benchmarks of the real service on this machine. bench/README.md says what they mean."""

from typing import Annotated

import typer

from bench import cycle as cycles
from bench import fanout as fanouts
from bench import flashsale as sales
from bench import follow as follows
from bench import hot as hots
from bench import idle as idles
from bench import ingest as posts
from bench import load, profile, stand
from bench import pages as sights
from bench import position as positions
from bench import stuck as stucks
from tests.services import Missing

cli = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)

Kinds = Annotated[list[str], typer.Option("--on", help=f"Of {', '.join(stand.KINDS)}; may repeat.")]
Write = Annotated[bool, typer.Option(help="Put the result into docs/measured.md.")]


@cli.command()
def ingest(
    on: Kinds | None = None, rounds: int = 3, seconds: int = 3, write: Write = False
) -> None:
    """Posts, one by one and in hundreds, beside the twin that stores nothing."""
    posts.run(on or stand.KINDS, posts.Plan(rounds, seconds), write=write)


@cli.command()
def cycle(on: Kinds | None = None, seconds: int = 5, write: Write = False) -> None:
    """Whole lives in hundreds: post, claim, ack."""
    cycles.run(on or stand.KINDS, (1, 4, 16), seconds, write=write)


@cli.command()
def flashsale(
    on: Kinds | None = None,
    rate: Annotated[list[float] | None, typer.Option(help="A second; may repeat.")] = None,
    seconds: float = 60,
    write: Write = False,
) -> None:
    """Purchases of one disc that arrive by the clock: what p99 is, and who was refused."""
    sales.run(on or ("sqlite", "postgres+redis"), rate or (50, 500), seconds, write=write)


@cli.command()
def follow(
    on: Kinds | None = None,
    rate: Annotated[float, typer.Option(help="Purchases a second.")] = 500,
    streams: int = 1_000,
    seconds: float = 30,
    rounds: int = 5,
    write: Write = False,
) -> None:
    """Purchases by the clock, each told on a stream of its own: how long until it is."""
    amount = follows.Amount(rate, streams, seconds)
    follows.run(on or ("postgres+redis",), rounds, amount, write=write)


@cli.command()
def hot(on: Kinds | None = None, rounds: int = 5, seconds: int = 5, write: Write = False) -> None:
    """Purchases that all name one counted product, beside those of an uncounted one."""
    hots.run(on or ("postgres", "postgres+redis"), rounds, seconds, write=write)


@cli.command()
def position(
    on: Kinds | None = None,
    pending: int = 100_000,
    watchers: int = 5_000,
    seconds: float = 20,
    write: Write = False,
) -> None:
    """Thousands who follow their place in a long line that is worked on."""
    plan = positions.Plan(pending=pending, watchers=watchers, seconds=seconds)
    positions.run(on or ("sqlite", "postgres"), plan, write=write)


@cli.command()
def idle(
    way: Annotated[
        list[str] | None, typer.Option(help=f"Of {', '.join(idles.WAYS)}; may repeat.")
    ] = None,
    on: str = "sqlite",
    streams: int = 10_000,
    seconds: float = 60,
    rounds: int = 5,
    write: Write = False,
) -> None:
    """What streams cost on which nothing happens, beside a bare route that waits."""
    amount = idles.Amount(streams, seconds)
    idles.run(way or [*idles.WAYS], on, rounds, amount, write=write)


@cli.command()
def fanout(
    size: Annotated[
        list[str] | None, typer.Option(help=f"Of {', '.join(fanouts.SIZES)}; may repeat.")
    ] = None,
    rounds: int = 5,
    write: Write = False,
) -> None:
    """How many deliveries a second one core makes, beside nchan and a plain generator."""
    fanouts.run(size or [*fanouts.SIZES], rounds, write=write)


@cli.command()
def latency(rounds: int = 5, seconds: float = 20, write: Write = False) -> None:
    """How long an event takes to 1,000 subscribers, beside the same two."""
    fanouts.latency(rounds, seconds, write=write)


@cli.command()
def stuck(rounds: int = 5, seconds: float = 40, write: Write = False) -> None:
    """What readers notice of others that never read."""
    stucks.run(rounds, seconds, write=write)


@cli.command()
def pages(on: str = "sqlite", seconds: int = 3, rounds: int = 5, write: Write = False) -> None:
    """How fast each page is drawn, and what the first load of it weighs and takes."""
    sights.run(on, seconds, rounds, write=write)


@cli.command(name="profile")
def profiled(
    on: str = "postgres",
    connections: int = 64,
    seconds: int = 5,
    batches: bool = False,
    lines: int = 40,
) -> None:
    """Where the service's time goes while it is posted to."""
    profile.run(on, connections, seconds, batches=batches, lines=lines)


if __name__ == "__main__":
    try:
        cli()
    except (load.NoWrk, load.Refused, fanouts.Lost, Missing) as error:
        raise SystemExit(f"bench: {error}") from None
