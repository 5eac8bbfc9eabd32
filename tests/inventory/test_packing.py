"""What comes from clients is either a value of ours or told to be wrong."""

import base64
import json
from datetime import UTC, datetime

import pytest

from services.common.errors import InvalidArgument
from services.inventory.api.packing import page_token, parse_page_token
from services.inventory.domain import BookingNotFound, booking_id_for, event_of_booking

NOW = datetime(2026, 5, 1, 12, 0, 0, 123456, tzinfo=UTC)
TIME = NOW.isoformat()


def token(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode("utf-8", "surrogatepass")).decode()


@pytest.mark.parametrize("last_id", [7, (1 << 63) - 1, booking_id_for(1, (1 << 43) - 1, "key-00001")])
def test_a_token_is_read_back(last_id: int | str) -> None:
    assert parse_page_token(page_token(NOW, last_id), type(last_id)) == (NOW, last_id)


def test_the_first_page_has_none() -> None:
    assert parse_page_token("", int) is None


@pytest.mark.parametrize(
    ("text", "id_type"),
    [
        ("[" * 5500, int),
        ("[" * 120, int),
        (json.dumps(["0001-01-01T00:00:00+23:00", 1]), int),
        (json.dumps(["9999-12-31T23:59:59-23:00", 1]), int),
        (json.dumps(["2026-05-01T12:00:00", 1]), int),
        (json.dumps([TIME, 1 << 63]), int),
        (json.dumps([TIME, -1]), int),
        (json.dumps([TIME, True]), int),
        (json.dumps([TIME, "1-x"]), int),
        (json.dumps([TIME, 1]), str),
        (json.dumps([TIME, "\ud800"]), str),
        (json.dumps([TIME, "한"], ensure_ascii=False), str),
        (json.dumps([TIME]), int),
        (json.dumps({"a": 1, "b": 2}), int),
        ("\ud800", str),
        ("1" * 140, int),
    ],
)
def test_any_other_token_is_an_invalid_argument(text: str, id_type: type) -> None:
    with pytest.raises(InvalidArgument):
        parse_page_token(token(text), id_type)


@pytest.mark.parametrize("text", ["%", "한글", "\ud800", "AAAA", "=" * 10_000])
def test_what_is_not_even_encoded_is_an_invalid_argument(text: str) -> None:
    with pytest.raises(InvalidArgument):
        parse_page_token(text, int)


@pytest.mark.parametrize("event", ["", "0", "-1", "１", "0x1", "1_0", "A", "f" * 5000, f"{1 << 43:x}"])
def test_what_cannot_be_a_booking_id_is_not_found(event: str) -> None:
    with pytest.raises(BookingNotFound):
        event_of_booking(f"{event}-{'a' * 26}")


@pytest.mark.parametrize("digest", ["", "a" * 25, "a" * 27, "é" * 26, "\ud800" * 26, "-" * 26])
def test_neither_is_one_with_another_digest(digest: str) -> None:
    with pytest.raises(BookingNotFound):
        event_of_booking(f"1-{digest}")
