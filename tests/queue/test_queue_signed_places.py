"""Places that come back to a line: in their order, and none of them twice."""

import pytest
from redis.asyncio import Redis

from services.queue.line.domain import Mode, PlaceState
from services.queue.line.store import line_key
from services.queue.line.transitions import Proof
from tests.queue.lines import EVENT, build, end_restoring, join, run_out, state, store_of, tick

USERS = line_key(EVENT, "users")


async def test_a_lost_line_takes_signed_places_back_in_their_order(redis: Redis) -> None:
    store = store_of(redis)
    scores = {user: (await join(store, user)).score for user in (1, 2, 3)}
    await redis.flushdb()
    newcomer = await join(store, 4)

    for user in (3, 1, 2):
        restored = await join(store, user, restore=scores[user])
        assert (restored.fresh, restored.score) == (True, scores[user])

    assert await redis.zrange(USERS, 0, -1) == [b"1", b"2", b"3", b"4"]
    assert newcomer.score > max(scores.values())
    assert (await join(store, 5)).score > newcomer.score


async def test_a_signed_place_wins_over_a_later_one_that_another_device_took(redis: Redis) -> None:
    store = store_of(redis)
    first, second = await join(store, 1), await join(store, 2)
    await redis.flushdb()
    await join(store, 2, restore=second.score)
    later = await join(store, 1)  # by a device without the proof
    assert later.score > second.score

    found = await join(store, 1, restore=first.score)

    assert (found.score, found.fresh) == (first.score, False)
    assert await redis.zrange(USERS, 0, -1) == [b"1", b"2"]
    assert (await join(store, 1, restore=later.score)).score == first.score
    assert (await join(store, 1)).score == first.score


@pytest.mark.parametrize("end", ["leave", "expire"])
async def test_of_two_signed_places_of_one_account_one_is_lived(redis: Redis, end: str) -> None:
    store = store_of(redis)
    first = await join(store, 1)
    await redis.flushdb()
    later = await join(store, 1)
    await join(store, 2)
    await join(store, 1, restore=first.score)
    if end == "leave":
        await store.leave(EVENT, 1)
    else:
        await end_restoring(redis)
        await tick(store)
        await store.claim(EVENT, 1)
        await run_out(redis, 1)

    again = await join(store, 1, restore=later.score)
    assert again.score > later.score
    assert (await join(store, 1, restore=later.score)).score == again.score
    assert (await join(store, 1, restore=first.score)).score == again.score


async def test_an_even_earlier_signed_place_wins_again(redis: Redis) -> None:
    store = store_of(redis)
    scores = [(await join(store, 1)).score]
    for _ in range(2):
        await redis.flushdb()
        scores.append((await join(store, 1)).score)

    assert [(await join(store, 1, restore=score)).score for score in scores[1::-1]] == scores[1::-1]


async def test_a_signed_place_cannot_be_lived_twice(redis: Redis) -> None:
    store = store_of(redis)
    first = await join(store, 1)
    await join(store, 2)
    await store.leave(EVENT, 1)

    again = await join(store, 1, restore=first.score)

    assert again.score > first.score
    assert await redis.zrange(USERS, 0, -1) == [b"2", b"1"]


async def test_a_draining_line_takes_signed_places_back(redis: Redis) -> None:
    assert (await join(store_of(redis, mode=Mode.DRAIN), 1, restore=1_000)).score == 1_000


async def test_nobody_is_called_while_places_come_back_and_a_straggler_does_not_stop_the_line_again(
    redis: Redis,
) -> None:
    store = store_of(redis)
    scores = {user: (await join(store, user)).score for user in (1, 2, 3)}
    await redis.flushdb()
    await join(store, 4)
    await join(store, 2, restore=scores[2])

    assert ((after := await tick(store)).called, after.restoring) == (0, True)
    await end_restoring(redis)
    assert (await tick(store)).called == 2

    await join(store, 3, restore=scores[3])
    assert ((after := await tick(store)).called, after.restoring) == (1, False)


async def test_a_line_that_was_not_lost_does_not_wait_for_a_place_that_comes_late(redis: Redis) -> None:
    store = store_of(redis)
    await build(redis)
    first = await join(store, 1)
    await redis.delete(USERS)

    assert (await join(store, 1, restore=first.score)).outcome == "restored"

    assert (await tick(store)).called == 1


async def test_places_come_back_to_their_lanes_and_keep_their_time_of_joining(redis: Redis) -> None:
    store = store_of(redis)

    restored = await join(store, 1, proof=Proof(1_700_000_000_000_000, 1_700_000_000_000_000, lane=2))

    assert (restored.standing.lane, restored.standing.join_us) == (2, 1_700_000_000_000_000)
    assert await redis.zrange(line_key(EVENT, "lane_2"), 0, -1) == [b"1"]
    assert await state(store, 1) is PlaceState.WAITING
