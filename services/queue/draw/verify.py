"""Verifying a draw and a receipt, as a stranger does it: from what is published, with nothing of the house.

Imports nothing that needs settings, servers or generated code: the standard library, the arithmetic of the draw, and,
for receipts only, `cryptography`.
"""

import base64
import binascii
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any, Final

from services.common import draw

_LINE: Final = re.compile(r"(0|[1-9][0-9]{0,18}) ([0-3])")
_HEX: Final = re.compile(r"[0-9a-f]{64}")
# Problems of one kind that are told one by one.
_TOLD: Final = 5


class Unusable(Exception):
    """What was given to verify is not what the contract says: it cannot even be judged."""


@dataclass(frozen=True, slots=True)
class Place:
    """Someone's place among the drawn."""

    user_id: int
    lane: int
    score: int
    # From 1 on, within the lane.
    position: int
    of: int


@dataclass(frozen=True, slots=True)
class Findings:
    """What a receipt comes to beside a draw, one line each."""

    # What no honest house can explain.
    wrong: list[str]
    # What the owner may have done: a receipt proves entering, not staying, and not staying in that lane.
    unsure: list[str]
    # It was made before the draw, and has the commitment that was told then.
    is_promise: bool


class Draw:
    """A draw as GetDraw and ListEntrants tell it, and what is wrong with it."""

    def __init__(self, told: Mapping[str, Any], lines: Sequence[str]) -> None:
        """Raises Unusable when the draw has not been held, or a field is missing or malformed."""
        if told.get("state") != "HELD":
            raise Unusable(f"the draw has not been held: its state is {told.get('state')!r}")
        self.told = told
        self.lines = lines
        self.lanes: dict[int, int] = {}
        self._malformed = [f"entrant {line!r} is not `account lane`" for line in self._read(lines)]
        self._key = self._bytes("draw_key")

    def _read(self, lines: Sequence[str]) -> Iterator[str]:
        for line in lines:
            found = _LINE.fullmatch(line)
            if found is None:
                yield line
            else:
                self.lanes[int(found[1])] = int(found[2])

    def _bytes(self, field: str) -> bytes:
        value = self.told.get(field)
        if not isinstance(value, str) or not _HEX.fullmatch(value):
            raise Unusable(f"{field} is not 64 hexadecimal digits")
        return bytes.fromhex(value)

    def problems(self) -> list[str]:
        """What does not fit together, one line each. Whether it is as promised, `promise_problems` tells."""
        return [*self._malformed[:_TOLD], *self._list_problems(), *self._arithmetic_problems()]

    def promise_problems(self, kept: str) -> list[str]:
        """What is wrong beside the commitment that was told before the opening, in hexadecimal. Raises Unusable."""
        kept = kept.strip().lower()
        if not _HEX.fullmatch(kept):
            raise Unusable("the commitment that was kept is not 64 hexadecimal digits")
        if kept != self.told.get("commitment"):
            return [f"another commitment was promised before the opening: {kept}"]
        return []

    def _list_problems(self) -> Iterator[str]:
        users = [int(line.partition(" ")[0]) for line in self.lines if _LINE.fullmatch(line)]
        wrong = [after for before, after in pairwise(users) if after <= before]
        for user in wrong[:_TOLD]:
            yield f"the list does not ascend: account {user} stands behind a larger or the same one"
        if len(self.lines) != self.told.get("entrant_count"):
            yield f"the list has {len(self.lines)} people, told are {self.told.get('entrant_count')}"

    def _arithmetic_problems(self) -> Iterator[str]:
        seed, told_digest = self._bytes("seed"), self._bytes("list_digest")
        digest = draw.text_digest("".join(f"{line}\n" for line in self.lines))
        if draw.commitment(seed) != self._bytes("commitment"):
            yield "the seed is not the one that was committed to: its SHA-256 is not the commitment"
        if digest != told_digest:
            yield f"the list is not the one that was drawn from: its SHA-256 is {digest.hex()}"
        if draw.draw_key(seed, told_digest) != self._key:
            yield "the draw key is not the HMAC-SHA256 of the list digest with the seed as key"

    def place(self, user_id: int) -> Place | None:
        """Where someone stands among the drawn of their lane; None for who is not in the list."""
        if user_id not in self.lanes:
            return None
        lane = self.lanes[user_id]
        users = [user for user, own in self.lanes.items() if own == lane]
        order = draw.order(zip(draw.scores(self._key, users), users, strict=True))
        return Place(user_id, lane, draw.score(self._key, user_id), order.index(user_id) + 1, len(order))

    def receipt_findings(self, receipt: str) -> Findings:
        """What a receipt comes to, in itself and beside this draw."""
        claims = _signed_claims(receipt, self.told.get("receipt_keys", []))
        if claims is None:
            return Findings(["the receipt is forged: no published key signed it"], [], is_promise=False)
        wrong, unsure = list(self._broken_promises(claims)), list(self._changes(claims))
        return Findings(wrong, unsure, is_promise=bool(claims.get("in_draw")) and "list_digest" not in claims)

    def _broken_promises(self, claims: Mapping[str, Any]) -> Iterator[str]:
        for claim, field in (("event_id", "event_id"), ("commitment", "commitment")):
            if claims.get(claim) != self.told.get(field):
                yield f"the receipt is of {claim} {claims.get(claim)!r}, the draw of {self.told.get(field)!r}"
        if not claims.get("in_draw") or "list_digest" not in claims:
            return
        # Made after the draw: the list was closed, and nobody leaves it any more.
        user_id = claims.get("user_id", 0)
        if user_id not in self.lanes:
            yield f"account {user_id} has a receipt of its place in the draw, and is not in the list"
        if claims.get("score") != draw.score(self._key, user_id):
            drawn = draw.score(self._key, user_id)
            yield f"account {user_id} was told score {claims.get('score')}, and drew {drawn}"
        if claims["list_digest"] != self.told.get("list_digest"):
            yield "the receipt is of another list: its list_digest is not the one of the draw"

    def _changes(self, claims: Mapping[str, Any]) -> Iterator[str]:
        """How the list differs from what stood when the receipt was made: before the draw, or after it."""
        if not claims.get("in_draw"):
            return  # joined after the draw: first come, first served
        user_id, as_of = claims.get("user_id", 0), _as_of(claims)
        if user_id in self.lanes and claims.get("lane") != self.lanes[user_id]:
            yield (
                f"account {user_id} stood in lane {claims.get('lane')} {as_of}, and is listed in lane "
                f"{self.lanes[user_id]}: a pass leads into another lane, before the draw or after it. Without one the "
                "house has to answer"
            )
        if user_id not in self.lanes and "list_digest" not in claims:
            yield (
                f"account {user_id} took part {as_of}, and is not in the list: who leaves before the opening is in no "
                "list. If its owner did not leave, the house has to answer"
            )


def _as_of(claims: Mapping[str, Any]) -> str:
    made = claims.get("iat")
    if not isinstance(made, int):
        return "when the receipt was made"
    return f"as of {datetime.fromtimestamp(made, UTC):%Y-%m-%d %H:%M:%S} UTC"


def receipt_user(receipt: str) -> int:
    """Of which account a receipt is, as it says itself. Raises Unusable."""
    try:
        return int(json.loads(_decode(receipt.split(".")[1]))["user_id"])
    except (LookupError, TypeError, ValueError) as error:
        raise Unusable("the receipt is no JWS of an account") from error


def _signed_claims(receipt: str, keys: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    try:
        header, payload, signature = receipt.strip().split(".")
        head: dict[str, Any] = json.loads(_decode(header))
        claims: dict[str, Any] = json.loads(_decode(payload))
    except ValueError:
        return None
    if head.get("alg") != "EdDSA" or claims.get("iss") != "boxoffice":
        return None
    signed = f"{header}.{payload}".encode()
    own = [str(key["x"]) for key in keys if key.get("kid") == head.get("kid") and key.get("crv") == "Ed25519"]
    return claims if any(_is_signed(x, signature, signed) for x in own) else None


def _is_signed(x: str, signature: str, signed: bytes) -> bool:
    try:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    except ImportError:
        raise Unusable("receipts need the package cryptography: pip install cryptography") from None
    try:
        Ed25519PublicKey.from_public_bytes(_decode(x)).verify(_decode(signature), signed)
    except (InvalidSignature, ValueError):
        return False
    return True


def _decode(text: str) -> bytes:
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except binascii.Error as error:
        raise ValueError("not base64url") from error
