"""Databases with our schema, for tests that need no server."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest
from tortoise.backends.base.executor import EXECUTOR_CACHE

import config
import database
from database import Database


def open_at(url: str) -> Database:
    return Database(config.tortoise_orm(config.load({"FILAVIVA_DATABASE_URL": url})))


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Database]:
    """A database with our schema; nobody else works on it."""
    EXECUTOR_CACHE.clear()  # a process has one dialect for good; this one tests two
    db = open_at(url)
    with pytest.MonkeyPatch.context() as patch:
        for bound in ("ACQUIRE_SECONDS", "READ_SECONDS", "WRITE_SECONDS"):
            patch.setattr(database, bound, 60.0)  # a slow machine is not what is tested
        await db.open()
        try:
            await db.migrate()
            yield db
        finally:
            await db.close()
            EXECUTOR_CACHE.clear()


async def somebody_waits(holder: asyncpg.Connection) -> None:
    """Until a statement waits for what a transaction of this connection holds."""
    async with asyncio.timeout(30):
        while not await holder.fetch("SELECT FROM pg_locks WHERE NOT granted"):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
