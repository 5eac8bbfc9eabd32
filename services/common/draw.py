"""The arithmetic of a draw: what a verifier must do the same way as the house, and nothing else.

    seed        HMAC-SHA256 of "boxoffice.draw|<event_id>", with a secret of the house as key
    commitment  SHA-256 of the seed, public from the first day of the event
    list        one line "user_id lane" for everyone who takes part, ascending by user id, a line feed behind each
    list digest SHA-256 of the list
    draw key    HMAC-SHA256 of the list digest (32 bytes), with the seed as key
    score       the first 50 bits of the HMAC-SHA256 of the account's number in decimal digits, with the draw key as key

Smaller scores come first. Numbers of 50 bits are exact in a Redis sorted set, and far below any time of joining in µs,
so that everyone of the draw stands before everyone who came later. Two people draw the same number once in two thousand
draws of a million; they are ordered by the digits of their account as text, as Redis does it.
"""

import hashlib
import hmac
from collections.abc import Iterable
from typing import Final

SCORE_BITS: Final = 50
_SCORE_BYTES: Final = 7
_SPARE_BITS: Final = _SCORE_BYTES * 8 - SCORE_BITS
_BLOCK_BYTES: Final = 64
_INNER_PAD: Final = bytes(byte ^ 0x36 for byte in range(256))
_OUTER_PAD: Final = bytes(byte ^ 0x5C for byte in range(256))


def seed(secret: bytes, event_id: int) -> bytes:
    """The seed of an event's draw: 32 bytes that nobody without the secret can tell."""
    return hmac.digest(secret, f"boxoffice.draw|{event_id}".encode(), "sha256")


def commitment(seed: bytes) -> bytes:
    """What is published before anyone enters: the seed can be checked against it later, and not be changed."""
    return hashlib.sha256(seed).digest()


def entrant_line(user_id: int, lane: int) -> str:
    """Someone's line in the list, with its line feed."""
    return f"{user_id} {lane}\n"


def text_digest(text: str) -> bytes:
    """The digest of a list that is at hand as a whole, spelled as it stands."""
    return hashlib.sha256(text.encode()).digest()


class ListDigest:
    """The digest of a list that arrives in parts."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self._last = -1
        self.count = 0

    def add(self, entrants: Iterable[tuple[int, int]]) -> None:
        """Takes the next (user id, lane). Raises ValueError unless user ids ascend, within and across calls."""
        lines = []
        for user_id, lane in entrants:
            if user_id <= self._last:
                raise ValueError(f"user {user_id} stands behind user {self._last} in the list")
            self._last = user_id
            lines.append(entrant_line(user_id, lane))
        self.count += len(lines)
        self._hash.update("".join(lines).encode())

    def digest(self) -> bytes:
        """The 32 bytes of the digest of what was taken so far."""
        return self._hash.digest()


def draw_key(seed: bytes, list_digest: bytes) -> bytes:
    """What gives everyone a place: neither the seed nor the list alone decides it."""
    return hmac.digest(seed, list_digest, "sha256")


def score(draw_key: bytes, user_id: int) -> int:
    """The number that an account draws, in [0, 2^50)."""
    return scores(draw_key, [user_id])[0]


def scores(draw_key: bytes, user_ids: Iterable[int]) -> list[int]:
    """The numbers of many accounts, in their order: about a second for a million.

    HMAC is spelled out, because its key can then be absorbed once: half of the work, and a third of the time.
    """
    if len(draw_key) > _BLOCK_BYTES:
        raise ValueError("a draw key has 32 bytes")
    block = draw_key.ljust(_BLOCK_BYTES, b"\0")
    inner_start, outer_start = hashlib.sha256(block.translate(_INNER_PAD)), hashlib.sha256(block.translate(_OUTER_PAD))
    found = []
    for user_id in user_ids:
        inner, outer = inner_start.copy(), outer_start.copy()
        inner.update(b"%d" % user_id)
        outer.update(inner.digest())
        found.append(int.from_bytes(outer.digest()[:_SCORE_BYTES], "big") >> _SPARE_BITS)
    return found


def order(scored: Iterable[tuple[int, int]]) -> list[int]:
    """The accounts of (score, user id), in the order in which they are called."""
    return [user_id for _, _, user_id in sorted((score, str(user_id), user_id) for score, user_id in scored)]
