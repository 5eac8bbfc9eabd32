"""How MySQL is used: what a transaction sees, what conflicts become, how migrations are applied."""

import asyncio
import subprocess
import sys
import traceback
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from urllib.parse import urlsplit

import pymysql
import pytest

from services.common import errors, mysql
from services.common.eventlog.consumer import is_outage
from services.common.migrations import MigrationRefused, migrate
from services.common.mysql import (
    Database,
    DatabaseUnavailable,
    DuplicateKey,
    LockedSession,
    Transaction,
    TransactionConflict,
    open_database,
)

ROOT = Path(__file__).parents[2]
TABLE = "CREATE TABLE seats (id INT PRIMARY KEY, owner VARCHAR(20) NULL)"


@pytest.fixture
def url(mysql_url_factory: Callable[[str], str]) -> str:
    return mysql_url_factory("common")


@pytest.fixture
async def database(url: str) -> AsyncIterator[Database]:
    async with open_database(url) as opened:
        async with opened.transaction() as tx:
            await tx.execute(TABLE)
            await tx.execute_many("INSERT INTO seats (id) VALUES (%s)", [(1,), (2,)])
        yield opened


async def _owner(database: Database, seat: int) -> object:
    async with database.transaction() as tx:
        return await tx.fetch_one("SELECT owner FROM seats WHERE id = %s", (seat,))


async def test_a_session_is_set_up_the_same_on_every_connection(database: Database) -> None:
    async with database.transaction() as first, database.transaction() as second:
        for tx in (first, second):
            assert await tx.fetch_one("SELECT @@time_zone, @@autocommit") == ("+00:00", 0)
            [(_, mode)] = await tx.fetch_all("SHOW VARIABLES LIKE 'sql_mode'")
            assert "STRICT_TRANS_TABLES" in mode
            level = await tx.fetch_all(
                "SHOW VARIABLES WHERE Variable_name IN ('tx_isolation', 'transaction_isolation')"
            )
            assert {value for _, value in level} == {"READ-COMMITTED"}
            assert await tx.fetch_one("SELECT '좌석 🎫'") == ("좌석 🎫",)


async def test_a_transaction_commits_or_leaves_nothing(database: Database) -> None:
    async with database.transaction() as tx:
        assert await tx.execute("UPDATE seats SET owner = %s WHERE id = 1", ("kim",)) == 1
    with suppress(ZeroDivisionError):
        async with database.transaction() as tx:
            await tx.execute("UPDATE seats SET owner = 'lee'")
            raise ZeroDivisionError
    assert await _owner(database, 1) == ("kim",)
    assert await _owner(database, 2) == (None,)


async def test_a_cancelled_transaction_leaves_nothing(database: Database) -> None:
    sleeping = asyncio.Event()

    async def hang() -> None:
        async with database.transaction() as tx:
            await tx.execute("UPDATE seats SET owner = 'lee'")
            asyncio.get_running_loop().call_soon(sleeping.set)  # when the next statement has been sent
            await tx.fetch_one("SELECT SLEEP(1)")

    task = asyncio.create_task(hang())
    await sleeping.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    async with asyncio.timeout(5), database.transaction() as tx:
        assert await tx.execute("UPDATE seats SET owner = 'kim' WHERE owner IS NULL") == 2


async def _seen_after_another_commit(database: Database, isolation: str) -> object:
    async with database.transaction() as tx:
        await tx.execute(f"SET SESSION TRANSACTION ISOLATION LEVEL {isolation}")
        await tx.execute("COMMIT")
        await tx.fetch_one("SELECT owner FROM seats WHERE id = 2")
        async with database.transaction() as other:
            await other.execute("UPDATE seats SET owner = 'lee' WHERE id = 1")
        seen = await tx.fetch_one("SELECT owner FROM seats WHERE id = 1")
        await tx.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
        return seen


async def test_a_decision_is_made_on_what_is_committed(database: Database) -> None:
    assert await _seen_after_another_commit(database, "READ COMMITTED") == ("lee",)


async def test_control_the_servers_default_would_decide_on_the_past(database: Database) -> None:
    assert await _seen_after_another_commit(database, "REPEATABLE READ") == (None,)


async def test_conflicts_are_repeated_until_both_are_done(database: Database) -> None:
    met, attempts = asyncio.Barrier(2), 0

    async def swap(first: int, second: int) -> None:
        async def work(tx: Transaction) -> None:
            nonlocal attempts
            attempts += 1
            await tx.execute("UPDATE seats SET owner = %s WHERE id = %s", (f"by-{first}", first))
            if attempts <= 2:
                await met.wait()
            await tx.execute("UPDATE seats SET owner = %s WHERE id = %s", (f"by-{first}", second))

        await database.retrying(work)

    await asyncio.gather(swap(1, 2), swap(2, 1))
    assert attempts == 3
    assert await _owner(database, 1) == await _owner(database, 2)


async def test_control_without_repeating_one_of_them_fails(database: Database) -> None:
    met = asyncio.Barrier(2)

    async def swap(first: int, second: int) -> None:
        async with database.transaction() as tx:
            await tx.execute("UPDATE seats SET owner = %s WHERE id = %s", (f"by-{first}", first))
            await met.wait()
            await tx.execute("UPDATE seats SET owner = %s WHERE id = %s", (f"by-{first}", second))

    results = await asyncio.gather(swap(1, 2), swap(2, 1), return_exceptions=True)
    assert sorted(type(result).__name__ for result in results) == ["NoneType", "TransactionConflict"]


async def test_repeating_has_an_end(database: Database) -> None:
    attempts = 0

    async def work(_tx: Transaction) -> None:
        nonlocal attempts
        attempts += 1
        raise TransactionConflict

    with pytest.raises(TransactionConflict):
        await database.retrying(work)
    assert attempts == mysql.MAX_ATTEMPTS


async def test_many_rows_are_one_statement(database: Database) -> None:
    async with database.transaction() as tx:
        before = await tx.fetch_one("SHOW SESSION STATUS LIKE 'Com_insert'")
        count = await tx.execute_many(
            "INSERT INTO seats (id, owner) VALUES (%s, %s) ON DUPLICATE KEY UPDATE owner = owner",
            [(number, f"it's {number}") for number in range(10, 510)],
        )
        assert count == 500
        after = await tx.fetch_one("SHOW SESSION STATUS LIKE 'Com_insert'")
        assert before
        assert after
        assert int(after[1]) - int(before[1]) == 1
        assert await tx.execute_many("INSERT INTO seats (id) VALUES (%s)", []) == 0
        with pytest.raises(ValueError, match="many rows"):
            await tx.execute_many("UPDATE seats SET owner = %s WHERE id = %s", [("a", 1), ("b", 2)])


async def test_ids_of_inserted_rows_are_known(database: Database) -> None:
    async with database.transaction() as tx:
        await tx.execute("CREATE TABLE numbered (id INT AUTO_INCREMENT PRIMARY KEY, data VARBINARY(10))")
        await tx.execute("INSERT INTO numbered (data) VALUES (%s)", (b"\x00\xff'%s",))
        assert tx.last_id == 1
        await tx.execute_many("INSERT INTO numbered (data) VALUES (%s)", [(b"a",), (b"b",)])
        assert tx.last_id == 2
        assert await tx.fetch_all("SELECT data FROM numbered ORDER BY id") == [(b"\x00\xff'%s",), (b"a",), (b"b",)]


async def test_a_repeated_key_is_told_and_a_mistake_stays_a_mistake(database: Database) -> None:
    with pytest.raises(DuplicateKey):
        async with database.transaction() as tx:
            await tx.execute("INSERT INTO seats (id) VALUES (1)")
    with pytest.raises(pymysql.err.ProgrammingError):
        async with database.transaction() as tx:
            await tx.execute("SELEKT 1")
    with pytest.raises(pymysql.err.DataError):
        async with database.transaction() as tx:
            await tx.execute("INSERT INTO seats VALUES (9, REPEAT('x', 21))")


@pytest.mark.parametrize("mistake", ["SELECT nosuch FROM seats", "SELECT nosuch(1)", "INSERT INTO seats VALUES (1)"])
async def test_a_mistake_that_the_driver_calls_operational_is_no_outage(database: Database, mistake: str) -> None:
    with pytest.raises(pymysql.err.MySQLError) as told:
        async with database.transaction() as tx:
            await tx.execute(mistake)
    assert not is_outage(told.value)
    assert errors.describe(told.value).reason == "INTERNAL"


async def test_a_server_that_takes_no_writes_for_now_is_an_outage(database: Database) -> None:
    async with database.transaction() as tx:
        with pytest.raises(DatabaseUnavailable):
            # As a server does that is read-only, or a replica: there is one server, and other tests write to it.
            await tx.execute("SIGNAL SQLSTATE 'HY000' SET MYSQL_ERRNO = 1290, MESSAGE_TEXT = 'read-only'")


async def test_warnings_of_the_server_go_to_the_log(database: Database, caplog: pytest.LogCaptureFixture) -> None:
    async with database.transaction() as tx:
        await tx.execute(TABLE.replace("CREATE TABLE", "CREATE TABLE IF NOT EXISTS"))
        assert not caplog.records
        await tx.fetch_one("SELECT CAST('12x' AS SIGNED)")
    assert [record.message for record in caplog.records] == ["database warning"]


async def _update_on_a_killed_connection(database: Database) -> None:
    async with database.transaction() as tx:
        [(number,)] = await tx.fetch_all("SELECT CONNECTION_ID()")
        async with database.transaction() as other:
            await other.execute(f"KILL {number}")
        await tx.execute("UPDATE seats SET owner = 'lee'")


async def test_a_broken_connection_is_told_and_replaced(database: Database) -> None:
    with pytest.raises(DatabaseUnavailable) as told:
        await _update_on_a_killed_connection(database)
    assert told.value.reason == "UNAVAILABLE"
    assert await _owner(database, 1) == (None,)
    await database.ping()


async def test_an_exhausted_pool_is_told_in_time(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mysql, "ACQUIRE_SECONDS", 0.2)
    async with open_database(url, pool_size=1) as database, database.transaction():
        with pytest.raises(DatabaseUnavailable):
            await database.ping()


async def test_nobody_listening_is_told() -> None:
    async with open_database("mysql://root:secret@127.0.0.1:1/nothing") as database:
        with pytest.raises(DatabaseUnavailable) as told:
            await database.ping()
    assert "secret" not in str(told.value)


@pytest.mark.parametrize(
    "wrong",
    ["postgres://a:b@c/d", "mysql://a:b@c", "mysql:///d", "mysql://a:hun/ter2@c:3306/d", "mysql://a:b@c:99999/d"],
)
def test_a_wrong_url_is_refused_without_being_told(wrong: str) -> None:
    with pytest.raises(ValueError, match="database URL") as told:
        open_database(wrong)
    assert "hun" not in "".join(traceback.format_exception(told.value, limit=0))


# --- a server that falls silent --------------------------------------------------------------------------------------


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


# --- advisory locks --------------------------------------------------------------------------------------------------


async def test_a_lock_has_one_holder_and_ends_with_its_connection(database: Database) -> None:
    async with (
        database.locked("job", 0) as first,
        database.locked("job", 0) as second,
        database.locked("other", 0) as third,
    ):
        assert first is not None
        assert second is None
        assert third is not None
        waiting = asyncio.create_task(_lock_once(database))
        async with first.transaction() as tx:
            [(number,)] = await tx.fetch_all("SELECT CONNECTION_ID()")
        async with database.transaction() as tx:
            await tx.execute(f"KILL {number}")
        assert await waiting
        with pytest.raises(DatabaseUnavailable):
            async with first.transaction() as tx:
                await tx.fetch_one("SELECT 1")


async def _lock_once(database: Database) -> bool:
    async with database.locked("job", 10) as session:
        return session is not None


# --- migrations ------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "0001_first.sql").write_text("CREATE TABLE a (id INT PRIMARY KEY);\nINSERT INTO a VALUES (1);\n")
    (tmp_path / "0002_percent.sql").write_text("-- 100 % done; 'quoted'\nCREATE TABLE b (c VARCHAR(9) DEFAULT '%s');")
    return tmp_path


async def _applied(database: Database) -> list[str]:
    async with database.transaction() as tx:
        return [name for (name,) in await tx.fetch_all("SELECT name FROM schema_migrations ORDER BY number")]


async def test_migrations_are_applied_once_and_in_order(url: str, folder: Path) -> None:
    async with open_database(url) as database:
        await migrate(database, folder)
        (folder / "0010_later.sql").write_text("INSERT INTO a VALUES (2);")
        await migrate(database, folder)
        await migrate(database, folder)
        assert await _applied(database) == ["0001_first.sql", "0002_percent.sql", "0010_later.sql"]
        async with database.transaction() as tx:
            assert await tx.fetch_all("SELECT id FROM a ORDER BY id") == [(1,), (2,)]


@pytest.mark.parametrize(
    ("name", "sql"),
    [
        ("0001_first.sql", "CREATE TABLE a (id BIGINT PRIMARY KEY);"),
        ("0002_again.sql", "SELECT 1;"),
        ("first.sql", "SELECT 1;"),
    ],
)
async def test_a_changed_or_misnamed_migration_is_refused(url: str, folder: Path, name: str, sql: str) -> None:
    async with open_database(url) as database:
        await migrate(database, folder)
        (folder / name).write_text(sql)
        with pytest.raises(MigrationRefused):
            await migrate(database, folder)


async def test_a_migration_before_an_applied_one_is_refused(url: str, folder: Path) -> None:
    (folder / "0001_first.sql").rename(folder / "0003_first.sql")
    async with open_database(url) as database:
        await migrate(database, folder)
        (folder / "0001_first.sql").write_text("SELECT 1;")
        with pytest.raises(MigrationRefused):
            await migrate(database, folder)


async def test_an_older_release_starts_on_a_newer_schema(url: str, folder: Path) -> None:
    async with open_database(url) as database:
        await migrate(database, folder)
        (folder / "0002_percent.sql").unlink()
        await migrate(database, folder)


async def test_a_failed_migration_is_not_recorded(url: str, folder: Path) -> None:
    (folder / "0003_wrong.sql").write_text("INSERT INTO a VALUES (3); SELEKT 1;")
    async with open_database(url) as database:
        with pytest.raises(pymysql.err.ProgrammingError):
            await migrate(database, folder)
        assert await _applied(database) == ["0001_first.sql", "0002_percent.sql"]


PROGRAM = """
import asyncio, pathlib, sys
from services.common.migrations import migrate
from services.common.mysql import open_database

async def main():
    async with open_database(sys.argv[1]) as database:
        await migrate(database, pathlib.Path(sys.argv[2]))

asyncio.run(main())
"""


async def test_two_processes_that_start_together_apply_each_once(url: str, tmp_path: Path) -> None:
    (tmp_path / "0001_slow.sql").write_text("CREATE TABLE a (id INT); SELECT SLEEP(0.5); INSERT INTO a VALUES (1);")
    command = [sys.executable, "-W", "error", "-c", PROGRAM, url, str(tmp_path)]
    starts = [asyncio.to_thread(subprocess.run, command, cwd=ROOT, capture_output=True, check=False) for _ in range(2)]
    for outcome in await asyncio.gather(*starts):
        assert outcome.returncode == 0, outcome.stderr.decode()
    async with open_database(url) as database, database.transaction() as tx:
        assert await tx.fetch_all("SELECT id FROM a") == [(1,)]
