"""Who gave an admission up reserves nothing with its token any more, however the two race."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from boxoffice.queue.v1 import queue_events_pb2 as queue_pb

from services.common.eventlog import Record, topics
from services.common.keyring import AdmissionToken
from services.common.lua import Script
from services.common.mysql import Database
from services.inventory import holds as holds_module
from services.inventory.domain import AdmissionInvalid
from services.inventory.holds import HoldOutcome, key
from services.inventory.revocations import Revocation, Revocations
from services.inventory.wishes import Wish
from tests.inventory.desk import KEYS, Desk, open_desk

GUARD = "if redis.call('ZSCORE', revoked, token_id) then"


@pytest.fixture
async def desk(inventory_db: Database, redis_url: str) -> AsyncIterator[Desk]:
    async with open_desk(inventory_db, redis_url) as opened:
        yield opened


def _token(wish: Wish) -> AdmissionToken:
    return AdmissionToken.decode(KEYS, wish.admission_token)


def given_up(wish: Wish, *, bought: bool = False, lasts: timedelta = timedelta(minutes=5)) -> Record:
    """What queue tells when the owner of the admission leaves, or has bought."""
    fact = queue_pb.QueueEvent(id="7-1-0", event_id=wish.event_id)
    ended = fact.place_done if bought else fact.place_left
    ended.user_id, ended.admission_token_id = wish.user_id, _token(wish).token_id
    ended.admission_expire_time.FromDatetime(datetime.now(UTC) + lasts)
    record = queue_pb.QueueEvents(events=[fact]).SerializeToString()
    return Record(topics.QUEUE_EVENTS, str(wish.event_id), record)


@pytest.mark.parametrize("bought", [False, True])
async def test_the_token_of_who_left_or_has_bought_is_refused_and_those_of_others_are_good(
    desk: Desk, *, bought: bool
) -> None:
    left, stays = desk.wish(1, 0), desk.wish(2, 0)
    await Revocations(desk.redis).handle([given_up(left, bought=bought)])

    refused, held = await desk.reservations.reserve_many([left, stays])

    assert isinstance(refused, AdmissionInvalid)
    assert isinstance(held, HoldOutcome)


async def test_best_seats_are_refused_too_and_a_repeat_has_its_first_answer(desk: Desk) -> None:
    before, after = desk.wish(1, best=1), desk.wish(1, best=1, key="key-00002")
    (first,) = await desk.reservations.reserve_many([before])
    revoked = Revocations(desk.redis)
    await revoked.handle([given_up(before), given_up(after)])

    again, refused = await desk.reservations.reserve_many([before, after])

    assert isinstance(first, HoldOutcome)
    assert isinstance(again, HoldOutcome)
    assert (again.booking.booking_id, again.repeat) == (first.booking.booking_id, True)
    assert isinstance(refused, AdmissionInvalid)


async def test_what_is_kept_ends_with_the_tokens(desk: Desk) -> None:
    over, left = desk.wish(1, 0), desk.wish(2, 0)
    await Revocations(desk.redis).handle([given_up(over, lasts=timedelta(minutes=-5)), given_up(left)])
    name = key(desk.event_id, "revoked")
    assert await desk.redis.zrange(name, 0, -1) == [_token(left).token_id.encode()]

    await desk.redis.zadd(name, {_token(left).token_id: 1})
    await Revocations(desk.redis).revoke([Revocation(desk.event_id, "00" * 8, datetime.now(UTC))])
    assert await desk.redis.zrange(name, 0, -1) == [b"00" * 8]
    assert 0 < await desk.redis.ttl(name) <= 900


async def _held_after_leaving(desk: Desk) -> int:
    """Someone with a good token asks for seat after seat while the admission ends; counts what is held after that."""
    wishes = [desk.wish(1, seat, key=f"key-{seat:05}") for seat in range(40)]
    wishes = [replace(each, admission_token=wishes[0].admission_token) for each in wishes]
    ended = asyncio.Event()
    late = 0

    async def buy(each: Wish) -> None:
        nonlocal late
        came_late = ended.is_set()
        (outcome,) = await desk.reservations.reserve_many([each])
        late += came_late and isinstance(outcome, HoldOutcome)

    async def leave() -> None:
        await Revocations(desk.redis).handle([given_up(wishes[0])])
        ended.set()

    leaving = asyncio.create_task(leave())
    while not ended.is_set():
        await asyncio.gather(*map(buy, wishes[:2]))
    await leaving
    await asyncio.gather(*map(buy, wishes[2:]))
    return late


async def test_nothing_is_held_once_the_admission_is_known_to_have_ended(desk: Desk) -> None:
    assert await _held_after_leaving(desk) == 0


async def test_control_without_the_look_who_left_goes_on_holding(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    source = (holds_module._LUA / "hold.lua").read_text()
    assert source.count(GUARD) == 1
    (tmp_path / "hold.lua").write_text(source.replace(GUARD, "if false then"))
    monkeypatch.setattr(desk.holds, "_hold", Script.load(tmp_path / "hold.lua"))

    assert await _held_after_leaving(desk) > 0
