"""Proof that a join costs somebody something: a port, and what may be asked for. Who has a place is never asked.

A service that tells people from machines is another adapter: `text` hands out what its script on the page needs,
`passes` asks the service about the answer (docs/decisions/0086).
"""

import hashlib
import struct
from datetime import timedelta
from typing import Final, Protocol

from services.common.clock import Clock
from services.common.errors import BoxofficeError
from services.common.tokens import ForgedToken, KeyRing
from services.queue.line.store import to_ms

_PURPOSE: Final = b"chall1"
_FORMAT: Final = struct.Struct(f">{len(_PURPOSE)}sqqqB")
# Long enough for the slowest phone to find an answer, short enough that none are kept in store for the opening.
_LIFE: Final = timedelta(minutes=5)
# A challenge and a number behind it; what is longer is no answer of ours.
_LONGEST_ANSWER: Final = 256
_BITS_OF_DIGEST: Final = 256


class ChallengeRequired(BoxofficeError):
    """No answer, or not a good one. The metadata holds a new challenge, its kind, and what the kind needs."""

    reason = "CHALLENGE_REQUIRED"


class Challenge(Protocol):
    """What a newcomer is asked before the line takes them."""

    def text(self, event_id: int, user_id: int) -> dict[str, str]:
        """A new challenge for this account and event, as metadata of the refusal."""
        ...

    async def passes(self, event_id: int, user_id: int, answer: str) -> bool:
        """Whether `answer` answers a challenge of this account and event."""
        ...


class ProofOfWork:
    """A number is to be found such that the SHA-256 of "<challenge>.<number>" begins with so many zero bits.

    Nothing is stored: the challenge itself says, under our signature, whose it is, for which event, and until when. It
    need not be remembered which were used: an account has one place in a line, and an answer is good for that one only.
    """

    def __init__(self, keys: KeyRing, bits: int, clock: Clock) -> None:
        self._keys = keys
        self._bits = bits
        self._clock = clock

    def text(self, event_id: int, user_id: int) -> dict[str, str]:
        """A challenge that lasts five minutes."""
        payload = _FORMAT.pack(_PURPOSE, event_id, user_id, to_ms(self._clock.now() + _LIFE), self._bits)
        return {"challenge": self._keys.sign(payload), "kind": "proof_of_work", "difficulty": str(self._bits)}

    async def passes(self, event_id: int, user_id: int, answer: str) -> bool:
        """Whether the work was done for this account and event, and for a challenge that is neither old nor easier."""
        challenge, _, number = answer.rpartition(".")
        if len(answer) > _LONGEST_ANSWER or not (number.isascii() and number.isdecimal()):
            return False
        try:
            purpose, event, user, expire_ms, bits = _FORMAT.unpack(self._keys.verify(challenge))
        except (ForgedToken, struct.error):
            return False
        # An answer to an easier challenge of before is no longer enough when the difficulty was raised in an attack.
        meant = (purpose, event, user) == (_PURPOSE, event_id, user_id) and bits >= self._bits
        return meant and to_ms(self._clock.now()) < expire_ms and leading_zero_bits(answer) >= self._bits


def leading_zero_bits(answer: str) -> int:
    """Of the SHA-256 of an answer."""
    return _BITS_OF_DIGEST - int.from_bytes(hashlib.sha256(answer.encode()).digest()).bit_length()
