"""What a line keeps, for how long, and until when it is ticked."""

import time
from datetime import timedelta

from redis.asyncio import Redis

from services.queue.line.store import line_key
from tests.queue.lines import EVENT, POLICY, join_all, store_of, tick


async def test_live_lines_are_ticked_until_they_are_quiet_for_a_minute(redis: Redis) -> None:
    store = store_of(redis)
    await store.activate(EVENT)
    assert await store.active_events() == [EVENT]
    assert not await store.retire(EVENT, over=False)

    await redis.zadd("queue:active", {str(EVENT): time.time() * 1000 - 61_000})
    assert await store.retire(EVENT, over=False)
    assert await store.active_events() == []


async def test_a_line_that_is_over_is_forgotten_in_a_week(redis: Redis) -> None:
    store = store_of(redis, inside_cap=1)
    await join_all(store, (1, 2, 3))
    await tick(store)
    await store.leave(EVENT, 1)
    await store.set_policy(EVENT, POLICY, {"mode"})

    await redis.zadd("queue:active", {str(EVENT): 1})
    assert await store.retire(EVENT, over=True)

    async def left() -> dict[bytes | str, int]:
        return {key: await redis.pttl(key) for key in await redis.keys(f"queue:{{{EVENT}}}:*")}

    keys = await left()
    assert {line_key(EVENT, name) for name in ("users", "places", "line", "policy", "draw", "outbox")} <= keys.keys()
    week = timedelta(days=7) / timedelta(milliseconds=1)
    assert all(week - 60_000 < each <= week for each in keys.values())

    await store.activate(EVENT)  # the sale goes on after all
    assert set((await left()).values()) == {-1}


async def test_changes_are_forgotten_also_when_nobody_asks_for_a_digest(redis: Redis) -> None:
    store, changed = store_of(redis), line_key(EVENT, "changed")
    await join_all(store, (1, 2, 3))
    for user in (1, 2):
        await store.leave(EVENT, user)
    await tick(store)
    assert await redis.zcard(changed) == 2

    await redis.zadd(changed, {"1": time.time() * 1000 - 61_000})
    await tick(store)

    assert await redis.zrange(changed, 0, -1) == [b"2"]
