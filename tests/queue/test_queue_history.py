"""What facts come to: the latest of each person, whatever the order in which they are read."""

import itertools

from services.queue.line.domain import PlaceState
from services.queue.restore.history import History, PastFact

NOW = 1_000_000
CALLED = PastFact((1, 0), 1, PlaceState.READY, 0, 50, NOW - 300, NOW - 100)
CALLED_AGAIN = PastFact((2, 0), 1, PlaceState.READY, 0, 50, NOW - 90, NOW + 50, calls=2)
ADMITTED = PastFact((2, 1), 1, PlaceState.ADMITTED, 0, 50, NOW - 80, NOW + 100)
DONE = PastFact((3, 0), 1, PlaceState.DONE, 0, 50, NOW - 50)
LEFT = PastFact((4, 0), 1, PlaceState.LEFT, 0, 50, NOW - 80, calls=0)


def _records(*facts: PastFact, now_ms: int = NOW) -> list[str]:
    history = History()
    for fact in facts:
        history.add(fact)
    return [place.record for place in history.places(now_ms)]


def test_the_order_of_reading_and_repeats_do_not_matter() -> None:
    facts = (CALLED, CALLED_AGAIN, ADMITTED, DONE, LEFT)
    told = {tuple(_records(*order, *order[:2])) for order in itertools.permutations(facts)}

    assert told == {("L:50:0:999920:0",)}


def test_facts_follow_each_other_also_when_the_clock_was_set_back() -> None:
    before = ADMITTED._replace(since_ms=CALLED_AGAIN.since_ms - 5_000)

    assert _records(before, CALLED_AGAIN) == ["A:50:1000100:994910:1"]


def test_who_has_bought_is_done_for_good() -> None:
    assert _records(DONE, ADMITTED, CALLED) == ["D:50:0:999950:1"]


def test_what_is_over_has_expired_but_a_first_missed_call_is_left_to_the_tick() -> None:
    assert _records(CALLED_AGAIN, now_ms=NOW + 50) == ["E:50:0:1000050:2"]
    assert _records(ADMITTED, now_ms=NOW + 100) == ["E:50:0:1000100:1"]
    assert _records(CALLED) == ["R:50:999900:999700:1"]


def test_watermarks_are_the_highest_scores_called_of_each_lane() -> None:
    history = History()
    for fact in (
        CALLED._replace(user_id=2, score=70),
        CALLED,
        ADMITTED._replace(user_id=3, lane=2, score=90),
        LEFT._replace(user_id=4, score=99),
        CALLED._replace(user_id=5, lane=9, score=100),  # of a lane that no line has
    ):
        history.add(fact)

    assert history.watermarks == [70, 0, 90, 0]
    assert history.last_score == 90
    assert history.last == (4, 0)
