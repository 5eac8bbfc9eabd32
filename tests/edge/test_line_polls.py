"""Asking for a place again and again: answered from digests, and by queue where only queue can know."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from boxoffice.queue.v1 import queue_service_pb2 as pb
from prometheus_client import REGISTRY

from edge.line import places, subscription
from edge.line.lines import Lines
from edge.line.places import Known, KnownPlaces
from services.common import errors
from tests.edge.lines import (
    EVENT,
    ME,
    FakeQueue,
    PlaceNotFound,
    digest_of,
    following,
    lane_of,
    look,
    ready,
    score_of,
    waiting,
)
from tests.edge.world import bearer, world
from tests.support import eventually

_QUEUE = f"/api/events/{EVENT}/queue"


@pytest.fixture
async def queue() -> AsyncIterator[FakeQueue]:
    async with world() as edge:
        playing = FakeQueue(edge)
        playing.play()
        await playing.publish(digest_of(lane_of(range(1, 101))))
        await look(edge, 1)
        await eventually(lambda: playing.streams == 1)
        await asyncio.sleep(0.1)
        yield playing


async def test_only_the_first_look_is_asked_for(queue: FakeQueue) -> None:
    for _ in range(5):
        told = await look(queue.edge, 50)
        assert (told["position"], told["total_waiting"]) == (50, 100)
    await queue.publish(digest_of(lane_of(range(11, 101), watermark=score_of(10))))
    await asyncio.sleep(0.1)
    told = await look(queue.edge, 50)
    assert (told["position"], told["ahead"], told["total_waiting"], told["eta_p50_seconds"]) == (40, 39, 90, 80)
    assert queue.looks[50] == 1


async def test_the_answer_has_the_headers_of_the_contract(queue: FakeQueue) -> None:
    for _ in range(2):
        status, _, response = await queue.edge.answer("GET", ME, headers=bearer(50))
        assert (status, response.headers["Cache-Control"]) == (200, "no-store")
        assert response.headers["Content-Type"] == "application/json"
    status, _, _ = await queue.edge.answer("HEAD", ME, headers=bearer(50))
    assert status == 200


async def test_those_who_come_together_are_asked_for_together(queue: FakeQueue) -> None:
    before = queue.batches
    queue.answers.clear()
    asked = asyncio.gather(*(look(queue.edge, user_id) for user_id in range(10, 90)))
    await eventually(lambda: queue.batches - before == 2)
    await asyncio.sleep(0.3)
    queue.answers.set()
    assert [told["position"] for told in await asked] == list(range(10, 90))
    assert queue.batches - before <= 4


async def test_who_joins_here_needs_no_look(queue: FakeQueue) -> None:
    status, joined, _ = await queue.edge.answer("POST", _QUEUE, json={}, headers=bearer(50))
    assert status == 201
    assert (await look(queue.edge, 50))["position"] == joined["place"]["position"] == 50
    assert queue.looks[50] == 0


async def test_who_leaves_here_is_not_believed_to_stand_in_line(queue: FakeQueue) -> None:
    queue.edge.backend.scripts["LeaveQueue"] = lambda _request: pb.LeaveQueueResponse()
    await look(queue.edge, 50)
    await queue.edge.answer("DELETE", ME, headers=bearer(50))
    queue.places[50] = PlaceNotFound()
    for _ in range(2):
        assert (await queue.edge.problem("GET", ME, headers=bearer(50)))[1] == "PLACE_NOT_FOUND"
    assert queue.looks[50] == 3


async def test_who_claims_here_is_told_as_admitted(queue: FakeQueue) -> None:
    queue.places[50] = ready(50)
    assert (await look(queue.edge, 50))["state"] == "READY"
    admitted = waiting(50, 0, state=pb.Place.STATE_ADMITTED)
    queue.edge.backend.scripts["ClaimPlace"] = lambda _request: pb.ClaimPlaceResponse(place=admitted)
    await queue.edge.answer("POST", f"{_QUEUE}/claim", json={}, headers=bearer(50))
    assert (await look(queue.edge, 50))["state"] == "ADMITTED"
    assert queue.looks[50] == 1


async def test_a_claim_that_fails_leaves_nothing_to_believe_either(queue: FakeQueue) -> None:
    await look(queue.edge, 50)
    status, _, _ = await queue.edge.problem("POST", f"{_QUEUE}/claim", json={}, headers=bearer(50))
    assert status == 500  # nobody plays it
    await look(queue.edge, 50)
    assert queue.looks[50] == 2


async def test_an_answer_from_before_a_call_of_ones_own_is_not_kept(queue: FakeQueue) -> None:
    queue.answers.clear()
    asked = asyncio.create_task(look(queue.edge, 50))
    await eventually(lambda: queue.looks[50] == 1)
    queue.edge.backend.scripts["LeaveQueue"] = lambda _request: pb.LeaveQueueResponse()
    await queue.edge.answer("DELETE", ME, headers=bearer(50))
    queue.places[50] = waiting(50, 0, state=pb.Place.STATE_LEFT)
    queue.answers.set()
    # It was true when it was asked.
    assert (await asked)["state"] == "WAITING"
    assert (await look(queue.edge, 50))["state"] == "LEFT"


async def test_who_is_below_the_watermark_is_asked_for_once_a_second(queue: FakeQueue) -> None:
    await look(queue.edge, 5)
    queue.places[5] = ready(5)
    await queue.publish(digest_of(lane_of(range(6, 101), watermark=score_of(5))))
    await asyncio.sleep(0.95)
    for _ in range(5):
        assert (await look(queue.edge, 5))["state"] == "READY"
    assert queue.looks[5] == 2


async def test_a_place_that_is_used_up_is_asked_for_again(queue: FakeQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "_AGES", dict.fromkeys(places._AGES, 0.0))
    queue.places[50] = waiting(50, 0, state=pb.Place.STATE_EXPIRED)
    assert (await look(queue.edge, 50))["state"] == "EXPIRED"
    # Joined again, elsewhere.
    queue.places[50] = waiting(50, 50)
    assert (await look(queue.edge, 50))["state"] == "WAITING"


async def test_an_old_digest_tells_nothing(queue: FakeQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (await look(queue.edge, 50))["position"] == 50
    monkeypatch.setattr(subscription, "FRESH_SECONDS", 0.2)
    queue.is_silent = True
    await asyncio.sleep(0.4)
    queue.places[50] = waiting(50, 33)
    assert (await look(queue.edge, 50))["position"] == 33
    # Streams begin with what queue says, too.
    async with following(queue.edge, 50) as follower:
        assert (await follower.place())["position"] == 33
        with pytest.raises(TimeoutError):
            await follower.event(0.3)


@pytest.mark.parametrize("refusal", [PlaceNotFound(), errors.Unavailable()])
async def test_refusals_are_told_as_they_are(queue: FakeQueue, refusal: errors.BoxofficeError) -> None:
    queue.places[50] = refusal
    _, code, _ = await queue.edge.problem("GET", ME, headers=bearer(50))
    assert code == refusal.reason


async def test_queue_that_is_away_is_told_to_who_must_be_asked_for(
    queue: FakeQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    await look(queue.edge, 50)
    await queue.edge.backend.stop()
    status, code, _ = await queue.edge.problem("GET", ME, headers=bearer(51))
    assert (status, code) == (503, "UNAVAILABLE")
    # Who is known is told from the last digest, as long as that is fresh.
    assert (await look(queue.edge, 50))["position"] == 50
    monkeypatch.setattr(subscription, "FRESH_SECONDS", 0.2)
    await asyncio.sleep(0.3)
    status, code, _ = await queue.edge.problem("GET", ME, headers=bearer(50))
    assert (status, code) == (503, "UNAVAILABLE")


async def test_a_digest_tells_for_two_seconds_and_no_longer(queue: FakeQueue) -> None:
    await look(queue.edge, 50)
    queue.is_silent = True
    await asyncio.sleep(1.5)
    await look(queue.edge, 50)
    assert queue.looks[50] == 1
    await asyncio.sleep(0.7)
    queue.places[50] = waiting(50, 33)
    assert (await look(queue.edge, 50))["position"] == 33
    assert queue.looks[50] == 2


async def test_strangers_and_wrong_numbers_are_not_asked_for(queue: FakeQueue) -> None:
    before = queue.batches
    assert (await queue.edge.problem("GET", ME))[1] == "UNAUTHENTICATED"
    status, code, _ = await queue.edge.problem("GET", "/api/events/none/queue/me", headers=bearer(50))
    assert (status, code) == (400, "INVALID_ARGUMENT")
    assert queue.batches == before


async def test_the_looks_of_a_line_name_nobody(queue: FakeQueue) -> None:
    # The stream of digests was opened when somebody looked, and serves everyone.
    assert "authorization" not in queue.edge.backend.metadata("WatchDigest")
    assert "authorization" not in queue.edge.backend.metadata("BatchGetPlace")


def _remember(known: KnownPlaces, user_id: int) -> Known:
    person = known.find_or_begin(EVENT, user_id)
    known.keep(person)
    return person


def test_of_too_many_people_the_latest_are_known() -> None:
    known = KnownPlaces(capacity=3)
    watching = _remember(known, 1)
    watching.watchers = 1
    for user_id in (2, 3):
        _remember(known, user_id)
    assert known.find(EVENT, 2) is not None
    _remember(known, 4)
    assert [user_id for user_id in range(1, 5) if known.find(EVENT, user_id)] == [1, 2, 4]
    assert known.find(EVENT, 1) is watching
    assert known.find(EVENT + 1, 1) is None
    known.forget(watching)
    assert known.find(EVENT, 1) is None


def test_who_is_only_asked_for_is_not_kept_but_is_one_person() -> None:
    known = KnownPlaces(capacity=1)
    asked = known.find_or_begin(EVENT, 1)
    assert (len(known), known.find(EVENT, 1)) == (0, None)
    known.note_call(EVENT, 1)
    assert (known.find_or_begin(EVENT, 1), asked.calls) == (asked, 1)
    known.keep(asked)
    # Pushed out, or forgotten, while an answer is still under way.
    _remember(known, 2)
    known.note_call(EVENT, 1)
    known.forget(_remember(known, 1))
    known.note_call(EVENT, 1)
    assert (asked.calls, len(known)) == (3, 0)


@pytest.mark.parametrize("refused", ["made up", "failed"])
async def test_calls_that_gave_nobody_a_place_push_nobody_out(
    queue: FakeQueue, made_lines: list[Lines], refused: str
) -> None:
    def refuse(batch: pb.BatchJoinQueueRequest) -> pb.BatchJoinQueueResponse:
        error = errors.to_status(PlaceNotFound() if refused == "made up" else errors.Unavailable())
        return pb.BatchJoinQueueResponse(results=[pb.BatchJoinQueueResult(error=error) for _ in batch.items])

    await look(queue.edge, 50)
    known = made_lines[-1]._places
    before = len(known)
    queue.edge.backend.scripts["BatchJoinQueue"] = refuse
    queue.edge.backend.scripts["LeaveQueue"] = lambda _request: pb.LeaveQueueResponse()
    for event_id in range(1_000, 1_020):
        path = f"/api/events/{event_id}/queue"
        await queue.edge.problem("POST", path, json={}, headers=bearer(60))
        await queue.edge.problem("POST", f"{path}/claim", json={}, headers=bearer(60))
        await queue.edge.answer("DELETE", f"{path}/me", headers=bearer(60))
    assert (len(known), len(known._others)) == (before, 0)


async def test_a_line_whose_digests_never_came_is_as_old_as_its_following() -> None:
    async with world() as edge:
        playing = FakeQueue(edge)
        playing.play()
        await look(edge, 1)
        await eventually(lambda: playing.streams == 1)
        await eventually(lambda: (REGISTRY.get_sample_value("boxoffice_line_digest_age_seconds") or 0) > 0.5)
        await playing.publish(digest_of(lane_of(range(1, 101))))
        await eventually(lambda: (REGISTRY.get_sample_value("boxoffice_line_digest_age_seconds") or 0) < 0.5)
