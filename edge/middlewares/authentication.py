"""Who calls, and whether the contract lets them: a guard of the routes that are not public."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from aiohttp import web
from boxoffice.options.v1 import options_pb2

from services.common import caller
from services.common.caller import Call, call_var, caller_var
from services.common.errors import PermissionDenied, Unauthenticated
from services.common.tokens import TokenVerifier

Guard = Callable[[web.Request], Awaitable[None]]

_BEARER: Final = "bearer "

# The role that a level of access asks for; "" for any account.
_ROLES: Final[Mapping[int, str]] = {
    options_pb2.ACCESS_USER: "",
    options_pb2.ACCESS_ORGANIZER: caller.ORGANIZER,
    options_pb2.ACCESS_OPERATOR: caller.OPERATOR,
}


def role_of(access: int) -> str:
    """The role that a level of access asks for; "" for any account. KeyError for one that asks for no account."""
    return _ROLES[access]


def guard(access: int, verifier: TokenVerifier) -> Guard | None:
    """The guard of a level of access; None for what is public, where a token, good or bad, is not looked at.

    It raises Unauthenticated, TokenExpired, PermissionDenied, or Unavailable when the keys cannot be read.
    """
    if access == options_pb2.ACCESS_PUBLIC:
        return None
    role = role_of(access)

    async def authenticate(request: web.Request) -> None:
        authorization = request.headers.get("Authorization", "")
        if authorization[: len(_BEARER)].lower() != _BEARER or not authorization.isascii():
            raise Unauthenticated
        account = await verifier.verify(authorization[len(_BEARER) :].strip())
        if role and role not in account.roles:
            raise PermissionDenied
        caller_var.set(account)
        # The services verify it again: they do not trust the edge about who somebody is.
        call = call_var.get() or Call()
        call.authorization = authorization
        call_var.set(call)

    return authenticate
