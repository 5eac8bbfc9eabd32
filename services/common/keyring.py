"""Tokens that only Boxoffice reads: a payload and its HMAC-SHA256, with keys that rotate.

A hundred times cheaper than a signed JWT, for tokens that are shown once or twice (see docs/decisions/0013).
"""

import base64
import binascii
import hashlib
import hmac
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Final, Self

# As many bytes as the hash has: a shorter key would be the weakest part.
_SHORTEST_KEY: Final = 32
_LONGEST_KEY_ID: Final = 16
_SPELLING: Final = "keys must be kid:base64, separated by commas"


class ForgedToken(ValueError):
    """The token was not signed with any of the keys, or was changed since."""


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)


class KeyRing:
    """Named keys of which the first signs and all verify, so that keys can be changed while tokens are about."""

    def __init__(self, keys: Mapping[str, bytes]) -> None:
        """Raises ValueError when there is no key, or one that is too short or has an unusable name."""
        if not keys:
            raise ValueError("a key ring needs at least one key")
        # Keys are told by number: where a colon is missing, the "name" is the secret.
        for number, (name, key) in enumerate(keys.items(), 1):
            if not (name.isascii() and name.isalnum() and len(name) <= _LONGEST_KEY_ID):
                raise ValueError(f"the id of key {number} is not 1 to {_LONGEST_KEY_ID} ASCII letters and digits")
            if len(key) < _SHORTEST_KEY:
                raise ValueError(f"key {number} is shorter than {_SHORTEST_KEY} bytes")
        self._keys = dict(keys)
        self._signer = next(iter(self._keys))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads "kid1:base64,kid2:base64". Raises ValueError that does not tell the keys."""
        pairs = [entry.strip().partition(":") for entry in text.split(",") if entry.strip()]
        if not all(colon for _, colon, _ in pairs):
            raise ValueError(_SPELLING)
        if len({name for name, _, _ in pairs}) != len(pairs):
            raise ValueError("two keys have the same id")
        try:
            return cls({name: base64.b64decode(key, validate=True) for name, _, key in pairs})
        except binascii.Error:
            raise ValueError(_SPELLING) from None

    def sign(self, payload: bytes) -> str:
        """`payload` as a token of URL-safe characters: "kid.payload.mac"."""
        return self._token(self._signer, payload)

    def verify(self, token: str) -> bytes:
        """The payload of a token that `sign` made. Raises ForgedToken."""
        key_id, _, rest = token.partition(".")
        if key_id not in self._keys:
            raise ForgedToken("not signed with a known key")
        try:
            payload = _decode(rest.partition(".")[0])
        except ValueError:
            raise ForgedToken("malformed") from None
        # The whole token is compared, so that there is one spelling of it only. Headers may hold lone surrogates.
        if not hmac.compare_digest(self._token(key_id, payload).encode(), token.encode(errors="replace")):
            raise ForgedToken("the signature does not match")
        return payload

    def _token(self, key_id: str, payload: bytes) -> str:
        mac = hmac.digest(self._keys[key_id], payload, hashlib.sha256)
        return f"{key_id}.{_encode(payload)}.{_encode(mac)}"


@dataclass(frozen=True, slots=True)
class AdmissionToken:
    """Proof that queue let an account in to the seats of one event. The holder of the ring decides; see `expired`."""

    # A first byte that no other payload has: a token of another kind cannot be read as this one.
    _LAYOUT: ClassVar[struct.Struct] = struct.Struct(">BQQQ8s")
    _KIND: ClassVar[int] = 0xA1

    user_id: int
    event_id: int
    # Milliseconds since 1970, on Redis' clock.
    expire_time_ms: int
    # 16 hex digits, unique per admission.
    token_id: str

    def encode(self, ring: KeyRing) -> str:
        """The token for the X-Admission-Token header: at most 140 URL-safe characters."""
        return ring.sign(
            self._LAYOUT.pack(
                self._KIND, self.user_id, self.event_id, self.expire_time_ms, bytes.fromhex(self.token_id)
            )
        )

    @classmethod
    def decode(cls, ring: KeyRing, token: str) -> Self:
        """What a token proves; its expiry is the reader's to judge. Raises ForgedToken."""
        payload = ring.verify(token)
        if len(payload) != cls._LAYOUT.size or payload[0] != cls._KIND:
            raise ForgedToken("not an admission token")
        _, user_id, event_id, expire_time_ms, token_id = cls._LAYOUT.unpack(payload)
        return cls(user_id, event_id, expire_time_ms, token_id.hex())
