"""A database server that falls silent hangs nobody."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from services.common import mysql
from services.common.migrations import migrate
from services.common.mysql import Database, DatabaseUnavailable, LockedSession, open_database


@pytest.fixture
def url(mysql_url_factory: Callable[[str], str]) -> str:
    return mysql_url_factory("silent")


class SilentProxy:
    """Stands before the server and carries everything to and fro, until it is told to fall silent."""

    def __init__(self, url: str) -> None:
        self._target = urlsplit(url)
        self.silent = asyncio.Event()
        self._pumps: list[asyncio.Task[None]] = []

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        user, _, _ = self._target.netloc.rpartition("@")
        port = server.sockets[0].getsockname()[1]
        yield self._target._replace(netloc=f"{user}@127.0.0.1:{port}").geturl()
        server.close()
        for pump in self._pumps:
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        near, far = await asyncio.open_connection(self._target.hostname, self._target.port)
        self._pumps += [asyncio.create_task(self._carry(*ends)) for ends in ((reader, far), (near, writer))]

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with closing(writer):
            while data := await reader.read(65536):
                if self.silent.is_set():
                    await asyncio.Event().wait()
                writer.write(data)


async def _fall_silent_and_then(proxy: SilentProxy, database: Database | LockedSession, statement: str | None) -> None:
    async with database.transaction() as tx:
        await tx.fetch_one("SELECT 1")
        proxy.silent.set()
        if statement is None:
            raise ZeroDivisionError
        if statement != "COMMIT":
            await tx.fetch_one(statement)


@pytest.mark.parametrize(
    ("statement", "told"),
    [("SELECT 2", DatabaseUnavailable), ("COMMIT", DatabaseUnavailable), (None, ZeroDivisionError)],
)
@pytest.mark.parametrize("locked", [True, False])
async def test_a_silent_server_is_told_in_time_and_its_connection_given_up(
    url: str, monkeypatch: pytest.MonkeyPatch, statement: str | None, told: type[Exception], locked: bool
) -> None:
    monkeypatch.setattr(mysql, "STATEMENT_SECONDS", 0.3)
    proxy = SilentProxy(url)
    async with asyncio.timeout(5), proxy.listening() as through, open_database(through) as database:
        async with database.locked("job", 0) as session:
            assert session is not None
            with pytest.raises(told):
                await _fall_silent_and_then(proxy, session if locked else database, statement)
        proxy.silent.clear()
        await database.ping()


async def test_waiting_for_a_lock_and_migrating_may_take_longer(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mysql, "STATEMENT_SECONDS", 0.3)
    (tmp_path / "0001_slow.sql").write_text("SELECT SLEEP(0.6);")
    async with open_database(url) as database, database.locked("job", 0), database.locked("job", 1) as second:
        assert second is None
        await migrate(database, tmp_path)
