"""Errors are told by the catalogue, and what is not in it is told to nobody."""

import grpc
import pymysql.err
import pytest
import redis.exceptions
from google.rpc import error_details_pb2

from services.common import errors


class SeatsTaken(Exception):
    reason = "SEATS_TAKEN"

    def __init__(self) -> None:
        super().__init__("Seats 4 and 5 are gone")
        self.metadata = {"ticket_ids": "4,5"}


class LogAway(Exception):
    reason = "UNAVAILABLE"


def test_a_domain_error_is_told_with_its_own_words_and_metadata() -> None:
    status = errors.to_status(SeatsTaken())
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert (info.domain, info.reason, dict(info.metadata)) == ("boxoffice", "SEATS_TAKEN", {"ticket_ids": "4,5"})
    assert status.code == errors.mapping("SEATS_TAKEN").grpc_code == grpc.StatusCode.ABORTED.value[0]
    assert status.message == "Seats 4 and 5 are gone"


def test_a_status_says_the_same_on_the_other_side() -> None:
    assert errors.from_status(errors.to_status(SeatsTaken())) == (
        "SEATS_TAKEN",
        "Seats 4 and 5 are gone",
        {"ticket_ids": "4,5"},
    )


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RuntimeError("password=hunter2"), "INTERNAL"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "hunter2"), "INTERNAL"),
        (redis.exceptions.ConnectionError("redis-7.internal hunter2"), "UNAVAILABLE"),
        (redis.exceptions.BusyLoadingError("hunter2"), "UNAVAILABLE"),
        (redis.exceptions.ReadOnlyError("hunter2"), "UNAVAILABLE"),
        (redis.exceptions.OutOfMemoryError("hunter2"), "UNAVAILABLE"),
        (redis.exceptions.ResponseError("MISCONF hunter2"), "UNAVAILABLE"),
        (redis.exceptions.ResponseError("hunter2"), "INTERNAL"),
        (redis.exceptions.DataError("hunter2"), "INTERNAL"),
        (pymysql.err.OperationalError(1054, "hunter2"), "INTERNAL"),
        (LogAway("kafka-3.internal hunter2"), "UNAVAILABLE"),
        (TimeoutError("hunter2"), "DEADLINE_EXCEEDED"),
    ],
)
def test_what_was_not_written_for_callers_is_replaced(error: Exception, reason: str) -> None:
    problem = errors.describe(error)
    assert problem.reason == reason
    assert problem.unexpected
    assert problem.is_fault
    assert "hunter2" not in errors.to_status(error).SerializeToString().decode("latin-1")


def test_unavailable_says_when_to_come_back() -> None:
    assert errors.describe(errors.Unavailable("rebuilding", retry_after_ms=250)).metadata == {"retry_after_ms": "250"}
    assert errors.describe(redis.exceptions.ConnectionError("x")).metadata == {"retry_after_ms": "1000"}


def test_a_ready_made_error_speaks_for_itself() -> None:
    assert errors.describe(errors.PermissionDenied()).detail == errors.mapping("PERMISSION_DENIED").title
    problem = errors.describe(errors.InvalidArgument("quantity", "must be 1 to 8"))
    assert (problem.detail, problem.metadata) == ("must be 1 to 8", {"field": "quantity"})


def test_an_unknown_reason_has_no_mapping() -> None:
    with pytest.raises(KeyError):
        errors.mapping("NO_SUCH_REASON")


def _rpc_error(code: grpc.StatusCode, trailing: grpc.aio.Metadata) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailing, details="from a proxy")


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE"),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED"),
        (grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED"),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "INTERNAL"),
    ],
)
def test_an_answer_without_error_info_is_told_by_its_code(code: grpc.StatusCode, reason: str) -> None:
    assert errors.from_rpc_error(_rpc_error(code, grpc.aio.Metadata())) == (reason, "from a proxy", {})


def test_what_another_service_refuses_us_is_our_fault_and_not_the_callers() -> None:
    refused = errors.to_status(errors.InvalidArgument("x", "y")).SerializeToString()
    error = _rpc_error(grpc.StatusCode.INVALID_ARGUMENT, grpc.aio.Metadata(("grpc-status-details-bin", refused)))
    assert errors.from_rpc_error(error) == ("INVALID_ARGUMENT", "y", {"field": "x"})
    assert errors.describe(error).reason == "INTERNAL"
