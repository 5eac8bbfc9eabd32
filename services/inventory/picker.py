"""Best available: which block of free seats to offer, out of a picture of the hall that may be a moment old.

The picture only ranks; the hold script decides. Each block that is offered first is marked, so that the requests of
one batch do not run into each other.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from services.inventory.seatmap import SeatMap, Section

# Blocks offered per request: the best one, and a few that most likely nobody else wants just now.
CANDIDATES: Final = 3
_SPREAD_TRIES: Final = 24


@dataclass(slots=True)
class _FreeRow:
    """Free seats of a row as bits, the lowest being the first seat."""

    section_id: str
    first_index: int
    seat_count: int
    standing: bool
    free: int

    def best(self, quantity: int) -> tuple[int, ...] | None:
        """Indexes of the best block of that size, ascending; None when there is none."""
        if self.standing:
            return self._places(quantity, 0)
        starts = [
            (_waste(left, length - left - quantity, quantity), self._off_centre(run + left, quantity), run + left)
            for run, length in _runs(self.free)
            for left in range(length - quantity + 1)
        ]
        if not starts:
            return None
        *_, start = min(starts)
        return tuple(range(self.first_index + start, self.first_index + start + quantity))

    def another(self, quantity: int) -> tuple[int, ...] | None:
        """A block of that size; in a standing area, places from anywhere in it."""
        if not self.standing:
            return self.best(quantity)
        return self._places(quantity, random.randrange(self.seat_count))  # noqa: S311 - spreads load, hides nothing

    def _places(self, quantity: int, start: int) -> tuple[int, ...] | None:
        found: list[int] = []
        free = self.free >> start << start
        while free and len(found) < quantity:
            lowest = free & -free
            found.append(self.first_index + lowest.bit_length() - 1)
            free ^= lowest
        return tuple(found) if len(found) == quantity else None

    def _off_centre(self, start: int, quantity: int) -> int:
        return abs(2 * start + quantity - self.seat_count)


class Picker:
    """Free seats of one event, by row, best rows first."""

    def __init__(self, seat_map: SeatMap, taken: bytes) -> None:
        """`taken` is the bitmap of the event: most significant bit first, 1 = taken."""
        self._rows = list(_free_rows(seat_map, taken))
        # Where the first block of a size can be: seats are only ever taken from a picture, so it never moves back.
        self._first: dict[tuple[int, str], int] = {}

    def pick(self, quantity: int, section: str) -> list[tuple[int, ...]]:
        """Ranked blocks, the first of which is marked as taken; empty when there is none of that size."""
        best = self._best(quantity, section)
        if best is None:
            return []
        self.mark(best)
        return [best, *self._elsewhere(quantity, section, best)]

    def _best(self, quantity: int, section: str) -> tuple[int, ...] | None:
        start = self._first.get((quantity, section), 0)
        for at in range(start, len(self._rows)):
            row = self._rows[at]
            if section in {"", row.section_id} and (block := row.best(quantity)):
                self._first[quantity, section] = at
                return block
        self._first[quantity, section] = len(self._rows)
        return None

    def _elsewhere(self, quantity: int, section: str, best: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
        """Blocks of other rows, at random: where no other process is looking either."""
        start = self._first[quantity, section]
        seen = {best}
        for _ in range(_SPREAD_TRIES):
            row = self._rows[random.randrange(start, len(self._rows))]  # noqa: S311 - spreads load, hides nothing
            if section in {"", row.section_id} and (block := row.another(quantity)) and block not in seen:
                seen.add(block)
                yield block
            if len(seen) == CANDIDATES:
                return

    def mark(self, seat_indexes: tuple[int, ...]) -> None:
        """Takes seats out of the picture."""
        for index in seat_indexes:
            row = self._row_of(index)
            row.free &= ~(1 << (index - row.first_index))

    def _row_of(self, index: int) -> _FreeRow:
        low, high = 0, len(self._rows) - 1
        while low < high:
            middle = (low + high + 1) // 2
            if self._rows[middle].first_index <= index:
                low = middle
            else:
                high = middle - 1
        return self._rows[low]


def _free_rows(seat_map: SeatMap, taken: bytes) -> Iterator[_FreeRow]:
    # Reversing the bits of every byte puts seat i at bit i of one large number.
    bits = int.from_bytes(taken.translate(_REVERSED), "little")
    for section in seat_map.sections:
        yield from _free_rows_of(section, ~bits)


def _free_rows_of(section: Section, free: int) -> Iterator[_FreeRow]:
    for row in section.rows:
        mask = (1 << row.seat_count) - 1
        bits = free >> row.first_index & mask
        yield _FreeRow(section.section_id, row.first_index, row.seat_count, section.standing, bits)


def _runs(free: int) -> Iterator[tuple[int, int]]:
    """First seat and length of each stretch of adjacent free seats."""
    first = 0
    while free:
        gap = (free & -free).bit_length() - 1
        free >>= gap
        length = (~free & (free + 1)).bit_length() - 1
        free >>= length
        yield first + gap, length
        first += gap + length


def _waste(left: int, right: int, quantity: int) -> tuple[int, int]:
    """How much worse off a row is: single seats, which hardly anybody buys, then what such blocks leave over."""
    return (left == 1) + (right == 1), left % quantity + right % quantity


_REVERSED: Final = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
