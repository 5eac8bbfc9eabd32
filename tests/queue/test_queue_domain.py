"""What people are told, and the proof that they carry."""

import base64
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from services.common.tokens import KeyRing
from services.queue.line.domain import (
    Line,
    Mode,
    PlaceInvalid,
    PlaceState,
    Sale,
    SaleState,
    Standing,
    eta,
    poll_after,
    tell,
)
from services.queue.proofs.place import SignedPlace

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SALE = Sale(NOW - timedelta(hours=1), NOW + timedelta(hours=1))
LINE = Line(NOW, waiting=1000, mode=Mode.OPEN, rate_per_second=10.0, sold_out=False, seats_left=None)


@pytest.mark.parametrize(
    ("line", "sale", "expected"),
    [
        (LINE, SALE, SaleState.OPEN),
        (replace(LINE, mode=Mode.HOLD), SALE, SaleState.HELD),
        (replace(LINE, mode=Mode.DRAIN), SALE, SaleState.OPEN),
        (replace(LINE, sold_out=True), SALE, SaleState.SOLD_OUT),
        (LINE, Sale(NOW + timedelta(seconds=1), SALE.close_time), SaleState.SCHEDULED),
        (LINE, Sale(SALE.open_time, NOW), SaleState.CLOSED),
    ],
)
def test_people_are_told_how_the_sale_goes(line: Line, sale: Sale, expected: SaleState) -> None:
    place = tell(Standing(PlaceState.WAITING, score=1, ahead=4), line, sale)

    assert place.sale_state is expected
    assert (place.position, place.ahead, place.total_waiting) == (5, 4, 1000)
    assert place.is_last_word == expected.is_over


def test_who_is_called_has_position_0_and_an_end() -> None:
    soon = NOW + timedelta(seconds=5)

    place = tell(Standing(PlaceState.READY, 1, until=soon), LINE, SALE)

    assert (place.state, place.position, place.ahead, place.until) == (PlaceState.READY, 0, 0, soon)
    assert place.eta_p90 == timedelta()


def test_what_has_run_out_is_told_as_expired() -> None:
    place = tell(Standing(PlaceState.ADMITTED, 1, until=NOW), LINE, SALE)

    assert (place.state, place.until, place.is_last_word) == (PlaceState.EXPIRED, None, True)


def test_who_is_admitted_is_followed_beyond_the_end_of_the_sale() -> None:
    admitted = Standing(PlaceState.ADMITTED, 1, until=NOW + timedelta(minutes=1))

    assert not tell(admitted, replace(LINE, sold_out=True), SALE).is_last_word


def test_the_estimate_is_a_range_that_starts_at_the_opening() -> None:
    p50, p90 = eta(100, 10.0, timedelta())
    later50, later90 = eta(100, 10.0, timedelta(minutes=3))

    assert p50 == timedelta(seconds=10)
    assert p50 * 1.3 < p90 < p50 * 1.6
    assert (later50 - p50, later90 - p90) == (timedelta(minutes=3), timedelta(minutes=3))
    assert eta(1_000_000, 0.0, timedelta()) == (timedelta(days=1), timedelta(days=1))


def test_asking_again_is_soon_at_the_front_later_at_the_back_and_spread() -> None:
    def ask(ahead: int, jitter: float) -> float:
        return poll_after(tell(Standing(PlaceState.WAITING, 1, ahead), LINE, SALE), jitter).total_seconds()

    assert 1.0 <= ask(0, 0.0) < ask(0, 0.999) <= 2.0
    assert ask(99, 0.5) < ask(500, 0.5) < ask(5_000, 0.5)
    assert ask(1_000_000, 0.999) <= 10.0


def _ring(fill: str) -> KeyRing:
    return KeyRing.parse(f"k{fill}:{base64.b64encode(fill.encode() * 32).decode()}")


def test_a_signed_place_proves_user_event_and_score() -> None:
    place = SignedPlace(user_id=5, event_id=7, score=1_700_000_000_000_000)

    decoded = SignedPlace.decode(_ring("a"), place.encode(_ring("a")))

    assert decoded == place
    decoded.check_bearer(5, 7)
    for user_id, event_id in ((6, 7), (5, 8)):
        with pytest.raises(PlaceInvalid):
            decoded.check_bearer(user_id, event_id)


def test_forged_places_are_refused() -> None:
    ring = _ring("a")
    token = SignedPlace(5, 7, 9).encode(ring)
    key_id, payload, mac = token.split(".")
    another = SignedPlace(5, 7, 8).encode(ring).split(".")[1]
    foreign = SignedPlace(5, 7, 9).encode(_ring("b"))
    other_purpose = ring.sign(b"ticket" + bytes(24))

    for forged in (
        "",
        "x",
        f"{key_id}.{another}.{mac}",
        f"{key_id}.{payload}.",
        foreign,
        other_purpose,
        ring.sign(b""),
    ):
        with pytest.raises(PlaceInvalid):
            SignedPlace.decode(ring, forged)
