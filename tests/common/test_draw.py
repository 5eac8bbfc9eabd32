"""The arithmetic of a draw, against the definition spelled with the standard library."""

import hashlib
import hmac
import time

import pytest

from services.common import draw
from services.common.draw import ListDigest

SECRET = b"s" * 32
ENTRANTS = [(3, 0), (5, 2), (1000, 0), (2**52, 3)]
LIST = b"3 0\n5 2\n1000 0\n4503599627370496 3\n"


def _digest(entrants: list[tuple[int, int]]) -> bytes:
    found = ListDigest()
    found.add(entrants)
    return found.digest()


def test_the_draw_is_what_it_says() -> None:
    seed = draw.seed(SECRET, 7)
    key = draw.draw_key(seed, _digest(ENTRANTS))

    assert seed == hmac.new(SECRET, b"boxoffice.draw|7", hashlib.sha256).digest()
    assert draw.commitment(seed) == hashlib.sha256(seed).digest()
    assert _digest(ENTRANTS) == hashlib.sha256(LIST).digest()
    assert key == hmac.new(seed, hashlib.sha256(LIST).digest(), hashlib.sha256).digest()
    for user_id, _ in ENTRANTS:
        bits = f"{int(hmac.new(key, str(user_id).encode(), hashlib.sha256).hexdigest(), 16):0256b}"
        assert draw.score(key, user_id) == int(bits[:50], 2)


def test_a_known_draw_comes_out_the_same_for_ever() -> None:
    # People keep receipts: a change of the arithmetic would make liars of them.
    key = draw.draw_key(draw.seed(SECRET, 7), _digest(ENTRANTS))
    assert key.hex() == "db98d3dba53faa2f63dd5645593a42199802b8975fcbaa2275eb13d9469fe22e"
    assert draw.scores(key, [3, 5, 1000, 2**52]) == [511264953530002, 492646178454455, 77627318834161, 105244060126210]


def test_a_list_in_parts_has_the_digest_of_the_whole_and_must_ascend() -> None:
    parts = ListDigest()
    for entrant in ENTRANTS:
        parts.add([entrant])
    assert (parts.digest(), parts.count) == (_digest(ENTRANTS), 4)
    for wrong in (4, 2**52):
        with pytest.raises(ValueError, match="stands behind"):
            parts.add([(wrong, 0)])


def test_anyone_more_or_fewer_changes_every_place() -> None:
    seed = draw.seed(SECRET, 7)
    with_all, without_last = (draw.draw_key(seed, _digest(some)) for some in (ENTRANTS, ENTRANTS[:-1]))
    assert [draw.score(with_all, user) == draw.score(without_last, user) for user, _ in ENTRANTS] == [False] * 4


def test_places_are_spread_evenly() -> None:
    users = range(1, 20_001)
    scores = draw.scores(b"k" * 32, users)
    assert all(0 <= score < 2**50 for score in scores)
    tenths = [sum(score * 10 >> 50 == tenth for score in scores) for tenth in range(10)]
    # Five standard deviations of a count of 2,000 each.
    assert all(abs(count - 2_000) < 5 * 43 for count in tenths)
    # Whoever joined the house earlier is not drawn earlier.
    first_half = sum(user <= 10_000 for user in draw.order(zip(scores, users, strict=True))[:10_000])
    assert abs(first_half - 5_000) < 5 * 50


def test_equal_numbers_are_ordered_as_text() -> None:
    assert draw.order([(5, 9), (5, 10), (1, 2), (5, 100)]) == [2, 10, 100, 9]


def test_a_million_places_cost_two_seconds() -> None:
    begin = time.process_time()
    draw.scores(b"k" * 32, range(100_000))
    assert time.process_time() - begin < 0.2 * 2  # neighbours on the machine
