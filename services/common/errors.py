"""Errors, told once: any exception with a `reason` of the catalogue becomes a gRPC status here, and nowhere else.

The catalogue is `boxoffice/errors/v1/reason.proto`; how a reason maps to codes is read from its options. Domain
modules need not import this: an exception class with an attribute `reason = "SEATS_TAKEN"` is enough. `str(exc)` is
told to the caller, and so is `metadata`, a mapping of strings, where there is one.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Final

import grpc
from boxoffice.errors.v1 import reason_pb2
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

DOMAIN: Final = "boxoffice"
_PREFIX: Final = "REASON_"
_DETAILS_KEY: Final = "grpc-status-details-bin"
_FAULTS_FROM: Final = 500

# What drivers raise when their server is away or refuses for now, by name: a process that does not use a driver need
# not import it to know its errors. Others are our mistakes: a script or a statement that is wrong stays wrong. What
# the database raises is sorted in mysql_errors.py already.
_OUTAGES: Final = frozenset(
    {
        # This includes a server that is still loading.
        "redis.exceptions.ConnectionError",
        "redis.exceptions.TimeoutError",
        "redis.exceptions.ReadOnlyError",
        "redis.exceptions.OutOfMemoryError",
        "redis.exceptions.ClusterDownError",
        "redis.exceptions.TryAgainError",
        "aiokafka.errors.KafkaError",
    }
)
# The first words of such answers of Redis that its driver has no classes for: it cannot write to its disk, has too few
# replicas, or is held up by a script.
_OUTAGE_WORDS: Final = frozenset({"MISCONF", "NOREPLICAS", "BUSY"})

# Of an answer that another service gave us, only these are news for our own caller; any other is our mistake.
_PASSED_ON: Final = frozenset({"UNAVAILABLE", "DEADLINE_EXCEEDED"})


class BoxofficeError(Exception):
    """An error that the caller is told about. Subclasses name a reason of the catalogue, without its prefix."""

    reason: str = "INTERNAL"

    def __init__(self, detail: str = "", metadata: Mapping[str, str] | None = None) -> None:
        super().__init__(detail or mapping(self.reason).title)
        self.metadata: Mapping[str, str] = metadata or {}


class InvalidArgument(BoxofficeError):
    """A field of the request has a value that cannot be taken."""

    reason = "INVALID_ARGUMENT"

    def __init__(self, field: str, detail: str) -> None:
        super().__init__(detail, {"field": field})


class IdempotencyKeyRequired(BoxofficeError):
    """A mutating call came without a usable `Idempotency-Key`."""

    reason = "IDEMPOTENCY_KEY_REQUIRED"


class Unavailable(BoxofficeError):
    """A part that the call needs does not answer; nothing was changed."""

    reason = "UNAVAILABLE"

    def __init__(self, detail: str = "", *, retry_after_ms: int = 1000) -> None:
        super().__init__(detail, {"retry_after_ms": str(retry_after_ms)})


class Unauthenticated(BoxofficeError):
    """No access token, or one that proves nothing."""

    reason = "UNAUTHENTICATED"


class TokenExpired(BoxofficeError):
    """The access token was good once."""

    reason = "TOKEN_EXPIRED"


class PermissionDenied(BoxofficeError):
    """The account lacks the role that the method asks for."""

    reason = "PERMISSION_DENIED"


@dataclass(frozen=True, slots=True)
class Problem:
    """What is told about an exception."""

    reason: str
    detail: str
    metadata: Mapping[str, str]
    # True when the exception was not meant for callers: it was replaced by a fixed text and belongs in the log.
    unexpected: bool = False

    @property
    def is_fault(self) -> bool:
        """Whether the fault is ours (HTTP 5xx), not the caller's."""
        return mapping(self.reason).http_status >= _FAULTS_FROM


@cache
def _catalogue() -> Mapping[str, reason_pb2.ReasonMapping]:
    values = reason_pb2.Reason.DESCRIPTOR.values
    return {
        value.name.removeprefix(_PREFIX): value.GetOptions().Extensions[reason_pb2.mapping]
        for value in values
        if value.GetOptions().HasExtension(reason_pb2.mapping)
    }


def mapping(reason: str) -> reason_pb2.ReasonMapping:
    """How `reason` is told over gRPC and HTTP. Raises KeyError for a name that is not in the catalogue."""
    return _catalogue()[reason]


def describe(exc: BaseException) -> Problem:
    """What a caller is told about `exc`.

    The text of a fault (HTTP 5xx) is told only where it was written for callers, in a BoxofficeError; any other may
    name hosts, drivers or data, and is replaced.
    """
    reason = getattr(exc, "reason", None)
    # Exceptions of the standard library have a `reason` too (UnicodeDecodeError); only the catalogue's count.
    if isinstance(reason, str) and reason in _catalogue():
        metadata = getattr(exc, "metadata", None) or {}
        if isinstance(exc, BoxofficeError) or mapping(reason).http_status < _FAULTS_FROM:
            return Problem(reason, str(exc) or mapping(reason).title, metadata)
        return _fixed(reason, metadata)
    if isinstance(exc, grpc.RpcError):
        return _describe_rpc_error(exc)
    if isinstance(exc, TimeoutError):
        return _fixed("DEADLINE_EXCEEDED")
    return _fixed("UNAVAILABLE" if is_outage(exc) else "INTERNAL")


def _fixed(reason: str, metadata: Mapping[str, str] | None = None) -> Problem:
    pause = {"retry_after_ms": "1000"} if reason == "UNAVAILABLE" else {}
    return Problem(reason, mapping(reason).title, {**pause, **(metadata or {})}, unexpected=True)


def _describe_rpc_error(exc: grpc.RpcError) -> Problem:
    reason, _, metadata = from_rpc_error(exc)
    return _fixed(reason, metadata) if reason in _PASSED_ON else _fixed("INTERNAL")


def is_outage(exc: BaseException) -> bool:
    """Whether a driver says that its server is away or refuses for now."""
    names = {f"{kind.__module__}.{kind.__qualname__}" for kind in type(exc).__mro__}
    if "redis.exceptions.ResponseError" in names and str(exc).partition(" ")[0] in _OUTAGE_WORDS:
        return True
    return not names.isdisjoint(_OUTAGES)


def status_of(problem: Problem) -> status_pb2.Status:
    """`problem` as a google.rpc.Status with an ErrorInfo of domain "boxoffice"."""
    info = error_details_pb2.ErrorInfo(reason=problem.reason, domain=DOMAIN, metadata=problem.metadata)
    detail = any_pb2.Any()
    detail.Pack(info)
    return status_pb2.Status(code=mapping(problem.reason).grpc_code, message=problem.detail, details=[detail])


def to_status(exc: BaseException) -> status_pb2.Status:
    """What a caller is told about `exc`, as a google.rpc.Status: the answer of an RPC or of one item of a batch."""
    return status_of(describe(exc))


def from_status(status: status_pb2.Status) -> tuple[str, str, dict[str, str]]:
    """Reason, detail and metadata of a status that `to_status` made, here or in another process."""
    for detail in status.details:
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info) and info.domain == DOMAIN and info.reason in _catalogue():
            return info.reason, status.message, dict(info.metadata)
    return _reason_of_code(status.code), status.message, {}


def from_rpc_error(exc: grpc.RpcError) -> tuple[str, str, dict[str, str]]:
    """Reason, detail and metadata of a failed call.

    An answer without our ErrorInfo comes from gRPC or a proxy: its reason is the one named like its status code, or
    INTERNAL, and its detail is for the log only.
    """
    if not isinstance(exc, grpc.aio.AioRpcError):
        return "INTERNAL", str(exc), {}
    for key, value in exc.trailing_metadata() or ():
        if key == _DETAILS_KEY and isinstance(value, bytes):
            return from_status(status_pb2.Status.FromString(value))
    return _reason_of_code(exc.code().value[0]), exc.details() or "", {}


@cache
def _reasons_by_code() -> Mapping[int, str]:
    names = {code.value[0]: code.name for code in grpc.StatusCode}
    return {number: name for number, name in names.items() if name in _catalogue()}


def _reason_of_code(code: int) -> str:
    return _reasons_by_code().get(code, "INTERNAL")
