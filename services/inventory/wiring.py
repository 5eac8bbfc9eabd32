"""Constructs inventory, in either of its roles: the only place that does.

The API answers calls; the worker makes what was promised durable. Both know the same Redis, MySQL and event log.
"""

from dataclasses import dataclass
from functools import partial

from boxoffice.inventory.v1 import booking_service_pb2_grpc as booking_rpc
from boxoffice.inventory.v1 import event_service_pb2_grpc as event_rpc
from boxoffice.inventory.v1 import shop_service_pb2_grpc as shop_rpc
from redis.asyncio import Redis

from services.common import grpc_server
from services.common.clock import SystemClock
from services.common.eventlog import EventLog, EventLogWriter, consume, open_event_log, replay, topics, watch_lag
from services.common.grpc_channel import connect
from services.common.keyring import KeyRing
from services.common.lifecycle import Lifecycle
from services.common.migrations import migrate
from services.common.mysql import Database, open_database
from services.common.outbox import Relay
from services.common.redis import open_redis
from services.common.tokens import TokenVerifier, jwks_from_auth
from services.inventory.api.bookings import BookingApi
from services.inventory.api.events import EventApi
from services.inventory.api.shop import ShopApi
from services.inventory.audit import Audit, Auditor
from services.inventory.availability import Availability
from services.inventory.bookings import Bookings
from services.inventory.catalog import Catalog
from services.inventory.holds import KEEP, Holds, Snapshot
from services.inventory.ledger import Ledger
from services.inventory.payments.dummy import DummyGateway
from services.inventory.payments.flow import PaymentFlow
from services.inventory.recovery import Completer, Reconciler, Sweeper
from services.inventory.reservation import Reservations
from services.inventory.revocations import GROUP as ADMISSIONS
from services.inventory.revocations import Revocations
from services.inventory.seed import MIGRATIONS
from services.inventory.settings import InventorySettings
from services.inventory.shop import BACKLOG_AFTER, HoldTimes, ShopMeter
from services.inventory.watch import Watchers
from services.inventory.worker import GROUP, ProgressPublisher, ReservationWorker


@dataclass(frozen=True)
class _Parts:
    """What both roles stand on."""

    redis: Redis
    log: EventLog
    writer: EventLogWriter
    db: Database
    catalog: Catalog
    ledger: Ledger
    holds: Holds


async def wire_api(lifecycle: Lifecycle, settings: InventorySettings) -> int:
    """Starts everything of one API process; answers the bound port."""
    parts = await _open(lifecycle, settings)
    # MySQL answered when it was migrated. The API is not taken out of balancing when it goes away: reservations go on.
    auth = await lifecycle.enter(connect(settings.auth_target))
    clock = SystemClock()
    availability = Availability(parts.catalog, parts.holds)
    hold_times = HoldTimes()
    reservations = Reservations(
        parts.catalog,
        availability,
        parts.holds,
        parts.writer,
        admission_keys=KeyRing.parse(settings.admission_keys.get_secret_value()),
        clock=clock,
        hold_times=hold_times,
    )
    lifecycle.defer(reservations.aclose)
    meter = ShopMeter(
        hold_times,
        partial(parts.log.lag, GROUP, topics.BOOKING_COMMANDS),
        partial(parts.ledger.unanswered_payments, BACKLOG_AFTER),
    )
    lifecycle.background("shop-health", meter.run)
    bookings = Bookings(parts.ledger, parts.holds)
    gateway = DummyGateway(parts.db)
    lifecycle.defer(gateway.aclose)
    payments = PaymentFlow(parts.ledger, gateway, parts.holds.settle_many, bookings.check_decided)
    watchers = Watchers(bookings, parts.holds)
    lifecycle.background("watchers", watchers.run)
    lifecycle.background("watchers-of-payments", watchers.run_payments)

    async def end_streams(_seconds: float) -> None:
        watchers.close()

    lifecycle.on_drain(end_streams)
    registrations: list[grpc_server.Registration] = [
        (event_rpc.add_EventServiceServicer_to_server, EventApi(parts.catalog, availability, clock)),
        (
            booking_rpc.add_BookingServiceServicer_to_server,
            BookingApi(reservations, bookings, payments, watchers),
        ),
        (shop_rpc.add_ShopServiceServicer_to_server, ShopApi(meter)),
    ]
    return await grpc_server.serve(lifecycle, settings, registrations, TokenVerifier(jwks_from_auth(auth)))


async def wire_worker(lifecycle: Lifecycle, settings: InventorySettings) -> int:
    """Starts everything of one worker process; answers the bound port of its health service."""
    parts = await _open(lifecycle, settings)
    lifecycle.ready_when("mysql", parts.db.ping)
    relay = Relay(parts.db, parts.writer)
    gateway = DummyGateway(parts.db)
    lifecycle.defer(gateway.aclose)
    settle = parts.holds.settle_many
    worker = ReservationWorker(parts.ledger, settle, relay.nudge)
    lifecycle.background("reservations", partial(consume, parts.log, GROUP, [topics.BOOKING_COMMANDS], worker.handle))
    lifecycle.background("lag", partial(watch_lag, parts.log, GROUP, [topics.BOOKING_COMMANDS]))
    ended = Revocations(parts.redis)
    lifecycle.background("admissions", partial(consume, parts.log, ADMISSIONS, [topics.QUEUE_EVENTS], ended.handle))
    lifecycle.background("lag-of-admissions", partial(watch_lag, parts.log, ADMISSIONS, [topics.QUEUE_EVENTS]))
    lifecycle.background("outbox", relay.run)
    lifecycle.background("sweeper", Sweeper(parts.ledger, settle, relay.nudge).run)
    lifecycle.background("completer", Completer(parts.ledger, gateway, settle, relay.nudge).run)
    reconciler = Reconciler(parts.ledger, parts.holds.remind_many)
    lifecycle.background("reconciler", reconciler.run)
    lifecycle.background("reconciler-of-all", reconciler.run_all)
    lifecycle.background("auditor", Auditor(Audit(parts.db, parts.redis)).run)
    lifecycle.background("progress", ProgressPublisher(parts.ledger, parts.holds, parts.writer).run)
    return await grpc_server.serve(lifecycle, settings, [], None)


async def _open(lifecycle: Lifecycle, settings: InventorySettings) -> _Parts:
    redis = await lifecycle.enter(open_redis(settings.redis_url))
    db = await lifecycle.enter(open_database(settings.mysql_url))
    log = await lifecycle.enter(open_event_log(settings.eventlog_url))
    await migrate(db, MIGRATIONS)
    await log.create_topics(topics.TOPICS)
    writer = await lifecycle.enter(log.writer())
    catalog, ledger = Catalog(db), Ledger(db)
    holds = Holds(redis, partial(read_snapshot, catalog, ledger), pay_time=settings.pay_time)
    lifecycle.defer(holds.aclose)

    async def redis_answers() -> None:
        await redis.ping()

    lifecycle.ready_when("redis", redis_answers)
    lifecycle.ready_when("eventlog", log.ping)
    return _Parts(redis, log, writer, db, catalog, ledger, holds)


async def replay_dead_letters(settings: InventorySettings) -> int:
    """Moves the commands that no worker could take back to their topic; answers how many records that were."""
    async with open_event_log(settings.eventlog_url) as log:
        return await replay(log, topics.BOOKING_COMMANDS)


async def read_snapshot(catalog: Catalog, ledger: Ledger, event_id: int) -> Snapshot:
    """What Redis is rebuilt from. Raises EventNotFound."""
    sale = await catalog.sale(event_id)
    return Snapshot(sale.seat_map.seats_total, await ledger.live_bookings(event_id, ended_within=KEEP))
