"""Receipts that strangers can verify: a JWS (EdDSA) of what an account was promised.

A signed place is made for us to read, a million times; a receipt for others, when somebody asks for one. It tells what
was so when it was made (`iat`): it proves that somebody entered, not that they stayed, or stayed in that lane.
"""

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Self

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

ISSUER: Final = "boxoffice"
TYPE: Final = "boxoffice-receipt"
_ALGORITHM: Final = "EdDSA"
_SEED_BYTES: Final = 32
_SPELLING: Final = "keys must be kid:base64 of 32 bytes, separated by commas"


@dataclass(frozen=True, slots=True)
class PublicKey:
    """What verifies receipts: an Ed25519 key, base64url, and its name."""

    kid: str
    x: str


class ReceiptKeys:
    """Signs with the first key and publishes all: a receipt stays good as long as its key is among them."""

    def __init__(self, keys: Sequence[tuple[str, Ed25519PrivateKey]]) -> None:
        self._keys = list(keys)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads "kid1:base64,kid2:base64". Raises ValueError that does not tell the keys."""
        pairs = [entry.strip().partition(":") for entry in text.split(",") if entry.strip()]
        if not pairs or len({kid for kid, _, _ in pairs}) != len(pairs):
            raise ValueError(_SPELLING)
        return cls([(_key_id(kid), _private(secret)) for kid, _, secret in pairs])

    def sign(self, claims: Mapping[str, object]) -> str:
        """The claims as a JWS in compact form."""
        kid, private = self._keys[0]
        headers = {"kid": kid, "typ": TYPE}
        return jwt.encode({"iss": ISSUER, **claims}, private, algorithm=_ALGORITHM, headers=headers)

    def published(self) -> list[PublicKey]:
        """The public halves, the signing one first."""
        return [PublicKey(kid, _base64url(private.public_key().public_bytes_raw())) for kid, private in self._keys]


def _key_id(kid: str) -> str:
    # Where the colon is missing, the "name" is the secret: it is not told.
    if not (kid.isascii() and kid.isalnum()):
        raise ValueError(_SPELLING)
    return kid


def _private(secret: str) -> Ed25519PrivateKey:
    try:
        seed = base64.b64decode(secret, validate=True)
    except binascii.Error:
        raise ValueError(_SPELLING) from None
    if len(seed) != _SEED_BYTES:
        raise ValueError(_SPELLING)
    return Ed25519PrivateKey.from_private_bytes(seed)


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
