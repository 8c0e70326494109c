"""Benchmarks of the real service on this machine. bench/README.md says what they mean."""

from typing import Annotated

import typer

from bench import cycle as cycles
from bench import flashsale as sales
from bench import hot as hots
from bench import ingest as posts
from bench import load, profile, stand
from bench import position as positions
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
    except (load.NoWrk, load.Refused, Missing) as error:
        raise SystemExit(f"bench: {error}") from None
