"""Reservations over real servers, and an event log that can be told to fail."""

import itertools
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial

from boxoffice.inventory.v1 import booking_events_pb2 as events_pb
from redis.asyncio import Redis

from services.common.eventlog import EventLogUnavailable, Record
from services.common.eventlog.port import Entry
from services.common.keyring import AdmissionToken, KeyRing
from services.common.mysql import Database
from services.common.redis import open_redis
from services.inventory import seatmap
from services.inventory.availability import Availability
from services.inventory.catalog import Catalog
from services.inventory.domain import SaleEvent, ticket_id
from services.inventory.holds import Holds
from services.inventory.ledger import Ledger
from services.inventory.records import to_ms
from services.inventory.reservation import Reservations
from services.inventory.shop import HoldTimes
from services.inventory.wiring import read_snapshot
from services.inventory.wishes import Wish
from services.inventory.worker import parse
from tests.support import FakeClock

KEYS = KeyRing({"k1": b"k" * 32})
_tokens = itertools.count(1)


@dataclass
class Log:
    """An `EventLogWriter` that keeps what it is given, or fails, before or after it has written."""

    records: list[Record] = field(default_factory=list)
    fails: bool = False
    writes_all_the_same: bool = False

    async def append(self, topic: str, key: str, value: bytes, headers: Mapping[str, str] | None = None) -> None:
        if not self.fails or self.writes_all_the_same:
            self.records.append(Record(topic, key, value, dict(headers or {})))
        if self.fails:
            raise EventLogUnavailable

    async def append_many(self, topic: str, entries: Sequence[Entry]) -> None:
        for key, value, headers in entries:
            await self.append(topic, key, value, headers)

    @property
    def commands(self) -> list[events_pb.ReserveCommand]:
        return [
            command
            for record in self.records
            for command in events_pb.ReserveCommands.FromString(record.value).commands
        ]


@dataclass
class Desk:
    event_id: int
    redis: Redis
    holds: Holds
    catalog: Catalog
    availability: Availability
    ledger: Ledger
    reservations: Reservations
    log: Log
    clock: FakeClock
    hold_times: HoldTimes

    def wish(
        self, user: int, *seats: int, best: int = 0, section: str = "", key: str = "key-00001", event_id: int = 0
    ) -> Wish:
        event_id = event_id or self.event_id
        return Wish(
            user_id=user,
            event_id=event_id,
            ticket_ids=tuple(ticket_id(event_id, seat) for seat in seats),
            quantity=best,
            section=section,
            idempotency_key=key,
            admission_token=admission(user, event_id, self.clock.now() + timedelta(minutes=5)),
            traceparent="",
        )

    async def work(self) -> None:
        """What the worker does with everything in the log, read from its beginning each time."""
        for record in list(self.log.records):
            await self.holds.settle_many(await self.ledger.commit_reservations(parse(record)))


def admission(user: int, event_id: int, until: datetime, keys: KeyRing = KEYS) -> str:
    return AdmissionToken(user, event_id, to_ms(until), f"{next(_tokens):016x}").encode(keys)


def event(**changes: object) -> SaleEvent:
    now = datetime.now(tz=UTC)
    plain = SaleEvent(
        event_id=0,
        name="Concert",
        venue="Club",
        start_time=now + timedelta(days=30),
        sale_open_time=now - timedelta(days=1),
        sale_close_time=now + timedelta(days=1),
        currency="KRW",
        tickets_per_person=4,
        seat_map_version="",
        seats_total=0,
        published=True,
    )
    return replace(plain, **changes)  # type: ignore[arg-type] # the fields of the event


@asynccontextmanager
async def open_desk(
    db: Database, redis_url: str, *, document: str = seatmap.generated_document(40), sale: SaleEvent | None = None
) -> AsyncIterator[Desk]:
    catalog, ledger, log, clock = Catalog(db), Ledger(db), Log(), FakeClock(datetime.now(tz=UTC))
    event_id = await catalog.add(sale or event(), document)
    async with open_redis(redis_url) as redis:
        holds = Holds(redis, partial(read_snapshot, catalog, ledger), reap_every=timedelta())
        availability = Availability(catalog, holds)
        times = HoldTimes()
        reservations = Reservations(
            catalog, availability, holds, log, admission_keys=KEYS, clock=clock, hold_times=times
        )
        yield Desk(event_id, redis, holds, catalog, availability, ledger, reservations, log, clock, times)
        await reservations.aclose()
