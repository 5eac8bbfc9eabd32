"""Halls, prices and the ranking of free blocks."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.inventory import seatmap
from services.inventory.picker import Picker
from services.inventory.seatmap import InvalidSeatMap, SeatMap

THREE_ROWS = seatmap.parse(seatmap.generated_document(60))
TIERS = '{"name": "x", "price_tiers": [{"id": "S", "name": "S", "price": 1}], '


def bitmap(taken: set[int], seats: int = 60) -> bytes:
    bits = bytearray((seats + 7) // 8)
    for seat in taken:
        bits[seat // 8] |= 0x80 >> seat % 8
    return bytes(bits)


@pytest.mark.parametrize(("hall", "seats"), [("club", 60), ("theatre", 1_200), ("arena", 20_000)])
def test_the_halls_have_the_seats_they_are_known_for(hall: str, seats: int) -> None:
    assert seatmap.parse(seatmap.hall_document(hall)).seats_total == seats


def test_the_arena_has_standing_areas() -> None:
    arena = seatmap.parse(seatmap.hall_document("arena"))
    assert sum(section.seat_count for section in arena.sections if section.standing) == 8_000


@given(st.integers(1, 500))
def test_a_generated_hall_has_exactly_so_many_seats_in_rows_of_twenty(seats: int) -> None:
    hall = seatmap.parse(seatmap.generated_document(seats))
    (section,) = hall.sections
    assert hall.seats_total == seats
    assert {row.seat_count for row in section.rows[:-1]} <= {20}


def test_a_price_is_that_of_the_section_of_the_seat() -> None:
    club = seatmap.parse(seatmap.hall_document("club"))
    assert [club.price_of(index) for index in (0, 39, 40, 59)] == [66_000, 66_000, 44_000, 44_000]
    assert club.price_of_all([39, 40]) == 110_000
    assert club.price_from == 44_000


def test_a_changed_map_has_another_version_and_a_reformatted_one_the_same() -> None:
    document = seatmap.hall_document("club")
    assert seatmap.parse(json.dumps(json.loads(document))).version == seatmap.parse(document).version
    assert seatmap.parse(document.replace("66000", "67000")).version != seatmap.parse(document).version


@pytest.mark.parametrize(
    "document",
    [
        "not json",
        "[]",
        '{"name": "x"}',
        '{"name": "x", "price_tiers": [], "sections": []}',
        TIERS + '"sections": [{"id": "A", "name": "A", "tier": "S", "rows": [{"name": "1", "seats": 0}]}]}',
        TIERS + '"sections": [{"id": "A", "name": "A", "tier": "S", "rows": []}]}',
        TIERS + '"sections": [{"id": "A", "name": "A", "tier": "S", "standing": 2000000}]}',
    ],
)
def test_what_is_not_a_seat_map_is_refused(document: str) -> None:
    with pytest.raises(InvalidSeatMap):
        seatmap.parse(document)


def test_the_best_block_is_in_the_first_row_in_its_middle() -> None:
    assert Picker(THREE_ROWS, bitmap(set())).pick(2, "")[0] in {(8, 9), (10, 11)}
    assert Picker(THREE_ROWS, bitmap(set())).pick(4, "")[0] == (8, 9, 10, 11)


def test_a_block_does_not_leave_a_single_seat_when_it_can_help_it() -> None:
    row_with_three_free = bitmap(set(range(20)) - {7, 8, 9})
    assert Picker(THREE_ROWS, row_with_three_free).pick(1, "")[0] in {(7,), (9,)}
    free_run_of_four = bitmap(set(range(20)) - {6, 7, 8, 9})
    assert Picker(THREE_ROWS, free_run_of_four).pick(2, "")[0] in {(6, 7), (8, 9)}


def test_seats_of_a_block_are_adjacent_and_never_across_rows() -> None:
    taken = set(range(60)) - {18, 19, 20, 21}
    assert Picker(THREE_ROWS, bitmap(taken)).pick(3, "") == []
    assert Picker(THREE_ROWS, bitmap(taken)).pick(2, "")[0] in {(18, 19), (20, 21)}


def test_requests_of_one_batch_are_offered_different_seats_first_until_all_are_given() -> None:
    picker = Picker(THREE_ROWS, bitmap(set()))
    firsts = [picker.pick(2, "")[0] for _ in range(30)]
    assert sorted(seat for block in firsts for seat in block) == list(range(60))
    assert picker.pick(1, "") == []


def test_a_section_is_kept_to() -> None:
    theatre: SeatMap = seatmap.parse(seatmap.hall_document("theatre"))
    wanted = next(section for section in theatre.sections if section.section_id == "2L")
    blocks = Picker(theatre, bytes(150)).pick(4, "2L")
    seats = {seat for block in blocks for seat in block}
    assert seats <= set(range(wanted.first_index, wanted.first_index + wanted.seat_count))
    assert len(blocks) > 1


def test_standing_places_need_not_be_adjacent() -> None:
    arena = seatmap.parse(seatmap.hall_document("arena"))
    free = {5, 700, 3_999}
    picker = Picker(arena, bitmap(set(range(20_000)) - free, 20_000))
    assert picker.pick(3, "")[0] == (5, 700, 3_999)


@given(st.sets(st.integers(0, 59)), st.integers(1, 8))
def test_every_block_offered_is_free_in_the_picture(taken: set[int], quantity: int) -> None:
    for block in Picker(THREE_ROWS, bitmap(taken)).pick(quantity, ""):
        assert len(block) == quantity
        assert not taken & set(block)
