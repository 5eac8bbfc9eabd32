"""AuthService over a real gRPC server, with everything that a process has."""

from __future__ import annotations  # the async stub exists for type checkers only

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from boxoffice.auth.v1 import auth_service_pb2 as pb
from boxoffice.auth.v1 import auth_service_pb2_grpc as rpc

from services.auth.settings import AuthSettings
from services.auth.wiring import wire
from services.common.errors import from_rpc_error
from services.common.lifecycle import Lifecycle, running
from services.common.tokens import TokenVerifier, jwks_from_auth
from tests.auth.credentials import PASSWORD


@pytest.fixture
def settings(mysql_url: str, redis_url: str, key_file: Path) -> AuthSettings:
    return AuthSettings(
        mysql_url=mysql_url,
        redis_url=redis_url,
        signing_key_file=key_file,
        argon2_memory_kib=64,
        argon2_passes=1,
        drain_seconds=1,
    )


@pytest.fixture
async def channel(settings: AuthSettings) -> AsyncIterator[grpc.aio.Channel]:
    ports: list[int] = []

    async def start(lifecycle: Lifecycle) -> None:
        ports.append(await wire(lifecycle, settings))

    async with running(start, 1.0), grpc.aio.insecure_channel(f"127.0.0.1:{ports[0]}") as opened:
        yield opened


@pytest.fixture
def stub(channel: grpc.aio.Channel) -> rpc.AuthServiceAsyncStub:
    return rpc.AuthServiceStub(channel)


def _as(tokens: pb.Tokens) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {tokens.access_token}"),)


async def _refusal(call: Any) -> tuple[str, str, dict[str, str]]:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call
    return from_rpc_error(refused.value)


async def test_from_sign_up_to_logout(stub: rpc.AuthServiceAsyncStub, channel: grpc.aio.Channel, email: str) -> None:
    made = await stub.SignUp(pb.SignUpRequest(email=email.upper(), password=PASSWORD))
    assert made.account.email == email
    assert list(made.account.roles) == [pb.ROLE_BUYER]
    assert abs(made.account.create_time.ToDatetime(UTC) - datetime.now(UTC)) < timedelta(minutes=1)
    assert abs(made.tokens.access_expire_time.ToDatetime(UTC) - datetime.now(UTC) - timedelta(minutes=15)) < timedelta(
        minutes=1
    )

    caller = await TokenVerifier(jwks_from_auth(channel)).verify(made.tokens.access_token)
    assert (caller.user_id, caller.roles) == (made.account.user_id, frozenset({"buyer"}))

    signed_in = await stub.Login(pb.LoginRequest(email=email, password=PASSWORD))
    me = await stub.GetMe(pb.GetMeRequest(), metadata=_as(signed_in.tokens))
    assert me.account == made.account

    refreshed = await stub.Refresh(pb.RefreshRequest(refresh_token=signed_in.tokens.refresh_token))
    await stub.Logout(pb.LogoutRequest(), metadata=_as(refreshed.tokens))
    ended = stub.Refresh(pb.RefreshRequest(refresh_token=refreshed.tokens.refresh_token))
    assert (await _refusal(ended))[0] == "SESSION_ENDED"
    # The other session of the account lives on.
    assert await stub.Refresh(pb.RefreshRequest(refresh_token=made.tokens.refresh_token))


async def test_of_concurrent_sign_ups_for_one_address_exactly_one_makes_the_account(
    stub: rpc.AuthServiceAsyncStub, email: str
) -> None:
    calls = [stub.SignUp(pb.SignUpRequest(email=email, password=PASSWORD)) for _ in range(8)]

    async def outcome(call: Any) -> str:
        try:
            await call
        except grpc.aio.AioRpcError as error:
            return from_rpc_error(error)[0]
        return "OK"

    outcomes = await asyncio.gather(*map(outcome, calls))
    assert sorted(outcomes) == ["EMAIL_TAKEN"] * 7 + ["OK"]


BadCall = Callable[["rpc.AuthServiceAsyncStub"], Any]


@pytest.mark.parametrize(
    ("call", "reason", "field"),
    [
        (lambda stub: stub.SignUp(pb.SignUpRequest(password=PASSWORD)), "INVALID_ARGUMENT", "email"),
        (lambda stub: stub.SignUp(pb.SignUpRequest(email="a@b.kr")), "INVALID_ARGUMENT", "password"),
        (lambda stub: stub.SignUp(pb.SignUpRequest(email="a@b", password=PASSWORD)), "INVALID_ARGUMENT", "email"),
        (lambda stub: stub.SignUp(pb.SignUpRequest(email="a@b.kr", password="short")), "INVALID_ARGUMENT", "password"),
        (
            lambda stub: stub.SignUp(pb.SignUpRequest(email="a@b.kr", password="x" * 129)),
            "INVALID_ARGUMENT",
            "password",
        ),
        (lambda stub: stub.Login(pb.LoginRequest(email="nobody@b.kr", password=PASSWORD)), "BAD_CREDENTIALS", ""),
        (lambda stub: stub.Login(pb.LoginRequest(email="nobody@b.kr", password="x" * 5000)), "BAD_CREDENTIALS", ""),
        (lambda stub: stub.Refresh(pb.RefreshRequest()), "INVALID_ARGUMENT", "refresh_token"),
        (lambda stub: stub.Refresh(pb.RefreshRequest(refresh_token="made up")), "SESSION_ENDED", ""),
        (lambda stub: stub.Refresh(pb.RefreshRequest(refresh_token="A" * 64)), "SESSION_ENDED", ""),
        (lambda stub: stub.GetMe(pb.GetMeRequest()), "UNAUTHENTICATED", ""),
        (lambda stub: stub.Logout(pb.LogoutRequest()), "UNAUTHENTICATED", ""),
    ],
)
async def test_bad_input_has_a_stable_reason(
    stub: rpc.AuthServiceAsyncStub, call: BadCall, reason: str, field: str
) -> None:
    told, detail, metadata = await _refusal(call(stub))
    assert (told, metadata.get("field", "")) == (reason, field)
    assert PASSWORD not in detail


async def test_a_token_of_other_keys_is_refused(
    stub: rpc.AuthServiceAsyncStub, key_pems: tuple[str, str], email: str
) -> None:
    from services.auth.keys import SigningKeys

    made = await stub.SignUp(pb.SignUpRequest(email=email, password=PASSWORD))
    now = int(datetime.now(UTC).timestamp())
    claims = {"iss": "boxoffice", "sub": str(made.account.user_id), "sid": "s", "roles": ["operator"]}
    forged = SigningKeys.parse(key_pems[1].encode()).sign({**claims, "iat": now, "exp": now + 900})
    refused = stub.GetMe(pb.GetMeRequest(), metadata=(("authorization", f"Bearer {forged}"),))
    assert (await _refusal(refused))[0] == "UNAUTHENTICATED"
