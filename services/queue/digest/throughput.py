"""How fast people are called now, and how surely that is known: by the rate while slots are free, then by slots.

A slot comes back when its owner has bought, left, or let time run out. So the pace of a full house is cap / stay, where
the stay is how long people are inside on average, no-shows among them.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from services.queue.digest.snapshot import Sample

# What the stay is taken for before anyone has left: a share of the longest admission. Three minutes of ten, a usual
# time for seats and payment.
_USUAL_STAY: Final = 0.3
# How far off that first guess may be, as a logarithm: a factor of 1.6 either way is one standard deviation.
_GUESS_DOUBT: Final = 0.5
# What an observed stay may still be off: tomorrow's buyers are not today's, and seats get rarer.
_OBSERVED_DOUBT: Final = 0.1
# Share of those inside who must have left before the observed stay weighs as much as the guess. Until then mostly those
# with short stays have left, and the others count as if they stayed for ever.
_TURNOVER: Final = 0.35
# Older samples than this tell of other hours.
_RECENT_SECONDS: Final = 300.0
_SLOWEST: Final = 0.001


@dataclass(frozen=True, slots=True)
class Throughput:
    """What bounds the calls of the next minutes."""

    rate_per_second: float
    """Calls per second while slots are free."""
    inside_cap: int
    inside: int
    stay_seconds: float
    """Mean time from a call until the slot comes back."""
    stay_doubt: float
    """Standard deviation of the logarithm of what the mean stay may be."""

    def seconds_until(self, calls: float) -> float:
        """When so many people more will have been called, if things go on as they are."""
        return self._seconds(calls, self.stay_seconds)

    def doubt(self, calls: float) -> float:
        """Standard deviation that comes from not knowing the stay, as a share of the time."""
        factor = math.exp(self.stay_doubt)
        low, high = (self._seconds(calls, stay) for stay in (self.stay_seconds / factor, self.stay_seconds * factor))
        return (high - low) / (2 * self.seconds_until(calls))

    def share_bound_by_slots(self, calls: float) -> float:
        """Of so many calls, the share that will have waited for slots."""
        return max(0.0, 1 - self._free(self.stay_seconds)[0] / calls)

    def _seconds(self, calls: float, stay: float) -> float:
        cap, inside = self.inside_cap, self.inside
        blocked = stay * math.log(inside / cap) if inside > cap else 0.0  # until a lowered cap is reached
        free_calls, free_seconds = self._free(stay)
        if calls <= free_calls:
            return blocked + calls / max(self.rate_per_second, _SLOWEST)
        return blocked + free_seconds + (calls - free_calls) * stay / cap

    def _free(self, stay: float) -> tuple[float, float]:
        """How many calls, and for how long, the rate alone bounds: until as many are inside as may be.

        Slots come back in proportion to those inside, so that their number moves towards rate * stay.
        """
        rate, cap = max(self.rate_per_second, _SLOWEST), self.inside_cap
        full = rate * stay
        if full <= cap:
            return math.inf, math.inf
        seconds = stay * math.log((full - min(self.inside, cap)) / (full - cap))
        return rate * seconds, seconds


def first_stay(rate_per_second: float, inside_cap: int, admission_seconds: float, claim_seconds: float) -> float:
    """The stay before anyone has left: whoever set rate and cap expected slots to suffice, within reason."""
    usual, longest = _USUAL_STAY * admission_seconds, admission_seconds + claim_seconds
    return min(max(inside_cap / max(rate_per_second, _SLOWEST), usual), longest)


def observed_stay(samples: Sequence[Sample], guess: float, longest: float) -> tuple[float, float]:
    """Mean stay and its doubt, from what was counted (oldest first): time spent inside, per slot that came back."""
    if len(samples) < 2:  # noqa: PLR2004 - a span has two ends
        return guess, _GUESS_DOUBT
    newest = samples[-1]
    recent = [each for each in samples if each.seconds >= newest.seconds - _RECENT_SECONDS]
    spent = sum(
        (one.inside + next_.inside) / 2 * (next_.seconds - one.seconds) for one, next_ in itertools.pairwise(recent)
    )
    ended = (newest.called - newest.inside) - (recent[0].called - recent[0].inside)
    if ended <= 0 or spent <= 0:
        return guess, _GUESS_DOUBT
    # A line that was rebuilt after a loss does not know of every call.
    turnover = max(newest.called - newest.inside, 0) / max(newest.inside, 1)
    trust = turnover**2 / (turnover**2 + _TURNOVER**2)
    stay = math.exp(trust * math.log(min(spent / ended, longest)) + (1 - trust) * math.log(guess))
    doubt = math.hypot(_GUESS_DOUBT * (1 - trust), _OBSERVED_DOUBT, 1 / math.sqrt(ended))
    return stay, min(doubt, _GUESS_DOUBT)
