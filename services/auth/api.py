"""AuthService: unpacks requests, calls the steps, packs answers."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from boxoffice.auth.v1 import auth_service_pb2 as pb
from boxoffice.auth.v1 import auth_service_pb2_grpc as rpc
from google.protobuf.timestamp_pb2 import Timestamp
from grpc.aio import ServicerContext

from services.auth.authentication import Authentication
from services.auth.domain import (
    Account,
    BadCredentials,
    EmailTaken,
    RefreshTokenReused,
    Role,
    SessionEnded,
    SessionId,
    Tokens,
    Unacceptable,
    UserId,
)
from services.common import metrics
from services.common.caller import current_caller

Context = ServicerContext[Any, Any]

_ROLES = {Role.BUYER: pb.ROLE_BUYER, Role.ORGANIZER: pb.ROLE_ORGANIZER, Role.OPERATOR: pb.ROLE_OPERATOR}


class AuthApi(rpc.AuthServiceServicer):
    """The RPCs of auth; their promises are in the proto."""

    def __init__(self, authentication: Authentication) -> None:
        self._authentication = authentication

    async def SignUp(self, request: pb.SignUpRequest, context: Context) -> pb.SignUpResponse:
        with _attempt("signup"):
            account, tokens = await self._authentication.sign_up(request.email, request.password)
        return pb.SignUpResponse(account=_account(account), tokens=_tokens(tokens))

    async def Login(self, request: pb.LoginRequest, context: Context) -> pb.LoginResponse:
        with _attempt("login"):
            account, tokens = await self._authentication.login(request.email, request.password)
        return pb.LoginResponse(account=_account(account), tokens=_tokens(tokens))

    async def Refresh(self, request: pb.RefreshRequest, context: Context) -> pb.RefreshResponse:
        with _attempt("refresh"):
            tokens = await self._authentication.refresh(request.refresh_token)
        return pb.RefreshResponse(tokens=_tokens(tokens))

    async def Logout(self, request: pb.LogoutRequest, context: Context) -> pb.LogoutResponse:
        await self._authentication.logout(SessionId(current_caller().session_id))
        return pb.LogoutResponse()

    async def GetMe(self, request: pb.GetMeRequest, context: Context) -> pb.GetMeResponse:
        account = await self._authentication.account(UserId(current_caller().user_id))
        return pb.GetMeResponse(account=_account(account))

    async def GetJwks(self, request: pb.GetJwksRequest, context: Context) -> pb.GetJwksResponse:
        return pb.GetJwksResponse(keys=[pb.Jwk(**key) for key in self._authentication.jwks()])


@contextmanager
def _attempt(kind: str) -> Iterator[None]:
    """Counts what came of an attempt to sign in; guessing and stolen tokens show in these numbers first."""
    outcome = "error"
    try:
        yield
        outcome = "ok"
    except RefreshTokenReused:
        outcome = "reused"
        raise
    except (Unacceptable, EmailTaken, BadCredentials, SessionEnded):
        outcome = "refused"
        raise
    finally:
        metrics.AUTH_ATTEMPTS.labels(kind, outcome).inc()


def _account(account: Account) -> pb.Account:
    roles = sorted(_ROLES[role] for role in account.roles)
    return pb.Account(
        user_id=account.user_id, email=account.email, roles=roles, create_time=_timestamp(account.create_time)
    )


def _tokens(tokens: Tokens) -> pb.Tokens:
    return pb.Tokens(
        access_token=tokens.access_token,
        access_expire_time=_timestamp(tokens.access_expire_time),
        refresh_token=tokens.refresh_token,
        refresh_expire_time=_timestamp(tokens.refresh_expire_time),
    )


def _timestamp(moment: datetime) -> Timestamp:
    packed = Timestamp()
    packed.FromDatetime(moment)
    return packed
