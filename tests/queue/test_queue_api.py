"""QueueService over a real gRPC server, with everything that a process has."""

from __future__ import annotations  # the async stub exists for type checkers only

import asyncio
from datetime import UTC, datetime, timedelta

from boxoffice.inventory.v1 import booking_events_pb2, booking_service_pb2
from boxoffice.queue.v1 import queue_events_pb2 as events_pb
from boxoffice.queue.v1 import queue_service_pb2 as pb
from boxoffice.queue.v1 import queue_service_pb2_grpc as rpc

from services.common.eventlog import open_event_log
from services.common.eventlog.topics import BOOKING_EVENTS, QUEUE_EVENTS, SALE_PROGRESS
from services.common.keyring import AdmissionToken
from services.common.redis import open_redis
from services.queue.settings import QueueSettings
from tests.queue.calls import EVENT, claim, join, place_of, refused, when_called
from tests.queue.neighbours import ADMISSION_RING, Neighbours, bearer, stamp
from tests.support import eventually


async def test_one_sale_from_join_to_ticket(stub: rpc.QueueServiceAsyncStub, settings: QueueSettings) -> None:
    first, second = await join(stub, 1), await join(stub, 2)
    assert not first.already_joined
    assert (await join(stub, 2)).already_joined
    assert second.place.join_time.ToDatetime() > first.place.join_time.ToDatetime()

    place = await when_called(stub, 1)
    assert (place.position, place.sale_state) == (0, pb.SALE_STATE_OPEN)
    assert place.claim_expire_time.ToDatetime(UTC) > datetime.now(UTC) + timedelta(minutes=2)
    waiting = await place_of(stub, 2)
    assert (waiting.state, waiting.position, waiting.ahead, waiting.total_waiting) == (pb.Place.STATE_WAITING, 1, 0, 1)
    assert waiting.eta_p10_seconds <= waiting.eta_p50_seconds <= waiting.eta_p90_seconds
    assert not waiting.HasField("seats_left")

    claimed, again = await claim(stub, 1), await claim(stub, 1)
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
    await when_called(stub, 2)
    assert (await place_of(stub, 1)).state == pb.Place.STATE_DONE

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
        await join(stub, user_id)
    await when_called(stub, 1)
    claimed = await claim(stub, 1)
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
    await join(stub, 1)
    await when_called(stub, 1)
    await join(stub, 2)
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
    assert await refused(join(stub, 3)) == "SOLD_OUT"
    assert (await join(stub, 2)).already_joined


async def test_a_stream_follows_a_place_to_its_end(stub: rpc.QueueServiceAsyncStub) -> None:
    await join(stub, 1)
    stream = stub.WatchPlace(pb.WatchPlaceRequest(event_id=EVENT), metadata=bearer(1))
    seen: list[int] = []
    async for answer in stream:
        if not seen or answer.place.state != seen[-1]:
            seen.append(answer.place.state)
        if answer.place.state == pb.Place.STATE_READY:
            await stub.LeaveQueue(pb.LeaveQueueRequest(event_id=EVENT), metadata=bearer(1))

    assert seen[-2:] == [pb.Place.STATE_READY, pb.Place.STATE_LEFT]


async def test_signed_places_restore_only_their_owners_place(stub: rpc.QueueServiceAsyncStub) -> None:
    first, second = await join(stub, 1), await join(stub, 2)
    for user_id, signed in ((3, second.signed_place), (2, second.signed_place[:-2]), (2, "x")):
        assert await refused(join(stub, user_id, signed)) == "PLACE_INVALID"
    await stub.LeaveQueue(pb.LeaveQueueRequest(event_id=EVENT), metadata=bearer(1))

    again = await join(stub, 1, first.signed_place)

    assert again.place.join_time.ToDatetime() > second.place.join_time.ToDatetime()


async def test_a_line_that_redis_lost_moves_on_when_people_come_back(
    stub: rpc.QueueServiceAsyncStub, redis_url: str
) -> None:
    await join(stub, 1)
    async with open_redis(redis_url) as redis:  # what is lost is the line: here, the log is kept in the same database
        await redis.delete("queue:active", *await redis.keys(f"queue:{{{EVENT}}}:*"))

    # They come back at once, and then nobody new joins: watching and asking alone must keep the line going.
    await asyncio.gather(*(join(stub, user_id) for user_id in (2, 3)))
    # Who had been called still is, and has the one slot.
    await stub.LeaveQueue(pb.LeaveQueueRequest(event_id=EVENT), metadata=bearer(1))

    async def called() -> bool:
        return pb.Place.STATE_READY in [(await place_of(stub, user_id)).state for user_id in (2, 3)]

    assert await eventually(called, timedelta(seconds=15))


async def test_refusals_have_reasons_of_the_catalogue(stub: rpc.QueueServiceAsyncStub) -> None:
    assert await refused(stub.JoinQueue(pb.JoinQueueRequest(event_id=8), metadata=bearer(1))) == "EVENT_NOT_FOUND"
    assert await refused(stub.GetPlace(pb.GetPlaceRequest(event_id=8), metadata=bearer(1))) == "EVENT_NOT_FOUND"
    assert await refused(stub.ClaimPlace(pb.ClaimPlaceRequest(event_id=8), metadata=bearer(1))) == "PLACE_NOT_FOUND"
    assert await refused(place_of(stub, 9)) == "PLACE_NOT_FOUND"
    watched = stub.WatchPlace(pb.WatchPlaceRequest(event_id=EVENT), metadata=bearer(9))
    assert await refused(anext(aiter(watched))) == "PLACE_NOT_FOUND"
    assert await refused(stub.JoinQueue(pb.JoinQueueRequest(), metadata=bearer(1))) == "INVALID_ARGUMENT"
    assert await refused(stub.JoinQueue(pb.JoinQueueRequest(event_id=EVENT))) == "UNAUTHENTICATED"
    await join(stub, 1)
    await join(stub, 2)
    await when_called(stub, 1)
    assert await refused(claim(stub, 2)) == "PLACE_NOT_READY"


async def test_before_the_opening_people_are_in_a_draw_of_which_they_learn_nothing(
    stub: rpc.QueueServiceAsyncStub, around: Neighbours
) -> None:
    around.events[EVENT].sale_open_time.FromDatetime(datetime.now(UTC) + timedelta(hours=1))

    joined = [await join(stub, user) for user in (1, 2)]

    for each in joined:
        place = each.place
        assert (place.position, place.ahead, place.score, place.in_draw) == (0, 0, 0, True)
        assert place.sale_state == pb.SALE_STATE_SCHEDULED
    assert (await join(stub, 2, joined[1].signed_place)).already_joined
