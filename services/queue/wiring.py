"""Constructs queue: the only place that does."""

from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial
from typing import Final

from boxoffice.inventory.v1 import event_service_pb2_grpc as inventory_rpc
from boxoffice.inventory.v1 import shop_service_pb2_grpc as shop_rpc
from boxoffice.queue.v1 import queue_service_pb2_grpc as rpc
from redis.asyncio import Redis

from services.common import grpc_server
from services.common.clock import SystemClock
from services.common.eventlog import open_event_log, replay, watch_lag
from services.common.grpc_channel import connect
from services.common.lifecycle import Lifecycle
from services.common.limits import Limiter, Rate
from services.common.redis import open_redis
from services.common.tokens import KeyRing, TokenVerifier, jwks_from_auth
from services.queue import watch
from services.queue.admission import health
from services.queue.admission.health import ShopWatch
from services.queue.admission.lease import Leases, written_fences
from services.queue.admission.loop import AdmissionLoop
from services.queue.admission.nodes import Node
from services.queue.admission.publisher import FactPublisher
from services.queue.admission.rates import report_allowed_rate
from services.queue.admission.status import StatusReader
from services.queue.api import QueueApi
from services.queue.catalog import EventCatalog
from services.queue.challenge import ProofOfWork
from services.queue.digest import accuracy, feed
from services.queue.digest.accuracy import AccuracyLog
from services.queue.digest.feed import DigestFeed
from services.queue.digest.foresight import Foresight
from services.queue.digest.reader import reader_of
from services.queue.digest.store import DigestStore
from services.queue.door import Door
from services.queue.draw.book import DrawBook
from services.queue.draw.desk import DrawDesk
from services.queue.draw.holder import DrawHolder
from services.queue.draw.log import DrawLog
from services.queue.draw.outcome import Seeds
from services.queue.draw.promises import Promises
from services.queue.draw.store import DrawStore
from services.queue.line.store import LineStore
from services.queue.office import Office
from services.queue.proofs.receipt import ReceiptKeys
from services.queue.restore.book import LineBook
from services.queue.restore.rebuild import Rebuilder
from services.queue.restore.store import RestoreStore
from services.queue.settings import QueueSettings
from services.queue.waiting_room import WaitingRoom
from services.queue.worker import GROUP, TOPICS, every, listen

# A freed slot waits half of this on average; five scripts a second for each live line cost next to nothing.
_TICK: Final = timedelta(milliseconds=200)


async def wire(lifecycle: Lifecycle, settings: QueueSettings) -> int:
    """Starts everything of one queue process; answers the bound port."""
    redis = await lifecycle.enter(open_redis(settings.redis_url))
    log = await lifecycle.enter(open_event_log(settings.eventlog_url))
    inventory = await lifecycle.enter(connect(settings.inventory_target))
    auth = await lifecycle.enter(connect(settings.auth_target))
    grace, limit = settings.queue_restore_grace, settings.queue_restore_limit
    store = LineStore(redis, settings.default_policy(), restore_grace=grace, restore_limit=limit)
    catalog = EventCatalog(inventory_rpc.EventServiceStub(inventory))
    writer = await lifecycle.enter(log.writer())
    reader = reader_of(DigestStore(redis), store, catalog)
    judge, digests = AccuracyLog(reader), DigestFeed(reader)
    publisher = FactPublisher(store, writer, judge.heard)
    seeds = Seeds(settings.draw_secret_bytes())
    drawing = DrawStore(redis), DrawLog(log, writer), Promises(log, writer, seeds)
    book, holder = DrawBook(*drawing), DrawHolder(*drawing)
    lifecycle.defer(holder.close)
    line_book = LineBook(log, writer, seeds.commitment)
    place_keys = KeyRing.parse(settings.place_keys.get_secret_value())
    rebuilder = Rebuilder(
        RestoreStore(redis), line_book, book, activate=store.upkeep.activate, grace=grace, limit=limit
    )
    lifecycle.defer(rebuilder.aclose)
    office = Office(store, catalog, rebuilder, line_book, place_keys)
    room = WaitingRoom(
        store,
        catalog,
        rebuilder,
        publisher,
        place_keys=place_keys,
        admission_keys=KeyRing.parse(settings.admission_keys.get_secret_value()),
        foresight=Foresight(reader),
    )

    leases = Leases(await _lease_nodes(lifecycle, settings, redis), written_fences(redis))
    shop = ShopWatch(shop_rpc.ShopServiceStub(inventory), settings.limits())
    admission = AdmissionLoop(
        store,
        catalog,
        publisher,
        holder.hold,
        leases=leases,
        pace=lambda: shop.pace.factor,
        rebuild=rebuilder.nudge,
    )

    async def redis_answers() -> None:
        await redis.ping()

    async def hand_over(_seconds: float) -> None:
        room.watchers.close()
        digests.close()
        await leases.release()

    lifecycle.ready_when("redis", redis_answers)
    lifecycle.ready_when("eventlog", log.ping)
    lifecycle.on_drain(hand_over)
    _repeat(lifecycle, "shop", health.INTERVAL, shop.step)
    _repeat(lifecycle, "rates", health.INTERVAL, partial(report_allowed_rate, store, admission, shop.pace))
    _repeat(lifecycle, "admission", _TICK, admission.tick)
    _repeat(lifecycle, "watchers", watch.INTERVAL, room.watchers.step)
    _repeat(lifecycle, "digests", feed.INTERVAL, digests.step)
    _repeat(lifecycle, "accuracy", accuracy.INTERVAL, judge.step)
    lifecycle.background("calls", publisher.run)
    lifecycle.background("events", partial(listen, log, store, rebuilder.ensure))
    lifecycle.background("lag", partial(watch_lag, log, GROUP, TOPICS))
    door = _door(redis, room, settings)
    desk = DrawDesk(book, catalog, ReceiptKeys.parse(settings.receipt_keys.get_secret_value()), room.place)
    statuses = StatusReader(redis, shop.pace, leases.is_unfenced)
    api = QueueApi(room, door=door, digests=digests, draws=desk, office=office, statuses=statuses)
    registrations = [(rpc.add_QueueServiceServicer_to_server, api)]
    return await grpc_server.serve(lifecycle, settings, registrations, TokenVerifier(jwks_from_auth(auth)))


def _repeat(lifecycle: Lifecycle, name: str, interval: timedelta, step: Callable[[], Awaitable[None]]) -> None:
    lifecycle.background(name, partial(every, interval, step, name))


async def _lease_nodes(lifecycle: Lifecycle, settings: QueueSettings, lines: Redis) -> list[Node]:
    clients = [await lifecycle.enter(open_redis(url)) for url in settings.queue_lease_urls]
    nodes = [Node(client) for client in clients or [lines]]
    for node in nodes:
        lifecycle.defer(node.aclose)
    return nodes


def _door(redis: Redis, room: WaitingRoom, settings: QueueSettings) -> Door:
    account, address = Rate.parse(settings.queue_joins_per_account), Rate.parse(settings.queue_joins_per_address)
    limiter = Limiter(redis, "queue.join", account=account, address=address)
    challenge = None
    if settings.queue_challenge == "proof_of_work":
        keys = KeyRing.parse(settings.place_keys.get_secret_value())
        challenge = ProofOfWork(keys, settings.queue_challenge_bits, SystemClock())
    return Door(limiter, challenge, room.places)


async def replay_dead_letters(settings: QueueSettings) -> int:
    """Moves what could not be handled back to the topics of queue, whoever put it aside; answers how many records."""
    async with open_event_log(settings.eventlog_url) as log:
        return sum([await replay(log, topic) for topic in TOPICS])
