"""Redis is lost in the middle of a sale: everyone is in the right order afterwards, and nobody is admitted twice."""

from __future__ import annotations  # the async stub exists for type checkers only

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import grpc
import pytest
import redis as blocking
from boxoffice.queue.v1 import queue_service_pb2 as pb
from boxoffice.queue.v1 import queue_service_pb2_grpc as rpc
from pydantic import SecretStr
from redis.asyncio import Redis

from services.common.cancellation import cancel
from services.common.errors import from_rpc_error
from services.common.eventlog import open_event_log
from services.common.eventlog.port import EventLog
from services.common.eventlog.topics import TOPICS
from services.common.lifecycle import Lifecycle, running
from services.inventory.worker import PROGRESS_AGAIN, PROGRESS_EVERY
from services.queue.draw.log import DrawLog
from services.queue.line.store import line_key
from services.queue.restore.book import LineBook
from services.queue.restore.history import History
from services.queue.settings import SHORTEST_GRACE, QueueSettings
from services.queue.wiring import wire
from tests.queue.flushes import EVENT, FANS, Crowd, Story, story
from tests.queue.neighbours import (
    ADMISSION_KEYS,
    DRAW_SECRET,
    PLACE_KEYS,
    RECEIPT_KEYS,
    Neighbours,
    bearer,
    neighbours,
    stamp,
)
from tests.support import eventually

pytestmark = pytest.mark.timeout(240)
LANES = pb.Lanes(lanes=[pb.Lane(lane=0, name="everyone", weight=3), pb.Lane(lane=FANS, name="fans", weight=1)])
PATIENCE = timedelta(seconds=60)


@pytest.fixture
async def around() -> AsyncIterator[Neighbours]:
    async with neighbours() as servicer:
        yield servicer


@pytest.fixture
def streams_url(valkey_url: str) -> str:
    """A log in a database that is not lost."""
    url = f"{valkey_url.rpartition('/')[0]}/9"
    with blocking.Redis.from_url(url) as client:
        client.flushdb()
    return url


def _settings(redis_url: str, log_url: str, around: Neighbours, **changes: Any) -> QueueSettings:
    settings = QueueSettings(
        redis_url=redis_url,
        eventlog_url=log_url,
        inventory_target=around.target,
        auth_target=around.target,
        admission_keys=SecretStr(ADMISSION_KEYS),
        place_keys=SecretStr(PLACE_KEYS),
        draw_secret=SecretStr(DRAW_SECRET),
        receipt_keys=SecretStr(RECEIPT_KEYS),
        queue_joins_per_account="1000/60000",
        drain_seconds=1,
    )
    # Shorter than any that can be set: no sale here is sold out.
    return settings.model_copy(update={"queue_restore_grace": timedelta(seconds=2), **changes})


@asynccontextmanager
async def _sale(settings: QueueSettings) -> AsyncIterator[tuple[Crowd, EventLog]]:
    """A whole process, a crowd at its door, and the log."""
    ports: list[int] = []

    async def start(lifecycle: Lifecycle) -> None:
        ports.append(await wire(lifecycle, settings))

    async with open_event_log(settings.eventlog_url) as log:
        await log.create_topics(TOPICS)
        async with running(start, 1.0), grpc.aio.insecure_channel(f"127.0.0.1:{ports[0]}") as channel:
            yield Crowd(rpc.QueueServiceStub(channel)), log


def _opens(around: Neighbours, when: timedelta) -> None:
    around.events[EVENT].sale_open_time.CopyFrom(stamp(datetime.now(UTC) + when))


def test_nobody_is_called_before_it_is_known_again_that_a_sale_is_sold_out() -> None:
    assert PROGRESS_AGAIN + PROGRESS_EVERY < SHORTEST_GRACE
    for name in ("queue_restore_grace", "queue_restore_limit"):
        (bound, *_) = QueueSettings.model_fields[name].metadata
        assert bound.ge == SHORTEST_GRACE


async def _keep_claiming(crowd: Crowd, redis: Redis) -> None:
    """Every third of those who are called comes, until cancelled."""
    asked: set[int] = set()
    while True:
        ready: Any = await redis.zrange(line_key(EVENT, "ready"), 0, -1)
        coming = [user for user in map(int, ready) if user % 3 == 0 and user not in asked][:20]
        asked.update(coming)
        await asyncio.gather(*map(crowd.claim, coming))
        await asyncio.sleep(0.05)


async def _waiting(redis: Redis) -> int:
    return int(await redis.zcard(line_key(EVENT, "users")) + await redis.zcard(line_key(EVENT, "users:1")))


async def _all_called(redis: Redis) -> None:
    async def done() -> bool:
        built = await cast("Any", redis.hexists(line_key(EVENT, "line"), "built"))
        untold = await redis.xlen(line_key(EVENT, "outbox"))
        return bool(built) and not untold and not await _waiting(redis)

    await eventually(done, within=PATIENCE)


async def _called(redis: Redis, count: int) -> None:
    async def enough() -> bool:
        return int(await cast("Any", redis.hget(line_key(EVENT, "line"), "called")) or 0) >= count

    await eventually(enough, within=PATIENCE)


async def _refused(crowd: Crowd, user: int, signed_place: str) -> str:
    request = pb.JoinQueueRequest(event_id=EVENT, signed_place=signed_place)
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await crowd.stub.JoinQueue(request, metadata=bearer(user))
    return from_rpc_error(refusal.value)[0]


def _violations(crowd: Crowd, told: Story, lost: datetime) -> list[str]:
    """What a loss at that moment must not have done to the order of calls, nor to admissions."""
    found = []
    before = {user for user, _, _, when in told.called if when <= lost}
    for lane in sorted(set(crowd.lanes.values())):
        wanted = crowd.in_order(crowd.proofs.keys() - before, lane)
        if told.since(lost, lane) != wanted:
            found.append(f"lane {lane} was not called in its order")
    found += [f"{user} has {len(tokens)} tokens" for user, tokens in crowd.tokens.items() if len(tokens) > 1]
    again = {user for user, _, _, when in told.called if when > lost} & before
    return found + [f"{user} was called again" for user in sorted(again)]


async def test_five_thousand_people_stand_in_their_order_after_redis_was_lost(
    redis: Redis, redis_url: str, kafka_url: str, around: Neighbours
) -> None:
    drawn, later = range(1, 2_901), range(2_901, 6_001)
    async with _sale(_settings(redis_url, kafka_url, around)) as (crowd, log):
        _opens(around, timedelta(hours=1))
        await crowd.policy(lanes=LANES, rate_per_second=100.0, inside_cap=6_000)
        fans = await crowd.passes([user for user in drawn if user % 10 == 0] + list(later[:200]))
        await crowd.join(drawn, fans)
        _opens(around, timedelta())
        await crowd.learn_draw()
        await crowd.join(later, fans)
        claiming = asyncio.create_task(_keep_claiming(crowd, redis))
        await _called(redis, 300)

        assert await _waiting(redis) >= 5_000
        given = {user: set(tokens) for user, tokens in crowd.tokens.items()}
        assert given
        await redis.flushall()
        lost = datetime.now(UTC)

        assert await _refused(crowd, 6_001, crowd.proofs[6_000]) == "PLACE_INVALID"
        assert await _refused(crowd, 6_000, crowd.proofs[6_000][:-4] + "AAAA") == "PLACE_INVALID"
        await crowd.come_back(crowd.proofs)
        rules = await crowd.policy(rate_per_second=3_000.0)
        assert (rules.lanes, rules.inside_cap) == (LANES.lanes, 6_000)
        await _all_called(redis)
        await cancel([claiming])
        for user, tokens in given.items():
            assert {await crowd.claim(user)} == tokens

        assert _violations(crowd, await story(log), lost) == []


async def _small_sale(crowd: Crowd, redis: Redis, users: Sequence[int]) -> datetime:
    """Some have a token and some are called when Redis is lost; the moment."""
    await crowd.policy(rate_per_second=20.0)
    await crowd.join(users, {})
    await _called(redis, 40)
    for user in users[:5]:
        await crowd.claim(user)
    assert {len(crowd.tokens[user]) for user in users[:5]} == {1}
    crowd.called_before = await crowd.place(20)
    await redis.flushdb()
    return datetime.now(UTC)


async def _everyone_returns(crowd: Crowd, redis: Redis, log: EventLog, users: Sequence[int]) -> Story:
    await crowd.come_back(users)
    await crowd.policy(rate_per_second=1_000.0)
    await _all_called(redis)
    for user in users[:5]:
        await crowd.claim(user)
    return await story(log)


async def test_redis_may_be_lost_again_and_again(
    redis: Redis, redis_url: str, streams_url: str, around: Neighbours
) -> None:
    users = range(1, 301)
    async with _sale(_settings(redis_url, streams_url, around)) as (crowd, log):
        lost = await _small_sale(crowd, redis, users)
        await crowd.come_back(users[:150])
        await redis.flushdb()
        await crowd.come_back(users[100:200])
        await redis.flushdb()

        told = await _everyone_returns(crowd, redis, log, users)

        assert _violations(crowd, told, lost) == []
        before, after = crowd.called_before, await crowd.place(20)
        assert after.state == before.state == pb.Place.STATE_READY
        assert after.claim_expire_time == before.claim_expire_time


async def test_control_without_the_facts_people_are_admitted_twice(
    redis: Redis, redis_url: str, streams_url: str, around: Neighbours, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nothing(*_: object) -> History:
        return History()

    monkeypatch.setattr(LineBook, "history", nothing)
    users = range(1, 101)
    async with _sale(_settings(redis_url, streams_url, around)) as (crowd, log):
        lost = await _small_sale(crowd, redis, users)

        found = _violations(crowd, await _everyone_returns(crowd, redis, log, users), lost)

    assert {"1 has 2 tokens", "1 was called again", "40 was called again"} <= set(found)


async def test_control_without_the_grace_the_quick_are_called_before_those_in_front(
    redis: Redis, redis_url: str, streams_url: str, around: Neighbours
) -> None:
    users = range(1, 101)
    async with _sale(_settings(redis_url, streams_url, around, queue_restore_grace=timedelta())) as (crowd, log):
        lost = await _small_sale(crowd, redis, users)
        await crowd.come_back(users[80:])
        await _called(redis, 60)

        found = _violations(crowd, await _everyone_returns(crowd, redis, log, users), lost)

    assert found == ["lane 0 was not called in its order"]


async def test_who_comes_back_late_is_called_before_everyone_who_joined_later(
    redis: Redis, redis_url: str, streams_url: str, around: Neighbours
) -> None:
    users = range(1, 101)
    async with _sale(_settings(redis_url, streams_url, around, queue_restore_grace=timedelta(seconds=1))) as (crowd, _):
        await _small_sale(crowd, redis, users)
        await crowd.come_back([user for user in users if user not in {90, 91}])
        await crowd.policy(rate_per_second=1_000.0)
        await _all_called(redis)
        await crowd.policy(mode=pb.QueuePolicy.MODE_HOLD)
        await crowd.join([101], {})
        await crowd.come_back([91])
        await crowd.come_back([90])

        assert [(await crowd.place(user)).position for user in (90, 91, 101)] == [1, 2, 3]


# --- the draw --------------------------------------------------------------------------------------------------------


async def test_a_draw_is_held_among_those_who_came_back_before_the_opening(
    redis: Redis, redis_url: str, streams_url: str, around: Neighbours
) -> None:
    users = range(1, 201)
    async with _sale(_settings(redis_url, streams_url, around)) as (crowd, log):
        _opens(around, timedelta(hours=1))
        await crowd.join(users, {})
        await redis.flushdb()
        await crowd.come_back(users)
        assert (await crowd.place(7)).in_draw
        _opens(around, timedelta())
        await crowd.learn_draw()
        await _all_called(redis)

        told = await story(log)
        assert [user for user, *_ in told.called] == crowd.in_order(users, 0)


async def test_a_draw_that_was_closed_and_not_held_is_held_with_those_who_come_back(
    redis: Redis, redis_url: str, streams_url: str, around: Neighbours, monkeypatch: pytest.MonkeyPatch
) -> None:
    users = range(1, 201)
    may_go_on, attempts, append = asyncio.Event(), itertools.count(), DrawLog.append_list

    async def stuck(self: DrawLog, *arguments: Any) -> None:
        next(attempts)
        await may_go_on.wait()
        await append(self, *arguments)

    monkeypatch.setattr(DrawLog, "append_list", stuck)
    async with _sale(_settings(redis_url, streams_url, around)) as (crowd, log):
        _opens(around, timedelta(hours=1))
        await crowd.join(users, {})
        _opens(around, timedelta())

        async def is_closed() -> bool:
            return bool(await cast("Any", redis.hexists(line_key(EVENT, "draw"), "closed_ms")))

        await eventually(is_closed, within=PATIENCE)
        await redis.flushdb()
        returning = asyncio.create_task(crowd.come_back(users))
        await asyncio.wait({returning}, timeout=1)
        may_go_on.set()
        await returning
        await crowd.learn_draw()
        await _all_called(redis)

        told = await story(log)
        assert [user for user, *_ in told.called] == crowd.in_order(users, 0)
