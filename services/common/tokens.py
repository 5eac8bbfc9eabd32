"""Access tokens: JWTs (RS256) of auth, verified anywhere with its public keys. Also the door to `keyring`.

Verifying costs 80 µs, so an answer is kept by the token's digest for some minutes, or until the token expires.
"""

import asyncio
import base64
import contextvars
import hashlib
import json
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import lru_cache
from typing import Any, Final, NamedTuple

import jwt
from boxoffice.auth.v1 import auth_service_pb2 as auth_pb
from boxoffice.auth.v1 import auth_service_pb2_grpc as auth_grpc
from cachetools import LRUCache
from grpc import aio
from jwt.types import Options

from services.common import metrics
from services.common.caller import Caller
from services.common.errors import TokenExpired, Unauthenticated, Unavailable
from services.common.keyring import AdmissionToken, ForgedToken, KeyRing

__all__ = ["ISSUER", "AdmissionToken", "ForgedToken", "JwksSource", "KeyRing", "TokenVerifier", "jwks_from_auth"]

ISSUER: Final = "boxoffice"
# Fetches the keys of a JSON Web Key Set.
JwksSource = Callable[[], Awaitable[list[dict[str, str]]]]

_ALGORITHMS: Final = ("RS256",)
# PyJWT has one leeway for all times; what `iat` may be is checked here instead.
_OPTIONS: Final[Options] = {"require": ["sub", "sid", "roles", "exp", "iat"], "verify_iat": False}
# A token with a made-up key id must not make us ask auth each time.
_REFETCH_SECONDS: Final = 5.0
# A failed fetch is repeated sooner: nobody can sign in until it succeeds.
_RETRY_SECONDS: Final = 1.0
# A key that auth has withdrawn stops being trusted after this time, as long as auth answers.
_MAX_AGE_SECONDS: Final = 300.0
# A token that was good is verified again after this time, so that those of a withdrawn key live for no longer than this
# and the age of the keys together. A hundred thousand tokens in use cost a process 3 % of a core.
_TRUSTED_SECONDS: Final = 300.0
_FETCH_TIMEOUT_SECONDS: Final = 2.0
# How far the clock of auth may be ahead of ours. A token is used within milliseconds of its issue, so that without a
# tolerance every new one would be refused wherever a clock is a little behind. `exp` has none: it is refreshed.
_CLOCK_SKEW_SECONDS: Final = 30.0

_log = logging.getLogger(__name__)


class _Keys:
    """The public keys of auth by key id, fetched when an unknown one comes up."""

    def __init__(self, source: JwksSource, clock: Callable[[], float]) -> None:
        self._source = source
        self._clock = clock
        self._keys: dict[str, jwt.PyJWK] = {}
        self._not_before = self._stale_at = float("-inf")
        self._fetching: asyncio.Task[None] | None = None

    async def get(self, key_id: str) -> jwt.PyJWK:
        """The key. Raises Unauthenticated when auth has none of that name, Unavailable when auth never answered."""
        if self._wanted(key_id):
            await self._fetched()
        if not self._keys:
            raise Unavailable("signing keys cannot be read")
        if key_id not in self._keys:
            raise Unauthenticated
        return self._keys[key_id]

    def _wanted(self, key_id: str) -> bool:
        now = self._clock()
        return now >= self._not_before and (key_id not in self._keys or now >= self._stale_at)

    async def _fetched(self) -> None:
        """Returns when the fetch that is under way, or a new one, has ended.

        It runs in an empty context: it is for everybody, and must neither bear the credentials of whoever came first
        nor end with their deadline or their call.
        """
        if self._fetching is None:
            loop = asyncio.get_running_loop()
            self._fetching = loop.create_task(self._fetch(), context=contextvars.Context())
        await asyncio.shield(self._fetching)

    async def _fetch(self) -> None:
        try:
            async with asyncio.timeout(_FETCH_TIMEOUT_SECONDS):
                entries = await self._source()
            self._keys = {entry["kid"]: jwt.PyJWK(entry, "RS256") for entry in entries if entry.get("kty") == "RSA"}
        except Exception as error:  # noqa: BLE001 - keys that are known stay good while auth is away
            self._not_before = self._clock() + _RETRY_SECONDS
            _log.warning("signing keys cannot be read", extra={"fields": {"error": type(error).__name__}})
        else:
            self._not_before = self._clock() + _REFETCH_SECONDS
            self._stale_at = self._clock() + _MAX_AGE_SECONDS
        finally:
            self._fetching = None


class _Verified(NamedTuple):
    """A token that was good when it was verified."""

    caller: Caller
    # Seconds since 1970, as the token says.
    expire_time: float
    # On the verifier's own clock.
    trusted_until: float


class TokenVerifier:
    """Verifies access tokens; safe for any number of concurrent calls in one event loop."""

    def __init__(
        self, source: JwksSource, *, max_cached: int = 100_000, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._keys = _Keys(source, clock)
        self._clock = clock
        # Digests, not tokens: a memory dump holds nothing that can be replayed.
        self._verified: LRUCache[bytes, _Verified] = LRUCache(max_cached)

    async def verify(self, token: str) -> Caller:
        """Who the token speaks for. Raises TokenExpired, Unauthenticated, or Unavailable (auth cannot be asked)."""
        digest = hashlib.sha256(token.encode(errors="replace")).digest()
        known = self._verified.get(digest)
        if known is not None:
            if time.time() >= known.expire_time:
                del self._verified[digest]
                _EXPIRED.inc()
                raise TokenExpired
            if self._clock() < known.trusted_until:
                _CACHED.inc()
                return known.caller
            del self._verified[digest]
        caller, expire_time = await self._verify(token)
        self._verified[digest] = _Verified(caller, expire_time, self._clock() + _TRUSTED_SECONDS)
        return caller

    async def _verify(self, token: str) -> tuple[Caller, float]:
        try:
            key = await self._keys.get(_key_id(token.partition(".")[0]))
            claims = jwt.decode(token, key, algorithms=_ALGORITHMS, issuer=ISSUER, options=_OPTIONS)
            _check_issue_time(float(claims["iat"]))
            verified = _caller(claims), float(claims["exp"])
        except jwt.ExpiredSignatureError:
            _EXPIRED.inc()
            raise TokenExpired from None
        # The reasons are for the attacker to guess.
        except (jwt.PyJWTError, Unauthenticated, KeyError, TypeError, ValueError):
            _REFUSED.inc()
            raise Unauthenticated from None
        _VERIFIED.inc()
        return verified


_CACHED = metrics.TOKENS_VERIFIED.labels("cached")
_VERIFIED = metrics.TOKENS_VERIFIED.labels("verified")
_EXPIRED = metrics.TOKENS_VERIFIED.labels("expired")
_REFUSED = metrics.TOKENS_VERIFIED.labels("refused")


# Tokens of one key have one header, and reading it costs twice what checking the signature does.
@lru_cache(64)
def _key_id(header_part: str) -> str:
    header = json.loads(base64.urlsafe_b64decode(header_part + "=" * (-len(header_part) % 4)))
    if not isinstance(header, dict):
        raise Unauthenticated
    # Before the key is looked for, so that a foreign algorithm never causes a fetch.
    if header.get("alg") not in _ALGORITHMS:
        raise jwt.InvalidAlgorithmError
    return str(header["kid"])


def _check_issue_time(issue_time: float) -> None:
    # Written so that NaN is refused.
    if not issue_time <= time.time() + _CLOCK_SKEW_SECONDS:
        raise Unauthenticated


def _caller(claims: Mapping[str, Any]) -> Caller:
    return Caller(int(claims["sub"]), frozenset(map(str, claims["roles"])), str(claims["sid"]))


def jwks_from_auth(channel: aio.Channel) -> JwksSource:
    """Keys as auth's GetJwks tells them."""
    stub = auth_grpc.AuthServiceStub(channel)

    async def fetch() -> list[dict[str, str]]:
        answer = await stub.GetJwks(auth_pb.GetJwksRequest(), timeout=_FETCH_TIMEOUT_SECONDS)
        return [{field.name: value for field, value in key.ListFields()} for key in answer.keys]

    return fetch
