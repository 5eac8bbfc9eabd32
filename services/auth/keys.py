"""The RSA keys that access tokens are signed with.

Rotation without a rejected token: append the new key to the file and restart every replica (it is published, not yet
used); five minutes later (the cache age of the key set) move it to the front and restart; 15 minutes later (the life
of an access token) remove the old key.
"""

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

ALGORITHM = "RS256"
MIN_KEY_BITS = 2048  # NIST SP 800-57: the smallest RSA key that is still accepted

_PRIVATE_KEY = re.compile(rb"-----BEGIN ([A-Z ]*PRIVATE KEY)-----.*?-----END \1-----", re.DOTALL)


class UnusableKey(ValueError):
    """The key file holds something that access tokens cannot be signed with."""


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A private key and its name."""

    kid: str
    private: RSAPrivateKey


class SigningKeys:
    """Signs with the first key and publishes all of them."""

    def __init__(self, keys: tuple[SigningKey, ...]) -> None:
        if not keys:
            raise UnusableKey("there is no private key in it")
        self._keys = keys

    @classmethod
    def read(cls, path: Path) -> "SigningKeys":
        """Reads a PEM file with one or more RSA private keys, not encrypted.

        Raises:
            UnusableKey: no key, another kind of key, or one of fewer than 2048 bits.
            OSError: the file cannot be read.
        """
        return cls.parse(path.read_bytes())

    @classmethod
    def parse(cls, pem: bytes) -> "SigningKeys":
        """As `read`, from memory."""
        return cls(tuple(_signing_key(found.group()) for found in _PRIVATE_KEY.finditer(pem)))

    def sign(self, claims: Mapping[str, object]) -> str:
        """A JWT (RS256) with the `kid` of the first key."""
        first = self._keys[0]
        return jwt.encode(dict(claims), first.private, algorithm=ALGORITHM, headers={"kid": first.kid})

    def jwks(self) -> list[dict[str, str]]:
        """The public halves as JSON Web Keys, the signing one first."""
        return [{"kid": key.kid, "use": "sig", "alg": ALGORITHM, **_public_numbers(key.private)} for key in self._keys]


def _signing_key(pem: bytes) -> SigningKey:
    try:
        private = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise UnusableKey("a private key in it is damaged or encrypted") from error
    if not isinstance(private, RSAPrivateKey) or private.key_size < MIN_KEY_BITS:
        raise UnusableKey(f"every key must be RSA of at least {MIN_KEY_BITS} bits")
    return SigningKey(_thumbprint(private), private)


def _thumbprint(private: RSAPrivateKey) -> str:
    """RFC 7638: the same key has the same name in every replica, without anyone naming it."""
    canonical = json.dumps(_public_numbers(private), sort_keys=True, separators=(",", ":"))
    return _base64url(hashlib.sha256(canonical.encode()).digest())


def _public_numbers(private: RSAPrivateKey) -> dict[str, str]:
    numbers = private.public_key().public_numbers()
    return {"kty": "RSA", "n": _base64url(_big_endian(numbers.n)), "e": _base64url(_big_endian(numbers.e))}


def _big_endian(number: int) -> bytes:
    return number.to_bytes((number.bit_length() + 7) // 8, "big")


def _base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
