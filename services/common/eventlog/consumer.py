"""Reading with a handler: nothing lost, nothing stuck.

A handler that fails because something is *away* (log, database, Redis, another service) is tried again for as long as
it takes. A record that can never be handled is *poison*: it goes to `<topic>.dead`, and those behind it go on.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import timedelta

import grpc
from google.protobuf.message import DecodeError

from services.common import errors, metrics
from services.common.eventlog.backoff import Backoff
from services.common.eventlog.port import (
    EventLog,
    EventLogReader,
    EventLogUnavailable,
    EventLogWriter,
    Record,
)
from services.common.eventlog.topics import dead

Handler = Callable[[list[Record]], Awaitable[None]]

READ_WAIT = timedelta(seconds=1)
ATTEMPTS = 5
"""How often a record is tried that fails for a reason that may or may not pass."""
LAG_INTERVAL = timedelta(seconds=5)

_DEAD_PREFIX = "dead-"
_AWAY_CODES = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.RESOURCE_EXHAUSTED}
_log = logging.getLogger(__name__)


class Poison(Exception):
    """Raised by a handler about a record that can never be handled."""


async def consume(log: EventLog, group: str, topics: Sequence[str], handle: Handler, *, max_records: int = 500) -> None:
    """Reads, handles, commits, until cancelled.

    `handle` gets up to `max_records` records, in order by key, some of them perhaps for the second time: it must be
    idempotent. If it raises, it gets the same records again after a growing pause; if the error does not look like an
    outage it then gets them one by one, and those that still fail go to `<topic>.dead`.
    """
    backoff = Backoff()
    while True:
        try:
            async with log.reader(group, topics) as reader, log.writer() as writer:
                await _Consumer(group, reader, writer, handle, backoff).run(max_records)
        except EventLogUnavailable:
            _log.warning("event log away, reading pauses", extra={"fields": {"group": group}})
            await backoff.pause()


class _Consumer:
    def __init__(
        self, group: str, reader: EventLogReader, writer: EventLogWriter, handle: Handler, backoff: Backoff
    ) -> None:
        self._group = group
        self._reader = reader
        self._writer = writer
        self._handle = handle
        self._backoff = backoff

    async def run(self, max_records: int) -> None:
        while True:
            records = await self._reader.read(max_records, READ_WAIT)
            if records:
                await self._batch(records)
                await self._reader.commit()
                self._count(records)
            self._backoff.reset()

    async def _batch(self, records: list[Record]) -> None:
        try:
            await self._through_outages(records)
        except Exception as error:  # noqa: BLE001 - any fault of a handler isolates the record that caused it
            self._report(records, error)
            for record in records:
                await self._single(record)

    async def _single(self, record: Record) -> None:
        backoff = Backoff()
        for attempt in range(1, ATTEMPTS + 1):
            try:
                await self._through_outages([record])
            except Exception as error:  # noqa: BLE001 - see _batch
                if is_poison(error) or attempt == ATTEMPTS:
                    await self._bury(record, error)
                    return
                await backoff.pause()
            else:
                return

    async def _through_outages(self, records: list[Record]) -> None:
        """Repeats the handler while something it needs is away; raises its other errors."""
        backoff = Backoff()
        while True:
            try:
                return await self._handle(records)
            except Exception as error:
                if not is_outage(error):
                    raise
                self._report(records, error)
                await backoff.pause()

    async def _bury(self, record: Record, error: Exception) -> None:
        headers = dict(record.headers) | _epitaph(self._group, record, error)
        backoff = Backoff()
        while True:
            try:
                await self._writer.append(dead(record.topic), record.key, record.value, headers)
            except EventLogUnavailable:
                await backoff.pause()
            else:
                break
        metrics.EVENTLOG_DEAD.labels(topic=record.topic).inc()
        _log.error(
            "record could not be handled and was put aside", extra={"fields": _epitaph(self._group, record, error)}
        )

    def _count(self, records: list[Record]) -> None:
        for topic, count in Counter(record.topic for record in records).items():
            metrics.EVENTLOG_CONSUMED.labels(group=self._group, topic=topic).inc(count)

    def _report(self, records: list[Record], error: Exception) -> None:
        metrics.EVENTLOG_HANDLER_FAILURES.labels(group=self._group).inc()
        fields = {"group": self._group, "records": len(records), "error": type(error).__name__}
        _log.warning("handler failed, will be tried again", extra={"fields": fields}, exc_info=error)


def _epitaph(group: str, record: Record, error: Exception) -> dict[str, str]:
    # The class of the error only: its text may quote the record.
    return {
        "dead-group": group,
        "dead-topic": record.topic,
        "dead-partition": str(record.partition),
        "dead-offset": record.offset,
        "dead-error": type(error).__name__,
    }


def is_outage(error: BaseException) -> bool:
    """Whether an error says that something is away and will come back: it is waited for, however long."""
    if getattr(error, "reason", None) == "UNAVAILABLE":
        return True
    if isinstance(error, grpc.aio.AioRpcError):
        return error.code() in _AWAY_CODES
    # Not any OSError: a file that is missing does not come back.
    return isinstance(error, ConnectionError | TimeoutError) or errors.is_outage(error)


def is_poison(error: BaseException) -> bool:
    """Whether an error would come again however often the record is tried."""
    return isinstance(error, Poison | DecodeError | ValueError)


async def watch_lag(log: EventLog, group: str, topics: Sequence[str]) -> None:
    """Keeps the lag metric of a group fresh, until cancelled. Run it beside `consume`, once per process."""
    while True:
        for topic in topics:
            try:
                metrics.EVENTLOG_LAG.labels(group=group, topic=topic).set(await log.lag(group, topic))
            except EventLogUnavailable:
                break
        await asyncio.sleep(LAG_INTERVAL.total_seconds())


async def replay(log: EventLog, topic: str) -> int:
    """Moves the records of `<topic>.dead` back to their topic, in order by key; answers how many.

    Every group of the topic sees them again, also those that had handled them. A crash in the middle moves some twice.
    """
    moved = 0
    async with log.reader(f"replay:{topic}", [dead(topic)]) as reader, log.writer() as writer:
        while await log.lag(f"replay:{topic}", dead(topic)):
            records = await reader.read(500, READ_WAIT)
            await writer.append_many(topic, [(record.key, record.value, _revived(record)) for record in records])
            await reader.commit()
            moved += len(records)
    return moved


def _revived(record: Record) -> Mapping[str, str]:
    return {name: value for name, value in record.headers.items() if not name.startswith(_DEAD_PREFIX)}
