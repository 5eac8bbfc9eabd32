"""The signed place: proof of a place in line that outlives the app, the device, and Redis."""

import struct
from dataclasses import dataclass
from typing import Final, Self

from services.common.tokens import ForgedToken, KeyRing
from services.queue.line.domain import PlaceInvalid

# Says what was signed, so that nothing else that the same keys may sign one day can pass for a place.
_PURPOSE: Final = b"place1"
_FORMAT: Final = struct.Struct(f">{len(_PURPOSE)}sqqq")


@dataclass(frozen=True, slots=True)
class SignedPlace:
    """Who stands where: `score` is the time of joining in µs of Redis' clock."""

    user_id: int
    event_id: int
    score: int

    def encode(self, ring: KeyRing) -> str:
        """The token that the buyer carries."""
        return ring.sign(_FORMAT.pack(_PURPOSE, self.user_id, self.event_id, self.score))

    @classmethod
    def decode(cls, ring: KeyRing, token: str) -> Self:
        """What `token` proves. Raises PlaceInvalid when no key of the ring signed it as a place."""
        try:
            purpose, user_id, event_id, score = _FORMAT.unpack(ring.verify(token))
        except (ForgedToken, struct.error):
            raise PlaceInvalid from None
        if purpose != _PURPOSE:
            raise PlaceInvalid
        return cls(user_id, event_id, score)

    def check_bearer(self, user_id: int, event_id: int) -> None:
        """Raises PlaceInvalid unless the place is this account's, in this line."""
        if (self.user_id, self.event_id) != (user_id, event_id):
            raise PlaceInvalid("the signed place belongs to another account or event")
