"""What tests of the draw share: entrants in Redis as joining leaves them, and a holder as another process has one."""

from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from redis.asyncio import Redis

from services.common import draw
from services.common.eventlog import EventLog, open_event_log
from services.common.eventlog.topics import QUEUE_DRAWS, QUEUE_LINES
from services.common.redis import open_redis
from services.queue.draw.book import DrawBook
from services.queue.draw.holder import DrawHolder
from services.queue.draw.log import DrawLog
from services.queue.draw.outcome import Seeds
from services.queue.draw.promises import Promises
from services.queue.draw.store import DrawStore
from services.queue.line.domain import Sale
from services.queue.line.keys import line_key

EVENT = 7
SECRET = b"a secret of the house, 32 bytes!"
SALE = Sale(open_time=datetime(2020, 1, 1, tzinfo=UTC), close_time=datetime(2999, 1, 1, tzinfo=UTC))
LATER = Sale(open_time=datetime(2998, 1, 1, tzinfo=UTC), close_time=datetime(2999, 1, 1, tzinfo=UTC))
JOINED_US = 1_700_000_000_000_000


@dataclass
class House:
    """One process of queue, as far as draws go."""

    redis: Redis
    log: EventLog
    store: DrawStore
    draws: DrawLog
    promises: Promises
    holder: DrawHolder
    book: DrawBook


@asynccontextmanager
async def house(redis_url: str, log_url: str = "", secret: bytes = SECRET) -> AsyncIterator[House]:
    async with open_redis(redis_url) as redis, open_event_log(log_url or redis_url) as log, log.writer() as writer:
        await log.create_topics({QUEUE_DRAWS: 1, QUEUE_LINES: 1})
        store, draws, promises = DrawStore(redis), DrawLog(log, writer), Promises(log, writer, Seeds(secret))
        holder, book = DrawHolder(store, draws, promises), DrawBook(store, draws, promises)
        yield House(redis, log, store, draws, promises, holder, book)


async def build(redis: Redis, event_id: int = EVENT) -> None:
    await _done(redis.hset(line_key(event_id, "line"), "built", "1"))


async def rebuilding(redis: Redis, event_id: int = EVENT) -> str:
    """The name of an attempt to rebuild a line that is not there."""
    await _done(redis.hdel(line_key(event_id, "line"), "built"))
    await _done(redis.hset(line_key(event_id, "line"), "rebuilding", "attempt"))
    return "attempt"


async def enter(redis: Redis, lanes: Mapping[int, int], event_id: int = EVENT) -> None:
    """Has accounts take part in the draw, in this order, each in its lane."""
    members = {str(user): JOINED_US + number for number, user in enumerate(lanes)}
    await build(redis, event_id)
    users = list(members)
    for start in range(0, len(users), 20_000):
        part = {user: members[user] for user in users[start : start + 20_000]}
        await redis.zadd(line_key(event_id, "entrants"), part)
    special: Any = {str(user): lane for user, lane in lanes.items() if lane}
    if special:
        await _done(redis.hset(line_key(event_id, "lanes"), mapping=special))


async def leave(redis: Redis, user_id: int, event_id: int = EVENT) -> None:
    """Has someone give up after the list is closed."""
    now_ms = int((datetime.now(UTC) + timedelta(seconds=1)).timestamp() * 1000)
    await _done(redis.hset(line_key(event_id, "places"), str(user_id), f"L:0:0:{now_ms}:0"))


async def standing(redis: Redis, event_id: int = EVENT) -> dict[int, dict[int, int]]:
    """Everyone who waits, with the score, by lane."""
    found = {}
    for lane, name in enumerate(("users", "lane_1", "lane_2", "lane_3")):
        members: Any = await redis.zrange(line_key(event_id, name), 0, -1, withscores=True)
        found[lane] = {int(user): int(score) for user, score in members}
    return found


def expected(lanes: Mapping[int, int], event_id: int = EVENT) -> dict[int, dict[int, int]]:
    """What `standing` answers after a draw of these people, as anyone can compute it."""
    key = key_of(lanes, event_id)
    return {lane: {user: draw.score(key, user) for user, own in lanes.items() if own == lane} for lane in range(4)}


def key_of(lanes: Mapping[int, int], event_id: int = EVENT) -> bytes:
    digest = draw.ListDigest()
    digest.add(sorted(lanes.items()))
    return draw.draw_key(draw.seed(SECRET, event_id), digest.digest())


def people(numbers: Iterable[int]) -> dict[int, int]:
    """Accounts that joined in an order of their own, every fifth in a priority lane."""
    return {(number * 7919) % 1_000_003 + 1: (number % 20) // 5 if number % 5 == 0 else 0 for number in numbers}


async def _done(command: Any) -> Any:
    return await command
