"""What people are told, and the proof that they carry."""

import base64
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from services.common.tokens import KeyRing
from services.queue.line.domain import (
    NO_WAIT,
    Lane,
    LanePassInvalid,
    LanesInvalid,
    Line,
    Mode,
    Outlook,
    PlaceInvalid,
    PlaceState,
    Sale,
    SaleState,
    Standing,
    poll_after,
    tell,
)
from services.queue.proofs.lane_pass import LanePass
from services.queue.proofs.place import SignedPlace
from tests.queue.lines import POLICY

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SALE = Sale(NOW - timedelta(hours=1), NOW + timedelta(hours=1))
LINE = Line(NOW, waiting=(1000, 0, 0, 0), mode=Mode.OPEN, rate_per_second=10.0, sold_out=False, seats_left=None)


@pytest.mark.parametrize(
    ("line", "sale", "expected"),
    [
        (LINE, SALE, SaleState.OPEN),
        (replace(LINE, mode=Mode.HOLD), SALE, SaleState.HELD),
        (replace(LINE, mode=Mode.DRAIN), SALE, SaleState.OPEN),
        (replace(LINE, sold_out=True), SALE, SaleState.SOLD_OUT),
        (replace(LINE, is_held=False), SALE, SaleState.DRAWING),
        (replace(LINE, is_restoring=True, is_held=False), SALE, SaleState.RESTORING),
        (replace(LINE, is_held=False), Sale(NOW + timedelta(seconds=1), SALE.close_time), SaleState.SCHEDULED),
        (LINE, Sale(NOW + timedelta(seconds=1), SALE.close_time), SaleState.SCHEDULED),
        (LINE, Sale(SALE.open_time, NOW), SaleState.CLOSED),
    ],
)
def test_people_are_told_how_the_sale_goes(line: Line, sale: Sale, expected: SaleState) -> None:
    place = tell(Standing(PlaceState.WAITING, score=1, ahead=4), line, sale)

    assert place.sale_state is expected
    assert (place.position, place.ahead) == ((5, 4) if line.is_held else (0, 0))
    assert place.total_waiting == 1000
    assert place.is_last_word == expected.is_over


def test_who_is_called_has_position_0_and_an_end() -> None:
    soon = NOW + timedelta(seconds=5)

    place = tell(Standing(PlaceState.READY, 1, until=soon), LINE, SALE)

    assert (place.state, place.position, place.ahead, place.until) == (PlaceState.READY, 0, 0, soon)
    assert place.outlook == NO_WAIT


def test_what_has_run_out_is_told_as_expired() -> None:
    place = tell(Standing(PlaceState.ADMITTED, 1, until=NOW), LINE, SALE)

    assert (place.state, place.until, place.is_last_word) == (PlaceState.EXPIRED, None, True)


@pytest.mark.parametrize(("calls", "state"), [(1, PlaceState.WAITING), (2, PlaceState.EXPIRED)])
def test_who_missed_a_first_call_is_next_again_and_a_second_one_is_the_last(calls: int, state: PlaceState) -> None:
    place = tell(Standing(PlaceState.READY, 1, until=NOW, calls=calls), LINE, SALE)

    assert (place.state, place.until) == (state, None)


def test_who_is_called_again_is_told_when() -> None:
    again = NOW + timedelta(seconds=30)

    place = tell(Standing(PlaceState.WAITING, 1, call_again=again), LINE, SALE)

    assert (place.position, place.call_again, place.outlook[:3]) == (1, again, (30.0, 30.0, 30.0))


def test_total_waiting_is_of_all_lanes_of_who_missed_a_call_and_of_the_draw() -> None:
    line = replace(LINE, waiting=(10, 5, 0, 1), missed=2, entrants=100, entered=10)

    assert line.total_waiting == 18
    assert replace(line, is_held=False).total_waiting == 18 + 90


def test_a_lane_that_is_not_in_use_can_be_told_of() -> None:
    line = replace(LINE, lanes=(Lane(0, "general", 1), Lane(2, "fans", 5)))

    assert [line.lane(number) for number in (2, 3)] == [Lane(2, "fans", 5), Lane(3, "3", 1)]


def test_who_is_admitted_is_followed_beyond_the_end_of_the_sale() -> None:
    admitted = Standing(PlaceState.ADMITTED, 1, until=NOW + timedelta(minutes=1))

    assert not tell(admitted, replace(LINE, sold_out=True), SALE).is_last_word


def test_asking_again_is_soon_at_the_front_later_at_the_back_and_spread() -> None:
    def ask(seconds: float, jitter: float) -> float:
        waiting = Standing(PlaceState.WAITING, 1)
        return poll_after(tell(waiting, LINE, SALE, lambda *_: Outlook(0, seconds, 0)), jitter).total_seconds()

    assert 1.0 <= ask(0, 0.0) < ask(0, 0.999) <= 2.0
    assert ask(9.9, 0.5) < ask(50, 0.5) < ask(500, 0.5)
    assert ask(100_000, 0.999) <= 10.0


def _ring(fill: str) -> KeyRing:
    return KeyRing.parse(f"k{fill}:{base64.b64encode(fill.encode() * 32).decode()}")


def test_a_signed_place_proves_user_event_and_score() -> None:
    place = SignedPlace(user_id=5, event_id=7, lane=2, join_us=1_700_000_000_000_000, score=1 << 49)

    decoded = SignedPlace.decode(_ring("a"), place.encode(_ring("a")))

    assert decoded == place
    decoded.check_bearer(5, 7)
    for user_id, event_id in ((6, 7), (5, 8)):
        with pytest.raises(PlaceInvalid):
            decoded.check_bearer(user_id, event_id)


def test_forged_places_are_refused() -> None:
    ring = _ring("a")
    token = SignedPlace(5, 7, 0, 9, 9).encode(ring)
    key_id, payload, mac = token.split(".")
    another = SignedPlace(5, 7, 0, 8, 8).encode(ring).split(".")[1]
    foreign = SignedPlace(5, 7, 0, 9, 9).encode(_ring("b"))
    other_purpose = ring.sign(b"ticket" + bytes(33))
    lane_pass = LanePass(5, 7, 1).encode(ring)

    for forged in (
        "",
        "x",
        f"{key_id}.{another}.{mac}",
        f"{key_id}.{payload}.",
        foreign,
        other_purpose,
        lane_pass,
        ring.sign(b""),
    ):
        with pytest.raises(PlaceInvalid):
            SignedPlace.decode(ring, forged)


def test_a_lane_pass_opens_one_lane_for_one_account() -> None:
    ring = _ring("a")
    lane_pass = LanePass(user_id=5, event_id=7, lane=3)

    decoded = LanePass.decode(ring, lane_pass.encode(ring))

    assert decoded == lane_pass
    decoded.check_bearer(5, 7)
    for user_id, event_id in ((6, 7), (5, 8)):
        with pytest.raises(LanePassInvalid):
            decoded.check_bearer(user_id, event_id)


def test_forged_passes_are_refused() -> None:
    ring = _ring("a")
    token = LanePass(5, 7, 1).encode(ring)
    place = SignedPlace(5, 7, 0, 9, 9).encode(ring)

    for forged in ("", "x", token[:-2], LanePass(5, 7, 1).encode(_ring("b")), place, ring.sign(b"lane9" + bytes(17))):
        with pytest.raises(LanePassInvalid):
            LanePass.decode(ring, forged)


@pytest.mark.parametrize("name", ["팬클럽 1", "Fans & friends", "x" * 40])
def test_a_lane_may_be_called(name: str) -> None:
    assert replace(POLICY, lanes=(Lane(0, name, 1),)).lanes[0].name == name


@pytest.mark.parametrize("name", ["", "x" * 41, "fans\n", "\x00", "a\u202eb", "\x1b[31m"])
def test_a_lane_is_not_called_what_cannot_be_shown(name: str) -> None:
    with pytest.raises(LanesInvalid):
        replace(POLICY, lanes=(Lane(0, name, 1),))
