"""Following a place: told from digests, at the price of one look for each who comes."""

import asyncio
import itertools
import json
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from boxoffice.queue.v1 import queue_service_pb2 as pb
from google.protobuf.timestamp_pb2 import Timestamp
from prometheus_client import REGISTRY

from edge import streams
from edge.line import feed, lines, places, subscription
from edge.line.digest import LineView
from services.common import draw, errors
from tests.edge.lines import (
    STREAM,
    FakeQueue,
    PlaceNotFound,
    digest_of,
    following,
    forecast,
    lane_of,
    look,
    ready,
    score_of,
    waiting,
)
from tests.edge.world import bearer, world
from tests.support import eventually

_KEY = bytes(range(32))


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds of ticks and questions pass fifty times as fast."""
    monkeypatch.setattr(feed, "_INTERVAL", 0.02)
    monkeypatch.setattr(places, "_AGES", {cause: age / 50 for cause, age in places._AGES.items()})


@pytest.fixture
async def queue(fast: None) -> AsyncIterator[FakeQueue]:  # noqa: ARG001 - fixtures cannot use others otherwise
    async with world() as edge:
        playing = FakeQueue(edge)
        playing.play()
        yield playing


async def _opened(queue: FakeQueue, user_id: int = 1) -> None:
    """Has the line followed: somebody has looked, and a digest has come."""
    await look(queue.edge, user_id)
    await eventually(lambda: queue.streams == 1)
    await asyncio.sleep(0.05)


async def test_the_first_event_is_the_place_now_and_the_next_is_its_news(queue: FakeQueue) -> None:
    people = range(1, 101)
    await queue.publish(digest_of(lane_of(people)))
    async with following(queue.edge, 50) as follower:
        first = await follower.place()
        assert (first["state"], first["position"], first["total_waiting"]) == ("WAITING", 50, 100)
        await queue.publish(digest_of(lane_of(people[10:], watermark=score_of(10))))
        second = await follower.place()
        assert (second["position"], second["ahead"], second["total_waiting"]) == (40, 39, 90)
        assert second["eta_p50_seconds"] == 80


async def test_watching_costs_one_look_each_however_long(queue: FakeQueue) -> None:
    people = range(1, 301)
    await queue.publish(digest_of(lane_of(people)))
    await _opened(queue)
    async with AsyncExitStack() as stack:
        watchers = range(51, 251)
        followers = [await stack.enter_async_context(following(queue.edge, user_id)) for user_id in watchers]
        for follower in followers:
            await follower.place()
        for tick in range(1, 11):
            await queue.publish(digest_of(lane_of(people[tick:], watermark=score_of(tick))))
            told = await asyncio.gather(*(follower.place() for follower in followers))
            assert [place["position"] for place in told] == [user_id - tick for user_id in watchers]
    assert max(queue.looks.values()) == 1
    assert queue.batches <= len(queue.looks)
    assert queue.streams == 1


async def test_what_is_no_news_is_not_told(queue: FakeQueue) -> None:
    people = range(1, 101)
    await queue.publish(digest_of(lane_of(people, odds=0.5)))
    await _opened(queue)
    async with following(queue.edge, 50) as follower:
        await follower.place()
        for _ in range(3):
            # Nearly the same forecast is none.
            await queue.publish(digest_of(lane_of(people, odds=0.55, per_person=2.2)))
            await asyncio.sleep(0.1)
        await queue.publish(digest_of(lane_of(people, odds=0.55, per_person=2.2), seats_left=3))
        told = await follower.event()
        assert (told.id, json.loads(told.data)["place"]["seats_left"]) == ("2", 3)


async def test_another_forecast_alone_is_news(queue: FakeQueue) -> None:
    people = range(1, 101)
    await queue.publish(digest_of(lane_of(people, odds=0.5)))
    await _opened(queue)
    async with following(queue.edge, 50) as follower:
        assert (await follower.place())["eta_p50_seconds"] == 100
        # An organizer turned the rate down, or the shop slowed down; nobody moves.
        await queue.publish(digest_of(lane_of(people, odds=0.5, per_person=150)))
        told = await follower.place()
        assert (told["position"], told["eta_p50_seconds"], told["eta_p90_seconds"]) == (50, 7_500, 15_000)
        await queue.publish(digest_of(lane_of(people, odds=0.3, per_person=150)))
        assert (await follower.place())["odds"] == 0.3
        # What was told is told once.
        with pytest.raises(TimeoutError):
            await follower.event(0.3)


async def test_another_forecast_is_news_in_the_draw(queue: FakeQueue) -> None:
    queue.places[9] = waiting(9, 0, score=0, in_draw=True)
    scheduled = {"sale_state": pb.SALE_STATE_SCHEDULED, "total_waiting": 1}
    await queue.publish(digest_of(lane_of([]), in_draw=forecast(50), **scheduled))
    await _opened(queue)
    async with following(queue.edge, 9) as follower:
        assert (await follower.place())["eta_p50_seconds"] == 100
        await queue.publish(digest_of(lane_of([]), in_draw=forecast(50, 3.0), **scheduled))
        assert (await follower.place())["eta_p50_seconds"] == 150


async def test_who_is_called_hears_of_it(queue: FakeQueue) -> None:
    await queue.publish(digest_of(lane_of(range(1, 101))))
    async with following(queue.edge, 2) as follower, following(queue.edge, 3) as behind:
        await follower.place()
        await behind.place()
        looks = queue.looks[3]
        queue.places[2] = ready(2)
        await queue.publish(digest_of(lane_of(range(3, 101), watermark=score_of(2))))
        told = await follower.place()
        assert (told["state"], told["position"]) == ("READY", 0)
        assert "claim_expire_time" in told
        assert (await behind.place())["position"] == 1
        # Only who is below the watermark was asked for.
        assert queue.looks[3] == looks


async def test_control_without_the_watermark_nobody_hears_of_a_call(
    queue: FakeQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ignorant(known: places.Known, view: LineView) -> places.Standing:
        # Without a front, too: that someone is not in it would also be a reason to ask.
        for number, lane in view.lanes.items():
            scores = replace(lane.scores, front=[], samples=[], sample_positions=[])
            view.lanes[number] = replace(lane, watermark=0, scores=scores)
        return stand(known, view)

    stand = places.stand
    monkeypatch.setattr(feed, "stand", ignorant)
    await queue.publish(digest_of(lane_of(range(1, 101))))
    await _opened(queue)
    async with following(queue.edge, 2) as follower:
        await follower.place()
        queue.places[2] = ready(2)
        await queue.publish(digest_of(lane_of(range(3, 101), watermark=score_of(2))))
        assert (await follower.place())["state"] == "WAITING"
        with pytest.raises(TimeoutError):
            await follower.event(0.5)


async def test_who_is_inside_is_asked_for_now_and_then(queue: FakeQueue) -> None:
    queue.places[2] = ready(2)
    digest = digest_of(lane_of(range(3, 101), watermark=score_of(2)))
    await queue.publish(digest)
    async with following(queue.edge, 2) as follower:
        assert (await follower.place())["state"] == "READY"
        queue.places[2] = waiting(2, 0, state=pb.Place.STATE_EXPIRED)
        await asyncio.sleep(0.05)
        await queue.publish(digest)
        assert (await follower.place())["state"] == "EXPIRED"
        assert await follower.rest() == []


async def test_who_missed_a_call_waits_on_and_hears_of_the_next(queue: FakeQueue) -> None:
    again = waiting(2, 1, call_again_time=Timestamp(seconds=1_900_000_000))
    queue.places[2] = again
    digest = digest_of(lane_of(range(3, 101), watermark=score_of(2)))
    await queue.publish(digest)
    async with following(queue.edge, 2) as follower:
        told = await follower.place()
        assert (told["state"], told["position"], told["call_again_time"]) == ("WAITING", 1, "2030-03-17T17:46:40Z")
        queue.places[2] = ready(2)
        await queue.publish(digest)
        await asyncio.sleep(0.05)
        await queue.publish(digest)
        assert (await follower.place())["state"] == "READY"


async def test_who_is_named_as_changed_is_asked_for(queue: FakeQueue) -> None:
    people = range(1, 3_001)
    await queue.publish(digest_of(lane_of(people)))
    async with following(queue.edge, 2_000) as follower, following(queue.edge, 2_500) as other:
        assert abs((await follower.place())["position"] - 2_000) <= 6
        await other.place()
        queue.places[2_000] = waiting(2_000, 0, state=pb.Place.STATE_LEFT)
        await asyncio.sleep(0.05)
        await queue.publish(digest_of(lane_of(people[:-1]), changed_user_ids=[2_000]))
        assert (await follower.place())["state"] == "LEFT"
        assert await follower.rest() == []
        await other.place()
    assert queue.looks[2_500] <= 2


async def test_another_life_of_the_line_makes_everyone_be_asked_for(queue: FakeQueue) -> None:
    people = range(1, 101)
    await queue.publish(digest_of(lane_of(people)))
    await _opened(queue)
    async with following(queue.edge, 50) as lost, following(queue.edge, 60) as restored:
        await lost.place()
        await restored.place()
        queue.places[50] = PlaceNotFound()
        await queue.publish(digest_of(lane_of([60]), incarnation=6, sale_state=pb.SALE_STATE_RESTORING))
        problem = await lost.event()
        assert (problem.event, json.loads(problem.data)["code"]) == ("problem", "PLACE_NOT_FOUND")
        assert await lost.rest() == []
        told = await restored.place()
        assert (told["position"], told["sale_state"]) == (1, "RESTORING")
    assert (queue.looks[50], queue.looks[60]) == (2, 2)


async def test_a_line_that_is_not_built_is_told_as_restoring(queue: FakeQueue) -> None:
    await queue.publish(digest_of(incarnation=0, sale_state=pb.SALE_STATE_OPEN))
    async with following(queue.edge, 50) as follower:
        told = await follower.place()
        if told["sale_state"] == "OPEN":  # the answer of queue, before the first digest
            told = await follower.place()
        assert (told["position"], told["sale_state"]) == (50, "RESTORING")


async def test_the_draw_gives_everyone_a_place_without_a_look(queue: FakeQueue) -> None:
    entrants = sorted(range(1, 201), key=lambda user_id: draw.score(_KEY, user_id))
    queue.places |= {user_id: waiting(user_id, 0, score=0, in_draw=True) for user_id in entrants}
    drawing = {"sale_state": pb.SALE_STATE_SCHEDULED, "in_draw": forecast(0), "total_waiting": 200}
    await queue.publish(digest_of(lane_of([]), **drawing))
    await _opened(queue)
    async with AsyncExitStack() as stack:
        followers = {user: await stack.enter_async_context(following(queue.edge, user)) for user in range(2, 42)}
        for follower in followers.values():
            told = await follower.place()
            assert (told["in_draw"], told["position"], told["score"]) == (True, 0, 0)
        lane = lane_of([])
        lane.front.extend(draw.score(_KEY, user_id) for user_id in entrants)
        lane.waiting = 200
        lane.forecast.extend([forecast(1), forecast(200)])
        await queue.publish(digest_of(lane, draw_key=_KEY, total_waiting=200))
        for user_id, follower in followers.items():
            told = await follower.place()
            assert (told["in_draw"], told["score"]) == (False, draw.score(_KEY, user_id))
            assert told["position"] == entrants.index(user_id) + 1
    assert max(queue.looks[user_id] for user_id in followers) == 1


@pytest.mark.parametrize("over", [pb.SALE_STATE_SOLD_OUT, pb.SALE_STATE_CLOSED])
async def test_the_end_of_the_sale_ends_the_stream(queue: FakeQueue, over: Any) -> None:
    people = range(1, 101)
    queue.places[2] = waiting(2, 0, state=pb.Place.STATE_ADMITTED)
    await queue.publish(digest_of(lane_of(people)))
    async with following(queue.edge, 50) as follower, following(queue.edge, 2) as inside:
        await follower.place()
        await inside.place()
        await queue.publish(digest_of(lane_of(people), sale_state=over))
        assert (await follower.place())["sale_state"] == pb.SaleState.Name(over).removeprefix("SALE_STATE_")
        assert await follower.rest() == []
        # Who is admitted may still buy.
        assert (await inside.place())["state"] == "ADMITTED"
        with pytest.raises(TimeoutError):
            await inside.event(0.3)


async def test_a_stream_of_a_used_up_place_ends_at_once(queue: FakeQueue) -> None:
    queue.places[4] = waiting(4, 0, state=pb.Place.STATE_DONE)
    await queue.publish(digest_of(lane_of(range(5, 9))))
    async with following(queue.edge, 4) as follower:
        told = await follower.rest()
    assert [json.loads(event.data)["place"]["state"] for event in told] == ["DONE"]


@pytest.mark.parametrize("refusal", [PlaceNotFound(), errors.Unavailable()])
async def test_a_refusal_before_the_first_event_is_a_problem(queue: FakeQueue, refusal: errors.BoxofficeError) -> None:
    queue.places[9] = refusal
    _, code, _ = await queue.edge.problem("GET", STREAM, headers=bearer(9))
    assert code == refusal.reason
    # Nobody has a place there, as far as this process knows: no line is followed for it.
    assert queue.streams == 0


async def test_strangers_and_wrong_numbers_see_nothing(queue: FakeQueue) -> None:
    assert (await queue.edge.problem("GET", STREAM))[1] == "UNAUTHENTICATED"
    path = "/api/events/x7/queue/stream?more=1"
    status, _, told = await queue.edge.problem("GET", path, headers=bearer(1))
    assert (status, [error["field"] for error in told["errors"]]) == (400, ["event_id", "more"])
    assert queue.looks == {}


async def test_a_fault_of_queue_while_it_is_asked_is_no_news(queue: FakeQueue) -> None:
    await queue.publish(digest_of(lane_of(range(1, 101))))
    async with following(queue.edge, 2) as follower:
        await follower.place()
        queue.places[2] = errors.Unavailable()
        called = digest_of(lane_of(range(3, 101), watermark=score_of(2)))
        await queue.publish(called)
        await eventually(lambda: queue.looks[2] >= 2)
        queue.places[2] = ready(2)
        await asyncio.sleep(0.05)
        await queue.publish(called)
        assert (await follower.place())["state"] == "READY"


def test_who_lost_their_digests_comes_back_soon_and_then_more_and_more_seldom() -> None:
    rows = [list(itertools.islice(subscription._pauses(), 6)) for _ in range(200)]
    for attempt, most in enumerate((1, 2, 4, 5, 5, 5)):
        pauses = [row[attempt] for row in rows]
        # Spread over all of it: those who lost the same peer do not come at once.
        assert most * 0.2 <= min(pauses) < most * 0.3
        assert most * 0.9 < max(pauses) <= most


async def test_digests_are_followed_again_when_they_break(queue: FakeQueue) -> None:
    people = range(1, 101)
    await queue.publish(digest_of(lane_of(people)))
    await _opened(queue)
    async with following(queue.edge, 50) as follower:
        await follower.place()
        await queue.break_streams(errors.Unavailable())
        await asyncio.sleep(0.05)
        queue.failure = None
        await queue.publish(digest_of(lane_of(people[1:])))
        assert (await follower.place(2))["position"] == 49
    assert queue.streams >= 2
    assert queue.looks[50] == 1


async def test_after_a_gap_nobody_is_believed_to_stand_where_they_stood(
    queue: FakeQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscription, "_GAP_SECONDS", 0.3)
    people = range(1, 101)
    await queue.publish(digest_of(lane_of(people)))
    await _opened(queue)
    async with following(queue.edge, 50) as follower:
        await follower.place()
        queue.is_silent = True
        await asyncio.sleep(0.4)
        queue.is_silent = False
        queue.places[50] = waiting(50, 0, state=pb.Place.STATE_LEFT)
        await queue.publish(digest_of(lane_of(people)))
        assert (await follower.place())["state"] == "LEFT"


async def test_queue_of_an_older_version_is_asked_for_each_stream(queue: FakeQueue) -> None:
    async def two(_request: Any) -> AsyncIterator[pb.WatchPlaceResponse]:
        for position in (9, 8):
            yield pb.WatchPlaceResponse(place=waiting(50, position))

    del queue.edge.backend.scripts["WatchDigest"]
    queue.edge.backend.scripts["WatchPlace"] = two
    for user_id in (50, 51):
        async with following(queue.edge, user_id) as follower:
            told = await follower.rest()
        assert [json.loads(event.data)["place"]["position"] for event in told] == [9, 8]
    assert len(queue.edge.backend.called("WatchDigest")) == 0
    assert (await look(queue.edge, 60))["position"] == 60


async def test_a_client_that_goes_is_forgotten(queue: FakeQueue) -> None:
    def watching() -> float:
        labels = {"route": "/api/events/{event_id}/queue/stream"}
        return REGISTRY.get_sample_value("boxoffice_http_streams_open", labels) or 0

    await queue.publish(digest_of(lane_of(range(1, 101))))
    async with following(queue.edge, 50) as follower:
        await follower.place()
        assert watching() == 1
        follower.response.close()
    await eventually(lambda: watching() == 0, timedelta(seconds=5))


async def test_a_client_that_does_not_read_is_told_the_newest_and_left_in_the_end(
    queue: FakeQueue, made_lines: list[lines.Lines], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "UNREAD_SECONDS", 1.5)
    people = range(1, 101)
    await queue.publish(digest_of(lane_of(people)))
    await _opened(queue, 50)
    host, port = queue.edge.url.removeprefix("http://").split(":")
    loop = asyncio.get_running_loop()
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        client.setblocking(False)
        await loop.sock_connect(client, (host, int(port)))
        head = f"GET {STREAM} HTTP/1.1\r\nHost: x\r\nAuthorization: {bearer(50)['Authorization']}\r\n\r\n"
        await loop.sock_sendall(client, head.encode())
        sent: list[bool] = []
        offer = streams.EventStream.offer

        def noted(stream: streams.EventStream, data: bytes, now: float) -> bool:
            sent.append(offer(stream, data, now))
            return sent[-1]

        monkeypatch.setattr(streams.EventStream, "offer", noted)
        # Long names fill what the kernel takes for the client.
        lane = lane_of(people)
        lane.name = "x" * 400_000
        for seats in range(40):
            await queue.publish(digest_of(lane, seats_left=seats))
            await asyncio.sleep(0.03)
        assert sent.count(False) > 0
        # Nobody else waits for it.
        async with following(queue.edge, 51) as other:
            assert (await other.place())["seats_left"] == 39
        (line,) = made_lines[-1]._lines.values()
        await eventually(lambda: not len(line.feed), timedelta(seconds=10))


@pytest.mark.usefixtures("fast")
async def test_a_drain_ends_streams_whole() -> None:
    async with world(drain_seconds=5) as edge:
        queue = FakeQueue(edge)
        queue.play()
        await queue.publish(digest_of(lane_of(range(1, 101))))
        async with following(edge, 50) as follower:
            await follower.place()
            edge.lifecycle.draining.set()
            assert await follower.rest() == []


async def test_quiet_streams_are_kept_open(queue: FakeQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "HEARTBEAT_SECONDS", 0.1)
    await queue.publish(digest_of(lane_of(range(1, 101))))
    async with queue.edge.request("GET", STREAM, headers=bearer(50)) as response, asyncio.timeout(10):
        async for line in response.content:
            if line == b": still here\n":
                return
    pytest.fail("the stream has ended")


async def test_a_line_that_nobody_looks_at_is_followed_no_more(
    queue: FakeQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "_IDLE_SECONDS", 0.3)
    await queue.publish(digest_of(lane_of(range(1, 101))))
    async with following(queue.edge, 50) as follower:
        await follower.place()
        await asyncio.sleep(1.5)
        assert queue.edge.backend.cancelled == []
    await eventually(lambda: queue.edge.backend.cancelled == ["WatchDigest"])
    # Who comes back is asked for: nobody heard of what happened meanwhile.
    await look(queue.edge, 50)
    assert queue.looks[50] >= 2


async def test_streams_and_polls_tell_the_same(queue: FakeQueue) -> None:
    people = range(1, 3_001)
    await queue.publish(digest_of(lane_of(people, odds=0.5)))
    await _opened(queue)
    for user_id in (8, 900, 2_345):
        for per_person in (2.0, 150.0, 3.0):
            async with following(queue.edge, user_id) as follower:
                await follower.place()
                # Nobody moves: nothing but the forecast is another one.
                await queue.publish(digest_of(lane_of(people, odds=0.5, per_person=per_person * 2)))
                followed = await follower.place()
                assert followed["eta_p50_seconds"] == pytest.approx(followed["position"] * per_person * 2, abs=1)
                assert await look(queue.edge, user_id) == followed
