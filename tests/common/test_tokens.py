"""Access tokens are verified once and never wrongly; house tokens cannot be made or changed by anyone else."""

import asyncio
import base64
import hashlib
import hmac
import json
import time
from typing import Any

import grpc
import jwt
import pytest
from boxoffice.auth.v1 import auth_service_pb2 as auth_pb
from boxoffice.auth.v1 import auth_service_pb2_grpc as auth_grpc
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm

from services.common import tokens
from services.common.caller import Call, Caller, call_var
from services.common.errors import TokenExpired, Unauthenticated, Unavailable
from services.common.grpc_channel import connect
from services.common.keyring import AdmissionToken, ForgedToken, KeyRing

KEY, OTHER_KEY = (rsa.generate_private_key(public_exponent=65537, key_size=2048) for _ in range(2))
PUBLIC_PEM = KEY.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def _jwk(key: rsa.RSAPrivateKey, kid: str) -> dict[str, str]:
    fields = RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
    return {"kid": kid, "use": "sig", "alg": "RS256", **{name: fields[name] for name in ("kty", "n", "e")}}


class Jwks:
    """Auth's key set, which counts how often it is read and can be away."""

    def __init__(self, *keys: dict[str, str]) -> None:
        self.keys = list(keys)
        self.reads = 0
        self.away = False

    async def __call__(self) -> list[dict[str, str]]:
        self.reads += 1
        await asyncio.sleep(0)
        if self.away:
            raise ConnectionError
        return self.keys


class Seconds:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def _claims(**changes: Any) -> dict[str, Any]:
    now = int(time.time())
    claims = {"iss": "boxoffice", "sub": "7", "sid": "s1", "roles": ["buyer"], "iat": now, "exp": now + 900}
    return {name: value for name, value in (claims | changes).items() if value is not None}


def _token(key: rsa.RSAPrivateKey = KEY, kid: str = "k1", **changes: Any) -> str:
    return jwt.encode(_claims(**changes), key, algorithm="RS256", headers={"kid": kid})


def _segment(value: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def _hs256_with_the_public_key() -> str:
    # Made by hand: PyJWT refuses to help.
    head = f"{_segment({'alg': 'HS256', 'typ': 'JWT', 'kid': 'k1'})}.{_segment(_claims())}"
    mac = hmac.digest(PUBLIC_PEM, head.encode(), hashlib.sha256)
    return f"{head}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"


async def test_a_good_token_is_verified_once() -> None:
    jwks = Jwks(_jwk(KEY, "k1"))
    verifier = tokens.TokenVerifier(jwks)
    token = _token(roles=["buyer", "operator"])
    expected = Caller(7, frozenset({"buyer", "operator"}), "s1")
    assert [await verifier.verify(token) for _ in range(3)] == [expected] * 3
    assert jwks.reads == 1
    assert len(verifier._verified) == 1


@pytest.mark.parametrize(
    "token",
    [
        "",
        "not.a.token",
        "\udcff.a.b",
        _token(OTHER_KEY),
        _token()[:-6] + "AAAAAA",
        jwt.encode(_claims(), "", algorithm="none", headers={"kid": "k1"}),
        _hs256_with_the_public_key(),
        _token(iss="someone-else"),
        _token(iss=None),
        _token(sub=None),
        _token(sub="seven"),
        _token(sid=None),
        _token(exp=None),
        _token(iat=None),
        _token(iat="now"),
        _token(iat=float("nan")),
        _token(roles=None),
        _token(roles=5),
        jwt.encode(_claims(), KEY, algorithm="RS256"),
        jwt.encode(_claims(), KEY, algorithm="RS512", headers={"kid": "k1"}),
    ],
)
async def test_a_token_that_proves_nothing_is_refused(token: str) -> None:
    verifier = tokens.TokenVerifier(Jwks(_jwk(KEY, "k1")))
    assert await verifier.verify(_token())
    for _ in range(2):
        with pytest.raises(Unauthenticated):
            await verifier.verify(token)
    assert len(verifier._verified) == 1


async def test_an_expired_token_says_so() -> None:
    verifier = tokens.TokenVerifier(Jwks(_jwk(KEY, "k1")))
    with pytest.raises(TokenExpired):
        await verifier.verify(_token(exp=int(time.time()) - 1))


async def test_a_clock_a_little_behind_takes_a_fresh_token(monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    fresh = _token(iat=int(now), exp=int(now) + 900)
    monkeypatch.setattr(time, "time", lambda: now - 20)
    assert await tokens.TokenVerifier(Jwks(_jwk(KEY, "k1"))).verify(fresh)


async def test_control_a_clock_far_behind_refuses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    fresh = _token(iat=int(now), exp=int(now) + 900)
    monkeypatch.setattr(time, "time", lambda: now - 40)
    with pytest.raises(Unauthenticated):
        await tokens.TokenVerifier(Jwks(_jwk(KEY, "k1"))).verify(fresh)


async def test_a_cached_token_expires_too() -> None:
    verifier = tokens.TokenVerifier(Jwks(_jwk(KEY, "k1")))
    token = _token()
    await verifier.verify(token)
    digest = hashlib.sha256(token.encode()).digest()
    verifier._verified[digest] = verifier._verified[digest]._replace(expire_time=time.time() - 1)
    with pytest.raises(TokenExpired):
        await verifier.verify(token)


async def test_the_cache_is_bounded() -> None:
    verifier = tokens.TokenVerifier(Jwks(_jwk(KEY, "k1")), max_cached=3)
    for user in range(5):
        await verifier.verify(_token(sub=str(user)))
    assert len(verifier._verified) == 3


async def test_a_new_key_is_found_without_a_restart() -> None:
    clock, jwks = Seconds(), Jwks(_jwk(KEY, "k1"))
    verifier = tokens.TokenVerifier(jwks, clock=clock)
    await verifier.verify(_token())
    jwks.keys.append(_jwk(OTHER_KEY, "k2"))
    with pytest.raises(Unauthenticated):  # Asked a moment ago.
        await verifier.verify(_token(OTHER_KEY, "k2"))
    clock.now += 5
    assert await verifier.verify(_token(OTHER_KEY, "k2"))
    assert jwks.reads == 2


async def test_made_up_key_ids_do_not_make_us_ask_again_and_again() -> None:
    jwks = Jwks(_jwk(KEY, "k1"))
    verifier = tokens.TokenVerifier(jwks, clock=Seconds())
    asked = [verifier.verify(_token(kid=f"made-up-{number}")) for number in range(50)]
    outcomes = await asyncio.gather(*asked, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {Unauthenticated}
    assert jwks.reads == 1


async def test_concurrent_first_calls_fetch_once() -> None:
    jwks = Jwks(_jwk(KEY, "k1"))
    verifier = tokens.TokenVerifier(jwks)
    await asyncio.gather(*(verifier.verify(_token(sub=str(user))) for user in range(20)))
    assert jwks.reads == 1


async def test_while_auth_is_away_known_keys_stay_good_and_unknown_ones_are_our_trouble() -> None:
    clock, jwks = Seconds(), Jwks(_jwk(KEY, "k1"))
    jwks.away = True
    verifier = tokens.TokenVerifier(jwks, clock=clock)
    with pytest.raises(Unavailable):
        await verifier.verify(_token())
    jwks.away = False
    clock.now += 1
    assert await verifier.verify(_token())
    jwks.away = True
    clock.now += 1000
    assert await verifier.verify(_token(sub="8"))


async def test_a_withdrawn_key_stops_being_trusted_also_for_tokens_that_were_good() -> None:
    clock, jwks = Seconds(), Jwks(_jwk(KEY, "k1"), _jwk(OTHER_KEY, "k2"))
    verifier = tokens.TokenVerifier(jwks, clock=clock)
    known = _token(OTHER_KEY, "k2", exp=int(time.time()) + 10 * 365 * 86_400)
    await verifier.verify(known)
    jwks.keys.pop()
    clock.now += 300
    for token in (known, _token(OTHER_KEY, "k2", sub="9")):
        with pytest.raises(Unauthenticated):
            await verifier.verify(token)
    assert await verifier.verify(_token())


async def test_keys_are_fetched_for_everybody_not_for_whoever_came_first() -> None:
    key, bearers = _jwk(KEY, "k1"), []

    class Auth(auth_grpc.AuthServiceServicer):
        async def GetJwks(self, request: auth_pb.GetJwksRequest, context: Any) -> auth_pb.GetJwksResponse:
            bearers.append(dict(context.invocation_metadata()).get("authorization"))
            return auth_pb.GetJwksResponse(keys=[auth_pb.Jwk(**key)])

    server = grpc.aio.server()
    auth = Auth()  # type: ignore[abstract] # answers what the test asks
    auth_grpc.add_AuthServiceServicer_to_server(auth, server)
    target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    async with connect(target) as channel:
        verifier = tokens.TokenVerifier(tokens.jwks_from_auth(channel))
        over = asyncio.get_running_loop().time() - 1
        call_var.set(Call("Bearer of-the-first", over))
        assert await verifier.verify(_token())
    await server.stop(0)
    assert bearers == [None]


async def test_whoever_came_first_may_go_and_the_others_get_their_keys() -> None:
    asked, answer = asyncio.Event(), asyncio.Event()

    async def slow() -> list[dict[str, str]]:
        asked.set()
        await answer.wait()
        return [_jwk(KEY, "k1")]

    verifier = tokens.TokenVerifier(slow)
    first, second = (asyncio.create_task(verifier.verify(_token())) for _ in range(2))
    await asked.wait()
    first.cancel()
    await asyncio.wait([first])
    answer.set()
    assert await second


def _ring(*names: str) -> KeyRing:
    return KeyRing.parse(",".join(f"{name}:{base64.b64encode(name.encode() * 32).decode()}" for name in names))


def test_keys_rotate() -> None:
    token = _ring("a").sign(b"payload")
    assert _ring("b", "a").verify(token) == b"payload"
    assert _ring("b", "a").sign(b"payload").startswith("b.")
    with pytest.raises(ForgedToken):
        _ring("b").verify(token)


def test_no_character_of_a_token_can_be_changed() -> None:
    ring = _ring("a", "b")
    token = ring.sign(b"payload of 20 bytes.")
    for place in range(len(token)):
        for replacement in "AZab09-_.=":
            if token[place] != replacement:
                with pytest.raises(ForgedToken):
                    ring.verify(token[:place] + replacement + token[place + 1 :])


@pytest.mark.parametrize(
    "token", ["", "a", "a.", "a..", "a.é.é", "a.cGF5.cGF5.cGF5", "\udcff", "a.cGF5.\udcff", "a." + "A" * 100_000]
)
def test_nonsense_is_forged(token: str) -> None:
    with pytest.raises(ForgedToken):
        _ring("a").verify(token)


@pytest.mark.parametrize(
    "text", ["", "a", "QUFB", "b:QUFB,QUFB", "a:", "a:c2hvcnQ=", ":" + "QUFB" * 12, "a:!!!", "a b:" + "QUFB" * 12]
)
def test_unusable_keys_are_refused_without_being_told(text: str) -> None:
    with pytest.raises(ValueError, match=r"key|keys") as caught:
        KeyRing.parse(text)
    assert "QUFB" not in str(caught.value)


def test_two_keys_of_one_name_are_refused() -> None:
    key = base64.b64encode(bytes(32)).decode()
    with pytest.raises(ValueError, match="same id"):
        KeyRing.parse(f"a:{key},a:{key}")


def test_an_admission_token_says_who_where_and_until_when_in_140_characters() -> None:
    ring = _ring("k" * 16)
    admission = AdmissionToken(2**63, 2**33, 2**41, "00112233445566ff")
    token = admission.encode(ring)
    assert AdmissionToken.decode(ring, token) == admission
    assert len(token) <= 140


def test_another_kind_of_token_is_no_admission() -> None:
    ring = _ring("a")
    for payload in (b"", b"x" * AdmissionToken._LAYOUT.size, b"\xa1"):
        with pytest.raises(ForgedToken):
            AdmissionToken.decode(ring, ring.sign(payload))
