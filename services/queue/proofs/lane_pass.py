"""The lane pass: lets one account join a priority lane of one event. Nothing is stored."""

import struct
from dataclasses import astuple, dataclass
from typing import Final, Self

from services.common.tokens import ForgedToken, KeyRing
from services.queue.line.domain import LanePassInvalid

# The keys are those of signed places; this says which of both it is.
_PURPOSE: Final = b"lane1"
_FORMAT: Final = struct.Struct(f">{len(_PURPOSE)}sqqB")


@dataclass(frozen=True, slots=True)
class LanePass:
    """Who may join which lane."""

    user_id: int
    event_id: int
    lane: int

    def encode(self, ring: KeyRing) -> str:
        """The token that its owner brings."""
        return ring.sign(_FORMAT.pack(_PURPOSE, *astuple(self)))

    @classmethod
    def decode(cls, ring: KeyRing, token: str) -> Self:
        """What `token` allows. Raises LanePassInvalid when no key of the ring signed it as a lane pass."""
        try:
            purpose, *allowed = _FORMAT.unpack(ring.verify(token))
        except (ForgedToken, struct.error):
            raise LanePassInvalid from None
        if purpose != _PURPOSE:
            raise LanePassInvalid
        return cls(*allowed)

    def check_bearer(self, user_id: int, event_id: int) -> None:
        """Raises LanePassInvalid unless the pass is this account's, for this line."""
        if (self.user_id, self.event_id) != (user_id, event_id):
            raise LanePassInvalid("the pass belongs to another account or event")
