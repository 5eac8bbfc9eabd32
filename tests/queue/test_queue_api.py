"""QueueService over a real gRPC server, with everything that a process has."""

from __future__ import annotations  # the async stub exists for type checkers only

import asyncio
import logging
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
from boxoffice.inventory.v1 import booking_events_pb2, booking_service_pb2
from boxoffice.queue.v1 import queue_events_pb2 as events_pb
from boxoffice.queue.v1 import queue_service_pb2 as pb
from boxoffice.queue.v1 import queue_service_pb2_grpc as rpc
from prometheus_client import REGISTRY
from pydantic import SecretStr

from services.common import metrics
from services.common.errors import from_rpc_error, from_status
from services.common.eventlog import open_event_log
from services.common.eventlog.topics import BOOKING_EVENTS, QUEUE_EVENTS, SALE_PROGRESS, TOPICS
from services.common.keyring import AdmissionToken
from services.common.lifecycle import Lifecycle, running
from services.common.redis import open_redis
from services.queue import catalog as catalog_module
from services.queue.catalog import EventCatalog
from services.queue.line.domain import EventNotFound
from services.queue.settings import QueueSettings
from services.queue.wiring import wire
from tests.queue.neighbours import (
    ADMISSION_KEYS,
    ADMISSION_RING,
    DRAW_SECRET,
    PLACE_KEYS,
    RECEIPT_KEYS,
    Neighbours,
    bearer,
    neighbours,
    stamp,
)
from tests.support import eventually

EVENT = 7


@pytest.fixture
async def around() -> AsyncIterator[Neighbours]:
    async with neighbours() as servicer:
        yield servicer


@pytest.fixture
def settings(redis_url: str, around: Neighbours) -> QueueSettings:
    return QueueSettings(
        redis_url=redis_url,
        eventlog_url=redis_url,
        inventory_target=around.target,
        auth_target=around.target,
        admission_keys=SecretStr(ADMISSION_KEYS),
        place_keys=SecretStr(PLACE_KEYS),
        draw_secret=SecretStr(DRAW_SECRET),
        receipt_keys=SecretStr(RECEIPT_KEYS),
        queue_inside_cap=1,
        drain_seconds=1,
        # Shorter than any that can be set: no sale here is sold out.
    ).model_copy(update={"queue_restore_grace": timedelta(seconds=1)})


@pytest.fixture
async def stub(settings: QueueSettings) -> AsyncIterator[rpc.QueueServiceAsyncStub]:
    ports: list[int] = []
    async with open_event_log(settings.eventlog_url) as log:
        await log.create_topics(TOPICS)

    async def start(lifecycle: Lifecycle) -> None:
        ports.append(await wire(lifecycle, settings))

    async with running(start, 1.0), grpc.aio.insecure_channel(f"127.0.0.1:{ports[0]}") as channel:
        yield rpc.QueueServiceStub(channel)


async def _join(stub: rpc.QueueServiceAsyncStub, user_id: int, signed_place: str = "") -> pb.JoinQueueResponse:
    request = pb.JoinQueueRequest(event_id=EVENT, signed_place=signed_place)
    return await stub.JoinQueue(request, metadata=bearer(user_id))


async def _place(stub: rpc.QueueServiceAsyncStub, user_id: int) -> pb.Place:
    answer = await stub.GetPlace(pb.GetPlaceRequest(event_id=EVENT), metadata=bearer(user_id))
    return answer.place


async def _called(stub: rpc.QueueServiceAsyncStub, user_id: int) -> pb.Place:
    async def ready() -> pb.Place | None:
        place = await _place(stub, user_id)
        return place if place.state == pb.Place.STATE_READY else None

    place = await eventually(ready)
    assert place
    return place


async def _is_told(stub: rpc.QueueServiceAsyncStub, user_id: int, **expected: Any) -> bool:
    place = await _place(stub, user_id)
    return all(getattr(place, name) == value for name, value in expected.items())


async def _claim(stub: rpc.QueueServiceAsyncStub, user_id: int) -> pb.ClaimPlaceResponse:
    return await stub.ClaimPlace(pb.ClaimPlaceRequest(event_id=EVENT), metadata=bearer(user_id))


async def _refused(call: Any) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call
    return from_rpc_error(refused.value)[0]


async def test_one_sale_from_join_to_ticket(stub: rpc.QueueServiceAsyncStub, settings: QueueSettings) -> None:
    first, second = await _join(stub, 1), await _join(stub, 2)
    assert not first.already_joined
    assert (await _join(stub, 2)).already_joined
    assert second.place.join_time.ToDatetime() > first.place.join_time.ToDatetime()

    place = await _called(stub, 1)
    assert (place.position, place.sale_state) == (0, pb.SALE_STATE_OPEN)
    assert place.claim_expire_time.ToDatetime(UTC) > datetime.now(UTC) + timedelta(minutes=2)
    waiting = await _place(stub, 2)
    assert (waiting.state, waiting.position, waiting.ahead, waiting.total_waiting) == (pb.Place.STATE_WAITING, 1, 0, 1)
    assert waiting.eta_p10_seconds <= waiting.eta_p50_seconds <= waiting.eta_p90_seconds
    assert not waiting.HasField("seats_left")

    claimed, again = await _claim(stub, 1), await _claim(stub, 1)
    assert claimed.admission_token == again.admission_token
    token = AdmissionToken.decode(ADMISSION_RING, claimed.admission_token)
    assert (token.user_id, token.event_id) == (1, EVENT)
    assert token.expire_time_ms == claimed.admission_expire_time.ToMilliseconds()
    assert claimed.place.admission_expire_time == claimed.admission_expire_time

    async with open_event_log(settings.eventlog_url) as log, log.writer() as writer:
        for state in (booking_service_pb2.Booking.STATE_REJECTED, booking_service_pb2.Booking.STATE_CONFIRMED):
            fact = booking_events_pb2.BookingEvent(
                event_id=EVENT, user_id=1, state=state, time=stamp(datetime.now(UTC))
            )
            record = booking_events_pb2.BookingEvents(events=[fact]).SerializeToString()
            await writer.append(BOOKING_EVENTS, str(EVENT), record)
    await _called(stub, 2)
    assert (await _place(stub, 1)).state == pb.Place.STATE_DONE

    facts: list[events_pb.QueueEvent] = []
    async with open_event_log(settings.eventlog_url) as log, log.reader("test", [QUEUE_EVENTS]) as reader:
        async with asyncio.timeout(20):
            while len(facts) < 4:  # a call is told a moment after it is made
                for told in await reader.read(10, timedelta(seconds=1)):
                    facts.extend(events_pb.QueueEvents.FromString(told.value).events)
    assert [fact.place_called.user_id for fact in facts if fact.HasField("place_called")] == [1, 2]
    (done,) = [fact.place_done for fact in facts if fact.HasField("place_done")]
    assert (done.user_id, done.admission_token_id) == (1, token.token_id)


async def test_who_leaves_the_seats_names_the_token_that_ends_with_it(
    stub: rpc.QueueServiceAsyncStub, settings: QueueSettings
) -> None:
    for user_id in (1, 2):
        await _join(stub, user_id)
    await _called(stub, 1)
    claimed = await _claim(stub, 1)
    for user_id in (2, 1):
        await stub.LeaveQueue(pb.LeaveQueueRequest(event_id=EVENT), metadata=bearer(user_id))

    left: list[events_pb.PlaceLeft] = []
    async with open_event_log(settings.eventlog_url) as log, log.reader("test", [QUEUE_EVENTS]) as reader:
        async with asyncio.timeout(1):
            while len(left) < 2:
                for told in await reader.read(10, timedelta(seconds=1)):
                    facts = events_pb.QueueEvents.FromString(told.value).events
                    left.extend(fact.place_left for fact in facts if fact.HasField("place_left"))

    token = AdmissionToken.decode(ADMISSION_RING, claimed.admission_token)
    assert [(each.user_id, each.admission_token_id) for each in left] == [(2, ""), (1, token.token_id)]
    assert left[1].admission_expire_time == claimed.admission_expire_time


async def test_sold_out_is_told_to_all_who_wait_and_ends_their_streams(
    stub: rpc.QueueServiceAsyncStub, settings: QueueSettings
) -> None:
    await _join(stub, 1)
    await _called(stub, 1)
    await _join(stub, 2)
    stream = stub.WatchPlace(pb.WatchPlaceRequest(event_id=EVENT), metadata=bearer(2))
    told = aiter(stream)
    assert (await anext(told)).place.sale_state == pb.SALE_STATE_OPEN

    report = booking_events_pb2.SaleProgress(
        event_id=EVENT, seats_total=3, seats_left=0, seats_sold=3, time=stamp(datetime.now(UTC))
    )
    async with open_event_log(settings.eventlog_url) as log, log.writer() as writer:
        await writer.append(SALE_PROGRESS, str(EVENT), report.SerializeToString())

    news = [answer.place async for answer in told]
    assert (news[-1].state, news[-1].sale_state) == (pb.Place.STATE_WAITING, pb.SALE_STATE_SOLD_OUT)
    assert news[-1].seats_left == 0
    assert await _refused(_join(stub, 3)) == "SOLD_OUT"
    assert (await _join(stub, 2)).already_joined


async def test_a_stream_follows_a_place_to_its_end(stub: rpc.QueueServiceAsyncStub) -> None:
    await _join(stub, 1)
    stream = stub.WatchPlace(pb.WatchPlaceRequest(event_id=EVENT), metadata=bearer(1))
    seen: list[int] = []
    async for answer in stream:
        if not seen or answer.place.state != seen[-1]:
            seen.append(answer.place.state)
        if answer.place.state == pb.Place.STATE_READY:
            await stub.LeaveQueue(pb.LeaveQueueRequest(event_id=EVENT), metadata=bearer(1))

    assert seen[-2:] == [pb.Place.STATE_READY, pb.Place.STATE_LEFT]


async def test_signed_places_restore_only_their_owners_place(stub: rpc.QueueServiceAsyncStub) -> None:
    first, second = await _join(stub, 1), await _join(stub, 2)
    for user_id, signed in ((3, second.signed_place), (2, second.signed_place[:-2]), (2, "x")):
        assert await _refused(_join(stub, user_id, signed)) == "PLACE_INVALID"
    await stub.LeaveQueue(pb.LeaveQueueRequest(event_id=EVENT), metadata=bearer(1))

    again = await _join(stub, 1, first.signed_place)

    assert again.place.join_time.ToDatetime() > second.place.join_time.ToDatetime()


async def test_a_line_that_redis_lost_moves_on_when_people_come_back(
    stub: rpc.QueueServiceAsyncStub, redis_url: str
) -> None:
    await _join(stub, 1)
    async with open_redis(redis_url) as redis:  # what is lost is the line: here, the log is kept in the same database
        await redis.delete("queue:active", *await redis.keys(f"queue:{{{EVENT}}}:*"))

    # They come back at once, and then nobody new joins: watching and asking alone must keep the line going.
    await asyncio.gather(*(_join(stub, user_id) for user_id in (2, 3)))
    # Who had been called still is, and has the one slot.
    await stub.LeaveQueue(pb.LeaveQueueRequest(event_id=EVENT), metadata=bearer(1))

    async def called() -> bool:
        return pb.Place.STATE_READY in [(await _place(stub, user_id)).state for user_id in (2, 3)]

    assert await eventually(called, timedelta(seconds=15))


async def test_refusals_have_reasons_of_the_catalogue(stub: rpc.QueueServiceAsyncStub) -> None:
    assert await _refused(stub.JoinQueue(pb.JoinQueueRequest(event_id=8), metadata=bearer(1))) == "EVENT_NOT_FOUND"
    assert await _refused(stub.GetPlace(pb.GetPlaceRequest(event_id=8), metadata=bearer(1))) == "EVENT_NOT_FOUND"
    assert await _refused(stub.ClaimPlace(pb.ClaimPlaceRequest(event_id=8), metadata=bearer(1))) == "PLACE_NOT_FOUND"
    assert await _refused(_place(stub, 9)) == "PLACE_NOT_FOUND"
    watched = stub.WatchPlace(pb.WatchPlaceRequest(event_id=EVENT), metadata=bearer(9))
    assert await _refused(anext(aiter(watched))) == "PLACE_NOT_FOUND"
    assert await _refused(stub.JoinQueue(pb.JoinQueueRequest(), metadata=bearer(1))) == "INVALID_ARGUMENT"
    assert await _refused(stub.JoinQueue(pb.JoinQueueRequest(event_id=EVENT))) == "UNAUTHENTICATED"
    await _join(stub, 1)
    await _join(stub, 2)
    await _called(stub, 1)
    assert await _refused(_claim(stub, 2)) == "PLACE_NOT_READY"


async def test_only_operators_change_the_policy_and_every_change_is_audited(
    stub: rpc.QueueServiceAsyncStub, caplog: pytest.LogCaptureFixture
) -> None:
    hold = pb.UpdateQueuePolicyRequest(event_id=EVENT, mode=pb.QueuePolicy.MODE_HOLD, rate_per_second=3.5)
    assert await _refused(stub.UpdateQueuePolicy(hold, metadata=bearer(1, "organizer"))) == "PERMISSION_DENIED"

    with caplog.at_level(logging.INFO, logger="boxoffice.audit"):
        changed = await stub.UpdateQueuePolicy(hold, metadata=bearer(99, "operator"))

    assert (changed.policy.mode, changed.policy.rate_per_second) == (pb.QueuePolicy.MODE_HOLD, 3.5)
    assert (changed.policy.inside_cap, changed.policy.admission_seconds) == (1, 600)
    fields = [record.__dict__["fields"] for record in caplog.records if record.name == "boxoffice.audit"]
    assert [(each["user_id"], each["before"]["mode"], each["after"]["mode"]) for each in fields] == [
        (99, "OPEN", "HOLD")
    ]
    assert (fields[0]["before"]["rate_per_second"], fields[0]["after"]["rate_per_second"]) == (50.0, 3.5)
    await _join(stub, 1)
    assert await eventually(lambda: _is_told(stub, 1, sale_state=pb.SALE_STATE_HELD))  # after the draw
    read = await stub.GetQueuePolicy(pb.GetQueuePolicyRequest(event_id=EVENT), metadata=bearer(99, "operator"))
    assert read.policy == changed.policy
    for wrong in ({"inside_cap": 0}, {"rate_per_second": 0.01}, {"claim_window_seconds": 5}, {"mode": 0}, {"mode": 77}):
        request = pb.UpdateQueuePolicyRequest(event_id=EVENT, **wrong)
        assert await _refused(stub.UpdateQueuePolicy(request, metadata=bearer(99, "operator"))) == "INVALID_ARGUMENT"


def _lanes(*weights: int) -> pb.Lanes:
    return pb.Lanes(lanes=[pb.Lane(lane=lane, name=f"lane {lane}", weight=each) for lane, each in enumerate(weights)])


async def test_an_operator_makes_lanes_and_passes_and_a_pass_moves_a_place(
    stub: rpc.QueueServiceAsyncStub, caplog: pytest.LogCaptureFixture
) -> None:
    operator = bearer(99, "operator")
    ask = pb.IssueLanePassesRequest(event_id=EVENT, lane=1, user_ids=[1, 2])
    assert await _refused(stub.IssueLanePasses(ask, metadata=bearer(1))) == "PERMISSION_DENIED"
    assert await _refused(stub.IssueLanePasses(ask, metadata=operator)) == "INVALID_ARGUMENT"
    change = pb.UpdateQueuePolicyRequest(event_id=EVENT, mode=pb.QueuePolicy.MODE_HOLD, lanes=_lanes(1, 5))
    changed = await stub.UpdateQueuePolicy(change, metadata=operator)
    assert changed.policy.lanes == _lanes(1, 5).lanes

    with caplog.at_level(logging.INFO, logger="boxoffice.audit"):
        issued = (await stub.IssueLanePasses(ask, metadata=operator)).passes
    assert [each.user_id for each in issued] == [1, 2]
    assert [record.__dict__["fields"]["passes"] for record in caplog.records if record.name == "boxoffice.audit"] == [2]
    first = await _join(stub, 1)

    request = pb.JoinQueueRequest(event_id=EVENT, lane_pass=issued[0].lane_pass)
    moved = await stub.JoinQueue(request, metadata=bearer(1))

    assert (moved.already_joined, moved.place.lane, moved.place.lane_name) == (True, 1, "lane 1")
    assert (moved.place.score, moved.place.join_time) == (first.place.score, first.place.join_time)
    stolen = pb.JoinQueueRequest(event_id=EVENT, lane_pass=issued[1].lane_pass)
    assert await _refused(stub.JoinQueue(stolen, metadata=bearer(3))) == "LANE_PASS_INVALID"
    gone = pb.UpdateQueuePolicyRequest(event_id=EVENT, lanes=_lanes(1))
    assert await _refused(stub.UpdateQueuePolicy(gone, metadata=operator)) == "INVALID_ARGUMENT"
    for lane, users in ((0, [1]), (2, [1]), (1, []), (1, list(range(1, 1_002)))):
        bad = pb.IssueLanePassesRequest(event_id=EVENT, lane=lane, user_ids=users)
        assert await _refused(stub.IssueLanePasses(bad, metadata=operator)) == "INVALID_ARGUMENT"


async def test_before_the_opening_people_are_in_a_draw_of_which_they_learn_nothing(
    stub: rpc.QueueServiceAsyncStub, around: Neighbours
) -> None:
    around.events[EVENT].sale_open_time.FromDatetime(datetime.now(UTC) + timedelta(hours=1))

    joined = [await _join(stub, user) for user in (1, 2)]

    for each in joined:
        place = each.place
        assert (place.position, place.ahead, place.score, place.in_draw) == (0, 0, 0, True)
        assert place.sale_state == pb.SALE_STATE_SCHEDULED
    assert (await _join(stub, 2, joined[1].signed_place)).already_joined


async def test_what_inventory_said_last_stands_while_it_is_away(around: Neighbours) -> None:
    from boxoffice.inventory.v1 import event_service_pb2_grpc as inventory_rpc

    now = 0.0
    async with grpc.aio.insecure_channel(around.target) as channel:
        catalog = EventCatalog(inventory_rpc.EventServiceStub(channel), lambda: now)
        sales = await asyncio.gather(*(catalog.sale(EVENT) for _ in range(50)))
        assert around.asked == 1

        around.away = True
        now = 60.0
        assert await catalog.sale(EVENT) == sales[0]
        assert around.asked == 2
        with pytest.raises(Exception, match="looked up") as unknown:
            await catalog.sale(8)
        assert getattr(unknown.value, "reason", "") == "UNAVAILABLE"

        around.away = False
        around.events[EVENT].sale_close_time.FromDatetime(datetime.now(UTC) + timedelta(days=1))
        now = 62.0
        assert (await catalog.sale(EVENT)).close_time > sales[0].close_time


async def test_made_up_events_push_out_no_real_one(around: Neighbours, monkeypatch: pytest.MonkeyPatch) -> None:
    from boxoffice.inventory.v1 import event_service_pb2_grpc as inventory_rpc

    for size in ("_MAX_EVENTS", "_MAX_MADE_UP"):
        monkeypatch.setattr(catalog_module, size, 2)
    now = 0.0
    async with grpc.aio.insecure_channel(around.target) as channel:
        catalog = EventCatalog(inventory_rpc.EventServiceStub(channel), lambda: now)
        # A real one is remembered for as long as it takes, also when it was asked for before there was such an event.
        hidden = around.events.pop(EVENT)
        with pytest.raises(EventNotFound):
            await catalog.sale(EVENT)
        around.events[EVENT], now = hidden, 60.0
        sale = await catalog.sale(EVENT)
        for made_up in range(1_000, 1_010):
            with pytest.raises(EventNotFound):
                await catalog.sale(made_up)
        around.away, now = True, 120.0
        assert await catalog.sale(EVENT) == sale
        assert len(catalog._made_up) <= 2


async def test_a_batch_answers_each_item_for_its_own_account(stub: rpc.QueueServiceAsyncStub) -> None:
    def join(event_id: int, user_id: int) -> pb.BatchJoinQueueItem:
        return pb.BatchJoinQueueItem(request=pb.JoinQueueRequest(event_id=event_id), user_id=user_id)

    batch = pb.BatchJoinQueueRequest(items=[join(EVENT, 5), join(EVENT + 1, 5), join(0, 5), join(EVENT, 6)])
    first, unknown, empty, second = (await stub.BatchJoinQueue(batch)).results
    assert [_reason_of(result) for result in (first, unknown, empty, second)] == [
        "",
        "EVENT_NOT_FOUND",
        "INVALID_ARGUMENT",
        "",
    ]
    # In the order of the items.
    assert first.response.place.join_time.ToDatetime() < second.response.place.join_time.ToDatetime()

    request = pb.GetPlaceRequest(event_id=EVENT)
    items = [pb.BatchGetPlaceItem(request=request, user_id=user_id) for user_id in (6, 9, 5)]
    sixth, nobody, fifth = (await stub.BatchGetPlace(pb.BatchGetPlaceRequest(items=items))).results
    assert _reason_of(nobody) == "PLACE_NOT_FOUND"
    joined = [result.response.place.join_time for result in (second, first)]
    assert [result.response.place.join_time for result in (sixth, fifth)] == joined


async def test_an_account_that_cannot_be_is_refused_alone(stub: rpc.QueueServiceAsyncStub) -> None:
    request = pb.JoinQueueRequest(event_id=EVENT)
    users = [5, 0, -1, 2**53, 2**62, 2**53 - 1]
    items = [pb.BatchJoinQueueItem(request=request, user_id=user_id) for user_id in users]
    results = (await stub.BatchJoinQueue(pb.BatchJoinQueueRequest(items=items))).results
    assert [_reason_of(result) for result in results] == ["", *["INVALID_ARGUMENT"] * 4, ""]
    assert results[-1].response.place.total_waiting == 2

    lanes = pb.Lanes(lanes=[pb.Lane(lane=0, name="general", weight=1), pb.Lane(lane=1, name="fans", weight=1)])
    operator = bearer(99, "operator")
    await stub.UpdateQueuePolicy(pb.UpdateQueuePolicyRequest(event_id=EVENT, lanes=lanes), metadata=operator)
    for user_id in users[1:-1]:
        passes = pb.IssueLanePassesRequest(event_id=EVENT, lane=1, user_ids=[5, user_id])
        assert await _refused(stub.IssueLanePasses(passes, metadata=operator)) == "INVALID_ARGUMENT"


@pytest.mark.parametrize("number", [0, 257])
async def test_a_batch_has_bounds(stub: rpc.QueueServiceAsyncStub, number: int) -> None:
    item = pb.BatchGetPlaceItem(request=pb.GetPlaceRequest(event_id=EVENT), user_id=1)
    call = stub.BatchGetPlace(pb.BatchGetPlaceRequest(items=[item] * number))
    assert await _refused(call) == "INVALID_ARGUMENT"


def _reason_of(result: pb.BatchJoinQueueResult | pb.BatchGetPlaceResult) -> str:
    return from_status(result.error)[0] if result.HasField("error") else ""


async def test_it_tells_how_far_behind_its_reading_is(settings: QueueSettings) -> None:
    async def start(lifecycle: Lifecycle) -> None:
        await wire(lifecycle, settings)

    def told() -> list[float | None]:
        labels = [{"group": "queue", "topic": topic} for topic in (BOOKING_EVENTS, SALE_PROGRESS)]
        return [REGISTRY.get_sample_value("boxoffice_eventlog_lag", each) for each in labels]

    async with open_event_log(settings.eventlog_url) as log:
        await log.create_topics(TOPICS)
    metrics.EVENTLOG_LAG.clear()
    async with running(start, 1.0):
        await eventually(lambda: told() == [0.0, 0.0], timedelta(seconds=20))
