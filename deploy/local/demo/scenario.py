"""Who comes to the sale, and what they intend.

The crowd is drawn from a seeded generator, so that two runs with the same numbers meet the same people.
"""

import random
from collections import Counter
from dataclasses import dataclass
from enum import StrEnum


class Intent(StrEnum):
    """What a buyer will do. Each stands for something that went wrong for somebody, somewhere, once."""

    HONEST = "honest"
    ABANDONS = "abandons"
    """Reserves and never pays: the seats must come back."""
    DECLINED_FIRST = "declined first"
    """The first card is declined, the second is good."""
    RETRIES = "retries"
    """Sends every request twice with the same key, as a phone on a bad network does."""
    SKIPS_LINE = "skips the line"
    """Reserves without an admission, then with a forged one; joins with a forged place, then with a forged pass; and
    then like everyone else."""
    LATE_CARD = "late card"
    """The provider captures the money but answers too late."""
    LEAVES_LINE = "leaves the line"
    """Joins, looks, and goes away."""
    MISSES_CALL = "misses the call"
    """Does not claim in time; comes back, and has a second chance."""
    CHANGES_DEVICE = "changes the device"
    """Signs in elsewhere with nothing but the signed place, and goes on from there."""


# Shares of the crowd, in percent; the rest is honest.
SHARES = {
    Intent.ABANDONS: 8,
    Intent.DECLINED_FIRST: 6,
    Intent.RETRIES: 10,
    Intent.SKIPS_LINE: 5,
    Intent.LATE_CARD: 2,
    Intent.LEAVES_LINE: 3,
    Intent.MISSES_CALL: 1,
    Intent.CHANGES_DEVICE: 1,
}
EARLY_SHARE = 0.6
LANE_PASS_SHARE = 0.1
RECEIPT_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class Persona:
    """One person of the crowd."""

    number: int
    intent: Intent
    quantity: int
    """Tickets wanted, 1 to 4."""
    follows_stream: bool
    """Watches the line by server-sent events; the others poll."""
    has_device: bool
    """Registered a phone for push messages."""
    is_early: bool
    """Comes before the sale opens, and so takes part in the draw."""
    has_pass: bool
    """May join the priority lane."""
    keeps_receipt: bool
    """Asks for a receipt that anyone can verify."""

    @property
    def buys(self) -> bool:
        """Whether this person pays when given seats."""
        return self.intent not in (Intent.ABANDONS, Intent.LEAVES_LINE)


def crowd(size: int, seed: int) -> list[Persona]:
    """Draws `size` people; the same seed draws the same people."""
    rng = random.Random(seed)  # noqa: S311 - a reproducible crowd, not a secret
    intents = [intent for intent, percent in SHARES.items() for _ in range(size * percent // 100)]
    intents += [Intent.HONEST] * (size - len(intents))
    # One of each kind comes first and by the priority lane, so that a small sale shows everything, too: who comes late
    # may find no seats.
    kinds = dict.fromkeys(intents)
    rest = list((Counter(intents) - Counter(kinds.keys())).elements())
    rng.shuffle(rest)
    return [
        Persona(
            number=number,
            intent=intent,
            quantity=rng.choices((1, 2, 3, 4), weights=(45, 40, 9, 6))[0],
            follows_stream=rng.random() < 0.5,  # noqa: PLR2004 - half of them
            has_device=rng.random() < 0.6,  # noqa: PLR2004 - most of them
            is_early=number < len(kinds) or rng.random() < EARLY_SHARE,
            has_pass=number < len(kinds) or rng.random() < LANE_PASS_SHARE,
            keeps_receipt=number < len(kinds) or rng.random() < RECEIPT_SHARE,
        )
        for number, intent in enumerate([*kinds, *rest])
    ]
