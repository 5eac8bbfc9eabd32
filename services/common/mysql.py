"""MySQL 8 and MariaDB 10.11, in their common subset.

**READ COMMITTED**, set explicitly on every connection. The servers' default, REPEATABLE READ, reads from a snapshot
taken at the first statement of the transaction: a plain SELECT made after waiting for a lock would still show the
seat as it was before the other buyer took it, and the decision would rest on the past. Under READ COMMITTED each
statement sees what is committed when it starts, and locks are taken on the rows found rather than on the gaps between
them, which removes most deadlocks between buyers of neighbouring seats. What must not change between reading and
writing is read with `SELECT … FOR UPDATE`, in sorted order.
"""

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit
from weakref import WeakSet

import aiomysql
from aiomysql.cursors import RE_INSERT_VALUES

from services.common import metrics
from services.common.mysql_errors import DatabaseUnavailable, DuplicateKey, TransactionConflict, mapped
from services.common.urls import check_mysql_url

__all__ = [
    "Database",
    "DatabaseUnavailable",
    "DuplicateKey",
    "LockedSession",
    "Transaction",
    "TransactionConflict",
    "open_database",
]

T = TypeVar("T")
Arguments = Sequence[Any] | Mapping[str, Any]
Row = tuple[Any, ...]

POOL_SIZE = 10
"""Per process: more would contend inside the server for the same hot rows."""
ACQUIRE_SECONDS = 5.0
CONNECT_SECONDS = 3.0
STATEMENT_SECONDS = 15.0
"""A server that says nothing for so long is away. Longer than any wait for a lock, which the server ends itself."""
MAX_ATTEMPTS = 5

_SQL_MODE = "'STRICT_TRANS_TABLES,NO_ZERO_IN_DATE,NO_ZERO_DATE,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION'"
_SESSION = (
    "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
    # The servers' default of 50 s would let a request hang on a lock for longer than anyone waits for it.
    "SET SESSION innodb_lock_wait_timeout = 5, time_zone = '+00:00'",
)
_log = logging.getLogger(__name__)


class _Cursor(aiomysql.Cursor):  # type: ignore[misc]  # the driver has no types
    """Logs the server's warnings. As Python warnings they would name no statement, and notes are not worth one."""

    async def _show_warnings(self, conn: Any) -> None:
        if self._result and self._result.has_next:
            return
        for level, code, message in await conn.show_warnings() or ():
            if level != "Note":
                _log.warning("database warning", extra={"fields": {"code": code, "text": message}})


class Transaction:
    """What can be done on one connection between begin and commit. Placeholders are `%s`."""

    def __init__(self, connection: Any, statement_seconds: float) -> None:
        self._connection = connection
        self._statement_seconds = statement_seconds
        self._last_id = 0

    @property
    def last_id(self) -> int:
        """The AUTO_INCREMENT id of the last INSERT; of several rows, that of the first."""
        return self._last_id

    async def execute(self, sql: str, args: Arguments | None = None) -> int:
        """Runs a statement; answers how many rows it matched or changed.

        Raises:
            DuplicateKey: a unique key exists already.
            TransactionConflict: deadlock or lock time-out; leave the transaction and repeat it.
            DatabaseUnavailable: the server does not answer.
        """
        async with self._cursor() as cursor:
            count: int = await cursor.execute(sql, args)
            self._last_id = cursor.lastrowid or self._last_id
            return count

    async def fetch_all(self, sql: str, args: Arguments | None = None) -> list[Row]:
        """Runs a SELECT; answers its rows. Raises as `execute`."""
        async with self._cursor() as cursor:
            await cursor.execute(sql, args)
            return list(await cursor.fetchall())

    async def fetch_one(self, sql: str, args: Arguments | None = None) -> Row | None:
        """The first row of a SELECT, or None. Raises as `execute`."""
        rows = await self.fetch_all(sql, args)
        return rows[0] if rows else None

    async def execute_many(self, sql: str, rows: Sequence[Arguments]) -> int:
        """Runs one multi-row `INSERT … VALUES (%s, …)` for all rows; answers how many were affected.

        Above 1 MB of text it becomes several statements. Raises as `execute`, and ValueError for a statement that the
        driver could only run once per row.
        """
        if not rows:
            return 0
        if not RE_INSERT_VALUES.match(sql):
            raise ValueError("not an INSERT … VALUES (%s, …) that can take many rows at once")
        async with self._cursor() as cursor:
            count: int = await cursor.executemany(sql, rows) or 0
            self._last_id = cursor.lastrowid or self._last_id
            return count

    async def execute_script(self, sql: str) -> None:
        """Runs statements separated by semicolons. For trusted text, such as a migration; it takes no arguments."""
        async with self._cursor() as cursor:
            await cursor.execute(sql)
            while await cursor.nextset():
                pass

    @asynccontextmanager
    async def _cursor(self) -> AsyncIterator[Any]:
        async with _in_time(self._connection, self._statement_seconds), self._connection.cursor() as cursor:
            yield cursor


class LockedSession:
    """A connection of its own that holds an advisory lock. If it breaks, the lock is gone and every call fails."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    @asynccontextmanager
    async def transaction(self, statement_seconds: float | None = None) -> AsyncIterator[Transaction]:
        """As `Database.transaction`, on the connection that holds the lock, with the patience that its work needs."""
        async with _transaction(self._connection, statement_seconds or STATEMENT_SECONDS) as tx:
            yield tx


@asynccontextmanager
async def _in_time(connection: Any, seconds: float) -> AsyncIterator[None]:
    """Gives up a connection on which no answer came; it may still come, and would be taken for that of the next one."""
    with mapped():
        try:
            async with asyncio.timeout(seconds):
                yield
        except TimeoutError:
            connection.close()
            raise


@asynccontextmanager
async def _transaction(connection: Any, statement_seconds: float) -> AsyncIterator[Transaction]:
    # Autocommit is off, so that the first statement begins the transaction: one round trip less than BEGIN.
    try:
        yield Transaction(connection, statement_seconds)
        async with _in_time(connection, statement_seconds):
            await connection.commit()
    except BaseException:
        await _roll_back(connection)
        raise


async def _roll_back(connection: Any) -> None:
    try:
        async with _in_time(connection, STATEMENT_SECONDS):
            await connection.rollback()
    except Exception:  # noqa: BLE001 - whatever went wrong, closing the connection rolls back as well
        connection.close()


class Database:
    """A bounded pool of connections to one database."""

    def __init__(self, pool: Any, options: Mapping[str, Any]) -> None:
        self._pool = pool
        self._options = options
        self._prepared: WeakSet[Any] = WeakSet()

    @property
    def name(self) -> str:
        """The name of the database."""
        return str(self._options["db"])

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """Yields a transaction: committed when the block ends, rolled back when it raises.

        Raises:
            DatabaseUnavailable: no connection within 5 s, or it broke. At commit the outcome is unknown.
            TransactionConflict: by the statements inside, or at commit.
        """
        connection = await self._acquire()
        try:
            async with _transaction(connection, STATEMENT_SECONDS) as tx:
                yield tx
        finally:
            self._pool.release(connection)

    async def _acquire(self) -> Any:
        with mapped():
            async with asyncio.timeout(ACQUIRE_SECONDS):
                connection = await self._pool.acquire()
            try:
                if connection not in self._prepared:
                    await _prepare(connection)
                    self._prepared.add(connection)
            except BaseException:
                connection.close()
                self._pool.release(connection)
                raise
            return connection

    async def retrying(self, fn: Callable[[Transaction], Awaitable[T]]) -> T:
        """Runs `fn` in a transaction, and again in a new one after a conflict, five times at most.

        `fn` must have no effects outside of the transaction. Raises TransactionConflict after the last attempt.
        """
        for attempt in range(1, MAX_ATTEMPTS):
            try:
                async with self.transaction() as tx:
                    return await fn(tx)
            except TransactionConflict:
                metrics.MYSQL_RETRIES.inc()
                await asyncio.sleep(random.uniform(0, 0.01 * 2**attempt))  # noqa: S311 - jitter, not a secret
        async with self.transaction() as tx:
            return await fn(tx)

    @asynccontextmanager
    async def locked(self, name: str, wait_seconds: int) -> AsyncIterator[LockedSession | None]:
        """Yields a session that holds the advisory lock `name` of this database, or None if it was not free in time.

        The server gives the lock back when the connection ends, however it ends.
        """
        with mapped():
            async with asyncio.timeout(CONNECT_SECONDS):
                connection = await aiomysql.connect(**self._options)
        try:
            await _prepare(connection)
            session = LockedSession(connection)
            async with session.transaction(wait_seconds + STATEMENT_SECONDS) as tx:
                got = await tx.fetch_one("SELECT GET_LOCK(%s, %s)", (f"{self.name}:{name}", wait_seconds))
            yield session if got == (1,) else None
        finally:
            connection.close()

    async def ping(self) -> None:
        """Returns if the database answers, else raises DatabaseUnavailable."""
        async with self.transaction() as tx:
            await tx.fetch_one("SELECT 1")


async def _prepare(connection: Any) -> None:
    async with _in_time(connection, STATEMENT_SECONDS):
        for statement in _SESSION:
            await connection.query(statement)


def _options(url: str) -> dict[str, Any]:
    parts = urlsplit(check_mysql_url(url))
    return {
        "host": parts.hostname,
        "port": parts.port or 3306,
        "user": unquote(parts.username or ""),
        "password": unquote(parts.password or ""),
        "db": parts.path.strip("/"),
        "charset": "utf8mb4",
        "autocommit": False,
        "sql_mode": _SQL_MODE,
        # The driver's own time-out is asyncio.wait_for, which in Python 3.11 can lose a cancellation; see redis.py.
        "connect_timeout": None,
        "cursorclass": _Cursor,
    }


def open_database(url: str, pool_size: int = POOL_SIZE) -> AbstractAsyncContextManager[Database]:
    """Opens `mysql://user:password@host:port/database`; connections are made when needed."""
    return _open(_options(url), pool_size)


@asynccontextmanager
async def _open(options: dict[str, Any], pool_size: int) -> AsyncIterator[Database]:
    pool = await aiomysql.create_pool(minsize=0, maxsize=pool_size, **options)
    try:
        yield Database(pool, options)
    finally:
        pool.terminate()
        await pool.wait_closed()
