"""Before the opening: who joins takes part in a draw, and nobody learns anything about an order."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest
from redis.asyncio import Redis

from services.common import draw
from services.queue.line.domain import (
    Drawing,
    PlaceNotReady,
    PlaceState,
    Sale,
    SaleState,
    tell,
)
from services.queue.line.store import LineStore, line_key
from services.queue.line.transitions import FactKind, Joined, Proof
from tests.queue.lines import EVENT, OPEN_SALE, build, end_restoring, join, state, store_of, tick, without_guard

SCHEDULED = Sale(datetime(2998, 1, 1, tzinfo=UTC), OPEN_SALE.close_time)
ENTRANTS, USERS, DRAW = (line_key(EVENT, name) for name in ("entrants", "users", "draw"))
KEY = b"\x01" * 32


async def _open_list(redis: Redis) -> LineStore:
    await build(redis, is_held=False)
    return store_of(redis)


async def _close(redis: Redis) -> None:
    await cast("Any", redis.hset(DRAW, "closed_ms", 1))


async def _hold(redis: Redis, users: list[int]) -> dict[int, int]:
    """As a holder does: everyone of the list has a place, then the draw is held."""
    scores = dict(zip(users, draw.scores(KEY, users), strict=True))
    if users:
        await redis.zadd(USERS, {str(user): score for user, score in scores.items()})
    fields: dict[Any, Any] = {"closed_ms": 1, "held_ms": 1, "key": KEY, "entrant_count": len(users)}
    await cast("Any", redis.hset(DRAW, mapping=fields))
    return scores


async def test_who_joins_before_the_opening_takes_part_in_the_draw_and_learns_nothing(redis: Redis) -> None:
    store = await _open_list(redis)
    joined = [await join(store, user, sale=SCHEDULED) for user in (1, 2, 3)]
    again = await join(store, 2, sale=SCHEDULED)

    assert [each.outcome for each in (*joined, again)] == ["joined", "joined", "joined", "found"]
    assert again.standing.join_us == joined[1].standing.join_us
    assert await redis.zcard(USERS) == 0
    for each in joined:
        place = tell(each.standing, each.line, SCHEDULED)
        assert (place.state, place.position, place.ahead, place.score) == (PlaceState.WAITING, 0, 0, 0)
        assert (place.in_draw, place.sale_state) == (True, SaleState.SCHEDULED)
    everyone = [await store.read(EVENT, user) for user in (1, 2, 3)]
    told = {tell(standing, line, SCHEDULED).outlook for line, standing in everyone if standing}
    assert len(told) == 1
    assert everyone[0][0].total_waiting == 3
    with pytest.raises(PlaceNotReady):
        await store.claim(EVENT, 1)


async def test_one_entry_per_account_however_many_joins_at_once(redis: Redis, other_redis: Redis) -> None:
    await _open_list(redis)
    stores = store_of(redis), store_of(other_redis)

    joined = await asyncio.gather(*(join(stores[number % 2], 1, sale=SCHEDULED) for number in range(60)))

    assert sum(each.fresh for each in joined) == 1
    assert await redis.zcard(ENTRANTS) == 1


async def _join_while_the_list_is_drawn(redis: Redis) -> Joined:
    store = await _open_list(redis)
    await join(store, 1, sale=SCHEDULED)
    await _close(redis)
    return await join(store, 1)


async def test_an_entrant_who_joins_again_while_the_draw_is_held_has_one_place(redis: Redis) -> None:
    assert (await _join_while_the_list_is_drawn(redis)).standing.in_draw
    assert await redis.zcard(USERS) == 0


async def test_control_without_the_guard_an_entrant_stands_twice(
    redis: Redis, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    guard = "if not record and redis.call('ZSCORE', entrants, user_id) then return held and 'DRAWN' or 'found' end"
    without_guard(monkeypatch, tmp_path, "join", guard)

    await _join_while_the_list_is_drawn(redis)

    assert await redis.zcard(USERS) + await redis.zcard(ENTRANTS) == 2


async def test_nobody_is_called_until_the_draw_is_held(redis: Redis) -> None:
    store = await _open_list(redis)
    await join(store, 1, sale=SCHEDULED)
    assert ((before := await tick(store, SCHEDULED)).needs_draw, before.called) == (False, 0)
    assert not before.is_quiet  # or nobody would be there to find that the sale opens

    await join(store, 2)
    assert ((opening := await tick(store)).needs_draw, opening.called) == (True, 0)
    line, late = await store.read(EVENT, 2)
    assert late
    assert (tell(late, line, OPEN_SALE).position, tell(late, line, OPEN_SALE).sale_state) == (0, SaleState.DRAWING)

    scores = await _hold(redis, [1])
    assert ((held := await tick(store)).needs_draw, held.called) == (False, 2)
    facts = await store.unpublished(EVENT, 9)
    assert [(fact.user_id, fact.score) for fact in facts] == [(1, scores[1]), (2, late.score)]


async def test_who_leaves_an_open_list_is_gone_and_can_enter_again(redis: Redis) -> None:
    store = await _open_list(redis)
    await join(store, 1, sale=SCHEDULED)

    assert await store.leave(EVENT, 1)
    assert not await store.leave(EVENT, 1)
    assert await state(store, 1) is PlaceState.LEFT
    assert await redis.zcard(ENTRANTS) == 0
    assert await store.unpublished(EVENT, 9) == []

    assert (await join(store, 1, sale=SCHEDULED)).fresh
    assert await state(store, 1) is PlaceState.WAITING


async def test_who_leaves_a_closed_list_gives_the_drawn_place_up_and_the_list_stays(redis: Redis) -> None:
    store = await _open_list(redis)
    await join(store, 1, sale=SCHEDULED)
    await _close(redis)

    assert await store.leave(EVENT, 1)

    assert await redis.zcard(ENTRANTS) == 1
    [fact] = await store.unpublished(EVENT, 9)
    assert (fact.kind, fact.score) == (FactKind.LEFT, 0)
    await cast("Any", redis.hset(DRAW, mapping={"held_ms": 1, "key": KEY, "entrant_count": 1}))
    again = await join(store, 1, proof=Proof(0, 5))
    assert (again.outcome, again.standing.score > 1 << 50) == ("joined", True)


async def test_a_pass_chooses_the_lane_of_an_entrant_until_the_list_is_closed(redis: Redis) -> None:
    store = await _open_list(redis)
    await cast(
        "Any",
        redis.hset(
            line_key(EVENT, "policy"), "lanes", '[{"lane":0,"name":"a","weight":1},{"lane":1,"name":"b","weight":1}]'
        ),
    )
    await join(store, 1, sale=SCHEDULED)

    assert (await join(store, 1, sale=SCHEDULED, lane=1)).standing.lane == 1
    await join(store, 2, sale=SCHEDULED)
    await _close(redis)
    with pytest.raises(Drawing):
        await join(store, 2, lane=1)
    assert (await join(store, 1, lane=1)).standing.lane == 1


async def test_a_lost_place_of_the_draw_comes_back_with_what_was_drawn(redis: Redis) -> None:
    store = await _open_list(redis)
    for user in (1, 2, 3):
        await join(store, user, sale=SCHEDULED)
    scores = await _hold(redis, [1, 2, 3])
    await redis.delete(USERS)

    with_proof, without = await join(store, 1, proof=Proof(0, 7)), await join(store, 2)

    assert (with_proof.outcome, with_proof.score, with_proof.standing.join_us) == ("restored", scores[1], 7)
    assert (without.outcome, without.score) == ("restored", scores[2])
    assert (await join(store, 1, proof=Proof(0, 7))).outcome == "found"


async def test_an_entrant_who_comes_back_when_the_list_is_closed_stands_before_all_who_joined_later(
    redis: Redis,
) -> None:
    store = await _open_list(redis)
    asleep = [(await join(store, user, sale=SCHEDULED)).standing.join_us for user in (5, 6)]
    await redis.flushdb()
    await build(redis, is_held=False)
    await join(store, 1, sale=SCHEDULED)
    (drawn,) = (await _hold(redis, [1])).values()
    newcomer = await join(store, 2)
    await join(store, 6)  # by a device without the signed place

    late = [await join(store, user, proof=Proof(0, joined)) for user, joined in zip((5, 6), asleep, strict=True)]

    assert [(each.outcome, each.score) for each in late] == [("restored", asleep[0]), ("found", asleep[1])]
    assert drawn < asleep[0] < asleep[1] < newcomer.score
    assert await redis.zrange(USERS, 0, -1) == [b"1", b"5", b"6", b"2"]
    # Once.
    await store.leave(EVENT, 5)
    assert (await join(store, 5, proof=Proof(0, asleep[0]))).score > newcomer.score


async def test_who_entered_a_line_that_was_not_lost_and_is_not_in_its_list_gave_up(redis: Redis) -> None:
    store = await _open_list(redis)
    entered = (await join(store, 1, sale=SCHEDULED)).standing.join_us
    await join(store, 2, sale=SCHEDULED)
    await redis.zrem(ENTRANTS, "1")
    await _hold(redis, [2])

    again = await join(store, 1, proof=Proof(0, entered))

    assert (again.outcome, again.score > entered) == ("joined", True)


async def test_an_entrant_who_first_joins_without_the_signed_place_enters_the_draw_all_the_same(redis: Redis) -> None:
    store = await _open_list(redis)
    entered = (await join(store, 1, sale=SCHEDULED)).standing.join_us
    await redis.flushdb()
    await build(redis, is_held=False)
    plain = await join(store, 1)  # the sale is open, and so is the list: people come back
    assert not plain.standing.in_draw

    again = await join(store, 1, proof=Proof(0, entered))

    assert (again.outcome, again.standing.in_draw, again.standing.join_us) == ("found", True, entered)
    assert await redis.zcard(USERS) == 0
    assert await redis.zrange(line_key(EVENT, "changed"), 0, -1) == [b"1"]
    # The place that was replaced is not lived beside it.
    assert (await join(store, 1, restore=plain.score)).standing.in_draw
    assert await redis.zcard(USERS) == 0


async def test_control_without_taking_the_plain_place_an_entrant_stands_twice(
    redis: Redis, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    without_guard(monkeypatch, tmp_path, "restore", "redis.call('ZREM', sets[place.lane], user_id)")
    store = await _open_list(redis)
    await join(store, 1)

    await join(store, 1, proof=Proof(0, 7))

    assert await redis.zcard(USERS) + await redis.zcard(ENTRANTS) == 2


async def test_a_listed_entrant_comes_back_to_the_lane_of_the_list(redis: Redis) -> None:
    store = await _open_list(redis)
    await join(store, 1, sale=SCHEDULED)
    scores = await _hold(redis, [1])
    await redis.delete(USERS)
    await cast("Any", redis.hset(line_key(EVENT, "lanes"), "1", "2"))  # as the list, taken over, says

    back = await join(store, 1, proof=Proof(0, 7, lane=0))  # signed before a pass led there

    assert (back.standing.lane, back.score) == (2, scores[1])


@pytest.mark.parametrize("shown", ["nothing", "entered", "drawn"])
async def test_who_was_drawn_can_leave_before_they_are_back_and_for_good(redis: Redis, shown: str) -> None:
    store = await _open_list(redis)
    await join(store, 1, sale=SCHEDULED)
    scores = await _hold(redis, [1])
    await redis.delete(USERS)

    assert await store.leave(EVENT, 1)
    assert not await store.leave(EVENT, 1)

    assert await state(store, 1) is PlaceState.LEFT
    assert [fact.kind for fact in await store.unpublished(EVENT, 9)] == [FactKind.LEFT]
    proofs = {"entered": Proof(0, 7), "drawn": Proof(scores[1], 7)}
    again = await join(store, 1, proof=proofs.get(shown))
    assert (again.outcome, again.score > 1 << 50) == ("joined", True)


async def test_where_the_list_was_lost_a_signed_place_of_the_draw_is_believed(redis: Redis) -> None:
    store = await _open_list(redis)
    await _hold(redis, [])
    await cast("Any", redis.hset(DRAW, "entrant_count", 3))

    restored = await join(store, 1, proof=Proof(0, 7, lane=0))

    assert restored.score == draw.score(KEY, 1)
    await end_restoring(redis)
    await tick(store)
    await store.claim(EVENT, 1)
    await store.leave(EVENT, 1)
    assert (await join(store, 1, proof=Proof(0, 7))).score > 1 << 50


async def test_entrants_of_a_list_that_was_lost_before_the_draw_enter_again(redis: Redis) -> None:
    store = await _open_list(redis)

    entered = await join(store, 1, proof=Proof(0, 7))

    assert (entered.outcome, entered.standing.in_draw, entered.standing.join_us) == ("restored", True, 7)
    assert (after := await tick(store)).restoring
    assert not after.needs_draw  # others may still come back
    await end_restoring(redis)
    assert (await tick(store)).needs_draw
    await _close(redis)
    with pytest.raises(Drawing):
        await join(store, 2, proof=Proof(0, 8))


async def test_another_draw_than_the_remembered_one_is_asked_again(redis: Redis) -> None:
    store = await _open_list(redis)
    await redis.zadd(ENTRANTS, {"1": 5})
    await _hold(redis, [1])
    await join(store, 1)
    await redis.delete(USERS)
    other = b"\x02" * 32
    await cast("Any", redis.hset(DRAW, "key", other))

    assert (await join(store, 1, proof=Proof(0, 5))).score == draw.score(other, 1)
