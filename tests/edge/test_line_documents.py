"""What is told from a digest is what the transcoder would tell of the same place, to the byte."""

import random
from typing import Any

import pytest
from boxoffice.queue.v1 import queue_service_pb2 as pb
from google.protobuf.timestamp_pb2 import Timestamp

from edge.line.digest import LineView, view_of
from edge.line.documents import document, place_of
from edge.line.places import Known, Standing, stand
from edge.transcode.dump import DumperCompiler, to_json
from services.common import draw
from tests.edge.lines import EVENT, digest_of, forecast, lane_of, score_of, waiting

_compiler = DumperCompiler()
_dump_place = _compiler.compile(pb.GetPlaceResponse.DESCRIPTOR)
_dump_event = _compiler.compile(pb.WatchPlaceResponse.DESCRIPTOR)
_KEY = bytes(range(32))


def _known(place: pb.Place, user_id: int = 5, era: int = 1) -> Known:
    known = Known(EVENT, user_id)
    known.learn(place, asked=0.0, era=era)
    return known


def _view(digest: pb.WatchDigestResponse) -> LineView:
    return view_of(digest, received=100.0, era=1)


def _random_place(dice: random.Random) -> pb.Place:
    """Any place that queue may tell: every field set or not."""

    def moment() -> Timestamp | None:
        return Timestamp(seconds=dice.randrange(2**31), nanos=dice.choice([0, 5_000, 120_000_000]))

    told: dict[str, Any] = {
        "event_id": EVENT,
        "state": dice.choice(pb.Place.State.values()),
        "position": dice.randrange(5),
        "ahead": dice.randrange(5),
        "total_waiting": dice.randrange(10**6),
        "eta_p10_seconds": dice.randrange(10**4),
        "eta_p50_seconds": dice.randrange(10**4),
        "eta_p90_seconds": dice.randrange(10**4),
        "seats_left": dice.choice([None, 0, 50_000]),
        "sale_state": dice.choice(list(pb.SaleState.values())),
        "poll_after_ms": dice.randrange(10_000),
        "join_time": dice.choice([None, moment()]),
        "claim_expire_time": dice.choice([None, moment()]),
        "admission_expire_time": dice.choice([None, moment()]),
        "lane": dice.randrange(3),
        "lane_name": dice.choice(["", "general", 'a "name" of 100 %d', "팬클럽"]),
        "score": dice.choice([0, score_of(5), score_of(900)]),
        "in_draw": dice.choice([True, False]),
        "odds": dice.choice([None, 0.0, 0.25, 1.0]),
        "call_again_time": dice.choice([None, None, moment()]),
    }
    # A new field must be told by the edge, too.
    assert told.keys() == set(pb.Place.DESCRIPTOR.fields_by_name)
    return pb.Place(**told)


def _random_digest(dice: random.Random) -> pb.WatchDigestResponse:
    odds = dice.choice([None, 0.0, 0.123456789, 1e-7, 1.0])
    lanes = [lane_of(range(1, dice.choice([1, 2, 1_500])), lane=lane, odds=odds) for lane in range(2)]
    lanes[1].name = 'half of 100 % "sure"'
    return digest_of(
        *lanes,
        incarnation=dice.choice([0, 5, 5]),
        sale_state=dice.choice(list(pb.SaleState.values())),
        seats_left=dice.choice([None, 0, 50_000]),
        draw_key=dice.choice([b"", _KEY]),
        in_draw=dice.choice([None, forecast(0, odds=odds)]),
        changed_user_ids=dice.choice([[], [5]]),
    )


def test_documents_are_what_the_transcoder_would_tell() -> None:
    dice = random.Random(4711)
    kinds = set()
    for _ in range(3_000):
        known, view = _known(_random_place(dice), era=dice.choice([1, 1, 2])), _view(_random_digest(dice))
        now = 100.0 + dice.random() * 5
        standing = stand(known, view)
        place = place_of(known, standing, view, now)
        expected = to_json(_dump_event(pb.WatchPlaceResponse(place=place)))
        assert document(known, standing, view, now) == expected
        assert to_json(_dump_place(pb.GetPlaceResponse(place=place))) == expected
        kinds.add((standing.question, standing.forecast is not None, known.in_draw, bool(view.templates)))
    # Both ways to make a document were seen, in lanes and in the draw.
    assert {kind[2] for kind in kinds if kind[3]} == {True, False}
    assert {kind[3] for kind in kinds} == {True, False}


def test_without_a_view_it_is_the_answer_of_queue() -> None:
    dice = random.Random(1)
    for _ in range(200):
        place = _random_place(dice)
        known = _known(place)
        told = document(known, Standing("", known.answered_position, None), None, 0.0)
        assert told == to_json(_dump_place(pb.GetPlaceResponse(place=place)))


def _told(known: Known, view: LineView, now: float = 100.0) -> pb.Place:
    return place_of(known, stand(known, view), view, now)


def test_what_the_digest_knows_better_replaces_the_answer() -> None:
    view = _view(digest_of(lane_of(range(3, 101), odds=0.5), seats_left=12))
    told = _told(_known(waiting(5, 5, lane_name="old")), view)
    assert (told.position, told.ahead, told.total_waiting, told.seats_left) == (3, 2, 98, 12)
    assert (told.lane_name, told.odds, told.score) == ("general", 0.5, score_of(5))
    # From position 1 (2 s) to position 98 (196 s), and from the time of the digest on.
    assert (told.eta_p10_seconds, told.eta_p50_seconds, told.eta_p90_seconds) == (3, 6, 12)
    later = _told(_known(waiting(5, 5)), view, 103.5)
    assert (later.eta_p10_seconds, later.eta_p50_seconds, later.eta_p90_seconds) == (0, 3, 9)


def test_poll_after_is_spread_by_a_fifth() -> None:
    view = _view(digest_of(lane_of(range(1, 2_001))))
    pauses = {_told(_known(waiting(1_000, 1_000), 1_000), view).poll_after_ms for _ in range(200)}
    assert 1_600 <= min(pauses) < 1_700
    assert 2_300 < max(pauses) <= 2_400


def test_in_the_draw_everyone_is_told_the_same() -> None:
    view = _view(digest_of(in_draw=forecast(0, odds=0.75), total_waiting=800, sale_state=pb.SALE_STATE_SCHEDULED))
    told = _told(_known(waiting(5, 0, score=0, in_draw=True)), view)
    assert (told.position, told.ahead, told.total_waiting, told.score, told.in_draw) == (0, 0, 800, 0, True)
    assert told.odds == 0.75


def test_the_key_of_the_draw_gives_the_score() -> None:
    users = range(1, 800)
    by_score = sorted(users, key=lambda user_id: draw.score(_KEY, user_id))
    lane = lane_of([])
    lane.front.extend(draw.score(_KEY, user_id) for user_id in by_score)
    lane.waiting = len(by_score)
    lane.forecast.extend([forecast(1), forecast(800)])
    place = waiting(5, 0, score=0, in_draw=True)
    told = _told(_known(place), _view(digest_of(lane, draw_key=_KEY)))
    assert (told.in_draw, told.score) == (False, draw.score(_KEY, 5))
    assert told.position == by_score.index(5) + 1
    # Until there is a key nobody is told anything of it.
    drawing = _view(digest_of(lane, sale_state=pb.SALE_STATE_DRAWING, in_draw=forecast(0)))
    assert _told(_known(place), drawing).in_draw


@pytest.mark.parametrize(
    ("state", "told"),
    [(pb.SALE_STATE_OPEN, pb.SALE_STATE_RESTORING), (pb.SALE_STATE_CLOSED, pb.SALE_STATE_CLOSED)],
)
def test_a_lost_line_is_being_restored_unless_its_sale_is_over(state: Any, told: Any) -> None:
    assert _view(digest_of(incarnation=0, sale_state=state)).common.sale_state == told


@pytest.mark.parametrize("people", [10, 1_000, 50_000])
def test_positions_are_exact_in_front_and_near_behind(people: int) -> None:
    view = _view(digest_of(lane_of(range(1, people + 1))))
    for user_id in {1, 2, 9, min(999, people), *range(1_000, people, 977), people}:
        error = _told(_known(waiting(user_id, 0), user_id), view).position - user_id
        assert abs(error) <= (0 if user_id <= 1_000 else people * 0.002)


def test_who_came_after_the_digest_stands_where_queue_said() -> None:
    view = _view(digest_of(lane_of(range(1, 101))))
    assert _told(_known(waiting(140, 140), 140), view).position == 140
    # Unless so many left meanwhile that the end of the lane is nearer.
    assert _told(_known(waiting(140, 90), 140), view).position == 101


def test_interpolation_moves_nobody_back() -> None:
    people: Any = range(1, 50_001)
    known = _known(waiting(30_000, 30_000), 30_000)
    assert _told(known, _view(digest_of(lane_of(people)))).position == 30_000
    behind = lane_of(people)
    for index, position in enumerate(behind.sample_positions):
        behind.sample_positions[index] = position + 80
    assert _told(known, _view(digest_of(behind))).position == 30_000
    # More than interpolation may be off: people came back to places in front.
    for index, position in enumerate(behind.sample_positions):
        behind.sample_positions[index] = position + 80
    assert _told(known, _view(digest_of(behind))).position == 30_160
