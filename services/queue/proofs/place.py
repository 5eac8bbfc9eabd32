"""The signed place: proof of a place in line that outlives the app, the device, and Redis."""

import struct
from typing import Final, NamedTuple, Self

from services.common.tokens import ForgedToken, KeyRing
from services.queue.line.domain import PlaceInvalid

# Says what was signed, so that nothing else that the same keys may sign one day can pass for a place.
_PURPOSE: Final = b"place2"
_FORMAT: Final = struct.Struct(f">{len(_PURPOSE)}sqqBqq")


class SignedPlace(NamedTuple):
    """Who stands where."""

    user_id: int
    event_id: int
    lane: int
    # Time of joining in µs of Redis' clock; 0 where it was not known any more.
    join_us: int
    # What orders the lane; 0 for who joined before the draw: it gives the score.
    score: int

    def encode(self, ring: KeyRing) -> str:
        """The token that the buyer carries."""
        return ring.sign(_FORMAT.pack(_PURPOSE, *self))

    @classmethod
    def decode(cls, ring: KeyRing, token: str) -> Self:
        """What `token` proves. Raises PlaceInvalid when no key of the ring signed it as a place."""
        try:
            purpose, *place = _FORMAT.unpack(ring.verify(token))
        except (ForgedToken, struct.error):
            raise PlaceInvalid from None
        if purpose != _PURPOSE:
            raise PlaceInvalid
        return cls(*place)

    def check_bearer(self, user_id: int, event_id: int) -> None:
        """Raises PlaceInvalid unless the place is this account's, in this line."""
        if (self.user_id, self.event_id) != (user_id, event_id):
            raise PlaceInvalid("the signed place belongs to another account or event")
