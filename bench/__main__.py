"""Benchmarks of the real service on this machine. bench/README.md says what they mean."""

from typing import Annotated

import typer

from bench import cycle as cycles
from bench import ingest as posts
from bench import load, profile, stand
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
