from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

from services.auth.keys import SigningKeys, UnusableKey
from services.common.errors import Unauthenticated
from services.common.tokens import TokenVerifier


def _claims() -> dict[str, object]:
    now = int(datetime.now(UTC).timestamp())
    return {"iss": "boxoffice", "sub": "7", "sid": "s", "roles": ["buyer"], "iat": now, "exp": now + 900, "jti": "j"}


def _published(keys: SigningKeys) -> Callable[[], Awaitable[list[dict[str, str]]]]:
    async def source() -> list[dict[str, str]]:
        return keys.jwks()

    return source


async def test_published_keys_verify_what_was_signed(key_pems: tuple[str, str]) -> None:
    keys = SigningKeys.parse(key_pems[0].encode())
    caller = await TokenVerifier(_published(keys)).verify(keys.sign(_claims()))
    assert (caller.user_id, caller.session_id, caller.roles) == (7, "s", frozenset({"buyer"}))


async def test_a_rotation_step_by_step_rejects_no_token(key_pems: tuple[str, str]) -> None:
    old, new = key_pems
    before, published, switched, after = (SigningKeys.parse(pem.encode()) for pem in (old, old + new, new + old, new))
    # Whoever still has the key set of the step before accepts what is signed in the step after.
    for verifying, signing in ((before, published), (published, switched), (switched, after), (switched, published)):
        assert (await TokenVerifier(_published(verifying)).verify(signing.sign(_claims()))).user_id == 7
    with pytest.raises(Unauthenticated):
        await TokenVerifier(_published(after)).verify(before.sign(_claims()))


def test_only_public_halves_are_published_and_named_by_thumbprint(key_pems: tuple[str, str]) -> None:
    keys = SigningKeys.parse("".join(key_pems).encode()).jwks()
    assert [set(key) for key in keys] == [{"kty", "kid", "use", "alg", "n", "e"}] * 2
    assert keys[0]["kid"] != keys[1]["kid"]
    assert keys == SigningKeys.parse("".join(key_pems).encode()).jwks()


def _pem(key: rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def test_other_keys_and_weak_keys_are_refused(key_pems: tuple[str, str]) -> None:
    weak = _pem(rsa.generate_private_key(public_exponent=65537, key_size=1024))
    foreign = _pem(ed25519.Ed25519PrivateKey.generate())
    damaged = key_pems[0].encode().replace(b"A", b"B")
    for pem in (b"", b"not a key", weak, foreign, damaged, key_pems[0].encode() + weak):
        with pytest.raises(UnusableKey):
            SigningKeys.parse(pem)
