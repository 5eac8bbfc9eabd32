"""Who calls, and what is known of the call being handled: context variables of its task.

They are set by the server's interceptors (by the edge's middlewares there) and read by handlers and by the channel,
which passes them on. Work that belongs to nobody, such as a coalesced batch, runs in an empty context.
"""

from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final

from services.common.errors import Unauthenticated

BUYER: Final = "buyer"
ORGANIZER: Final = "organizer"
OPERATOR: Final = "operator"

# The key of gRPC metadata that passes `Call.client_address` on; between processes of ours only.
CLIENT_ADDRESS: Final = "x-client-address"


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated account."""

    user_id: int
    roles: frozenset[str]
    session_id: str


@dataclass(slots=True)
class Call:
    """The call being handled, as far as calls made on its behalf need it."""

    # The `authorization` it came with ("Bearer …"), or "".
    authorization: str = ""
    # When its answer is no longer wanted, on the clock of the event loop; None: never.
    deadline: float | None = None
    # What came of it: "OK", a reason of the catalogue, or "CANCELLED".
    reason: str = "OK"
    # Of the client, as the edge sees it; "" for calls that no client made.
    client_address: str = ""


caller_var: ContextVar[Caller | None] = ContextVar("caller", default=None)
call_var: ContextVar[Call | None] = ContextVar("call", default=None)


def current_caller() -> Caller:
    """The authenticated account of the call being handled. Raises Unauthenticated where there is none."""
    caller = caller_var.get()
    if caller is None:
        raise Unauthenticated
    return caller
