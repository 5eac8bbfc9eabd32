"""Events leave with the state that they tell of: a row in the same transaction, published afterwards by one relay.

Ids are given out at INSERT and become visible at commit, so that a transaction can appear behind a later id. Rows are
therefore deleted one by one as published, never "up to" an id. Two transactions that lock the same booking follow one
another, and so do their ids: order holds for everything that depends on one another, which is what readers rely on.

The relay publishes at least once. After a crash between publishing and deleting, a stretch is published again, in
order.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from itertools import groupby
from typing import Any

import orjson

from services.common import metrics
from services.common.eventlog.backoff import Backoff
from services.common.eventlog.port import Entry, EventLogUnavailable, EventLogWriter
from services.common.mysql import Database, DatabaseUnavailable, LockedSession, Transaction, TransactionConflict

OUTBOX_DDL = """\
CREATE TABLE IF NOT EXISTS outbox (
  id BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
  topic VARCHAR(100) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  record_key VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
  payload MEDIUMBLOB NOT NULL,
  headers TEXT CHARACTER SET utf8mb4 NOT NULL,
  create_time TIMESTAMP(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6)
) ENGINE=InnoDB;
"""
"""Services that use the outbox have this in a migration of their own, letter by letter."""

BATCH = 500
IDLE = timedelta(milliseconds=200)
"""How often the table is looked at when nobody nudges: the delay of rows put by another process."""
LOCK_WAIT_SECONDS = 5

_log = logging.getLogger(__name__)
_Row = tuple[int, str, str, bytes, str, float]


async def put(tx: Transaction, topic: str, key: str, payload: bytes, headers: Mapping[str, str] | None = None) -> None:
    """Adds a record to the caller's transaction: it leaves if and only if that commits. Raises as `tx.execute`."""
    await put_many(tx, topic, [(key, payload, headers or {})])


async def put_many(tx: Transaction, topic: str, entries: Sequence[Entry]) -> None:
    """As `put`, for several records of a topic, in one statement."""
    await tx.execute_many(
        "INSERT INTO outbox (topic, record_key, payload, headers) VALUES (%s, %s, %s, %s)",
        [(topic, key, payload, orjson.dumps(dict(headers)).decode()) for key, payload, headers in entries],
    )


class Relay:
    """Publishes the rows of one database's outbox in order of their ids.

    Any number may run; an advisory lock lets one work, and another takes over when its connection ends.
    """

    def __init__(self, database: Database, writer: EventLogWriter) -> None:
        self._database = database
        self._writer = writer
        self._nudged = asyncio.Event()

    def nudge(self) -> None:
        """Says that a transaction with rows has committed, so that they leave at once."""
        self._nudged.set()

    async def run(self) -> None:
        """Works until cancelled; outages of the database or of the log are waited out."""
        backoff = Backoff()
        while True:
            try:
                async with self._lock() as session:
                    if session is not None:
                        await self._drain(session, backoff)
            except (DatabaseUnavailable, EventLogUnavailable, TransactionConflict) as error:
                _log.warning("outbox relay paused", extra={"fields": {"error": type(error).__name__}})
                await backoff.pause()

    @asynccontextmanager
    async def _lock(self) -> AsyncIterator[LockedSession | None]:
        async with self._database.locked("outbox", LOCK_WAIT_SECONDS) as session:
            yield session

    async def _drain(self, session: LockedSession, backoff: Backoff) -> None:
        while True:
            self._nudged.clear()
            published = await self.publish_batch(session)
            backoff.reset()
            if published < BATCH:
                await self._wait_for_work()

    async def _wait_for_work(self) -> None:
        try:
            async with asyncio.timeout(IDLE.total_seconds()):
                await self._nudged.wait()
        except TimeoutError:
            return

    async def publish_batch(self, session: LockedSession) -> int:
        """Publishes up to `BATCH` rows, then deletes them; answers how many.

        Reading, publishing and deleting are three steps on purpose: no transaction is open while the log is awaited.
        """
        rows = await self._oldest(session)
        for topic, group in groupby(rows, key=lambda row: row[1]):
            await self._writer.append_many(topic, [_entry(row) for row in group])
        if rows:
            await self._delete(session, [row[0] for row in rows])
            metrics.OUTBOX_PUBLISHED.inc(len(rows))
        return len(rows)

    @staticmethod
    async def _oldest(session: LockedSession) -> list[_Row]:
        async with session.transaction() as tx:
            rows: list[Any] = await tx.fetch_all(
                "SELECT id, topic, record_key, payload, headers,"
                " TIMESTAMPDIFF(MICROSECOND, create_time, NOW(6)) / 1000000 FROM outbox ORDER BY id LIMIT %s",
                (BATCH,),
            )
        metrics.OUTBOX_AGE.set(float(rows[0][5]) if rows else 0)
        return rows

    @staticmethod
    async def _delete(session: LockedSession, ids: Sequence[int]) -> None:
        async with session.transaction() as tx:
            await tx.execute("DELETE FROM outbox WHERE id IN %s", (ids,))


def _entry(row: _Row) -> Entry:
    return row[2], row[3], orjson.loads(row[4])
