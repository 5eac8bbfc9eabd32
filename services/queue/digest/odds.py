"""Whether seats will be left: what those who were called took so far, applied to those who are still in front."""

import math
from dataclasses import dataclass
from typing import Final

# Before that the sale has not shown what people take.
_ENOUGH_CALLED: Final = 30
# Of those inside, as many have chosen as have not: they take their seats somewhere in the middle of their stay.
_CHOSEN: Final = 0.5
# Mean square of what one person takes, relative to the mean: most who buy take two, some one or four.
_SIZES: Final = 3.0
_LEAST_DISPERSION: Final = 0.5
# What later buyers take may differ from what the first ones took by this share, however many those were.
_DRIFT: Final = 0.1
# Closer to certainty than this is told as certainty.
_CERTAIN: Final = 0.005


@dataclass(frozen=True, slots=True)
class Demand:
    """What was taken, and by how many."""

    called: int
    inside: int
    seats_left: int | None
    seats_total: int | None
    sold_out: bool = False

    def odds(self, ahead: float) -> float | None:
        """The chance that a seat is left when so many more have been called; None while the sale has not shown enough.

        What many people take together is taken as normally distributed.
        """
        if self.sold_out:
            return 0.0
        chosen = self.called - self.inside * _CHOSEN
        if self.seats_left is None or self.seats_total is None or min(self.called, 2 * chosen) < _ENOUGH_CALLED:
            return None
        each = (self.seats_total - self.seats_left) / chosen
        buyers = ahead + self.inside * _CHOSEN
        if not math.isfinite(buyers) or each <= 0:
            return 1.0 if self.seats_left and each <= 0 else None
        variance = each * max(_SIZES - each, _LEAST_DISPERSION)
        doubt = math.hypot(each * _DRIFT, math.sqrt(variance / chosen))
        deviation = math.hypot(math.sqrt(buyers * variance), buyers * doubt)
        return _rounded(_normal((self.seats_left - 0.5 - buyers * each) / max(deviation, 1e-9)))


def _normal(z: float) -> float:
    return 0.5 * math.erfc(-z / math.sqrt(2))


def _rounded(chance: float) -> float:
    if chance < _CERTAIN or chance > 1 - _CERTAIN:
        return float(round(chance))
    return chance
