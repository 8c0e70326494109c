"""The operator's door: start the service and look after it."""

import asyncio
import socket

import typer
import uvicorn

import config
import logs
from database import Database

cli = typer.Typer(
    add_completion=False, no_args_is_help=True, help="Filaviva, a purchase queue you can watch."
)

GRACE_SECONDS = 10
SEND_BUFFER = 64 * 1024


def settings() -> config.Settings:
    """The settings, or one line per fault and the end."""
    try:
        return config.settings()
    except config.BadSettings as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from None


@cli.command()
def serve() -> None:
    """Start the service with the settings of the environment."""
    current = settings()
    logs.start(current.log_level, current.log_format, current.log_file)
    server = uvicorn.Server(
        uvicorn.Config(
            "main:app",
            log_config=None,
            access_log=False,
            proxy_headers=False,  # TRUSTED_PROXIES decides
            server_header=False,
            timeout_graceful_shutdown=GRACE_SECONDS,
        )
    )
    server.run(sockets=[listening(current.host, current.port)])
    raise typer.Exit(0 if server.started else 1)


def listening(host: str, port: int) -> socket.socket:
    """A socket to serve on. What it accepts inherits a small send buffer.

    A client that never reads would else cost megabytes of the kernel's memory before we saw
    any backlog.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    door = socket.socket(family)
    door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    door.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
    door.bind((host, port))
    door.set_inheritable(True)
    return door


@cli.command()
def migrate() -> None:
    """Bring the schema of DATABASE_URL up to date. Several at once wait for each other."""
    current = settings()
    logs.start(current.log_level, current.log_format, current.log_file)
    done = asyncio.run(_migrate(current))
    typer.echo(f"applied {', '.join(done)}" if done else "the schema is up to date")


async def _migrate(current: config.Settings) -> list[str]:
    database = Database(config.tortoise_orm(current))
    await database.open()
    try:
        return await database.migrate()
    finally:
        await database.close()


if __name__ == "__main__":
    cli()
