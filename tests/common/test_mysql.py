"""How MySQL is used: what a transaction sees, what conflicts and mistakes become, who holds a lock."""

import asyncio
import traceback
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path

import pymysql
import pytest

from services.common import errors, mysql
from services.common.eventlog.consumer import is_outage
from services.common.mysql import (
    Database,
    DatabaseUnavailable,
    DuplicateKey,
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
