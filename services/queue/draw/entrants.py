"""Who takes part in a draw: a list of a million people in nine bytes each, made and read in short steps."""

from array import array
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import Final

# People of one part of a list: some milliseconds of work, 20 to 50 kB of a record.
PART: Final = 5_000
# One in so many is looked at to find out where to cut.
_SAMPLE: Final = 50


class Entrants:
    """Accounts, ascending, with their lanes. Grows at its end only."""

    def __init__(self) -> None:
        self._users = array("q")
        self._lanes = bytearray()

    def __len__(self) -> int:
        return len(self._users)

    def extend(self, users: Sequence[int], lanes: Sequence[int]) -> None:
        """Takes the next people. Raises ValueError when the two differ in length or a lane is no lane."""
        if len(users) != len(lanes):
            raise ValueError("everyone in a list has one lane")
        self._users.extend(users)
        self._lanes.extend(lanes)

    def slice(self, start: int, stop: int) -> tuple[list[int], list[int]]:
        """Some of the list: accounts, and the lane of each."""
        return self._users[start:stop].tolist(), list(self._lanes[start:stop])

    def parts(self, size: int = PART) -> Iterator[tuple[list[int], list[int]]]:
        """The list in parts of `size` people, the last one smaller; none where nobody takes part."""
        for start in range(0, len(self), size):
            yield self.slice(start, start + size)

    def __contains__(self, user_id: int) -> bool:
        place = bisect_left(self._users, user_id)
        return place < len(self._users) and self._users[place] == user_id


def ascending(runs: Sequence[list[int]]) -> Iterator[list[int]]:
    """What many sorted runs hold together, ascending, in parts of about PART.

    Sorting a million numbers at once would hold up everything else for half a second. Instead values are picked that
    cut the whole into equal parts; what lies between two of them is collected from all runs, and sorted by itself.
    """
    sample = sorted(value for run in runs for value in run[::_SAMPLE])
    cuts = sample[PART // _SAMPLE :: PART // _SAMPLE]
    starts = [0] * len(runs)
    for cut in (*cuts, None):
        part: list[int] = []
        for index, run in enumerate(runs):
            end = len(run) if cut is None else bisect_left(run, cut, starts[index])
            part += run[starts[index] : end]
            starts[index] = end
        part.sort()
        yield part
