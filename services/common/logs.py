"""Logs: one JSON object per line on standard output, with the ids that find its request and its trace.

Requests that succeed are not logged. Bodies never are; as a last guard, a field that has the name of a `secret` field
of the contracts is replaced.
"""

import json
import logging
import sys
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import cache
from importlib import resources
from typing import Any, Final

import orjson
from boxoffice.options.v1 import options_pb2
from google.protobuf import descriptor_pb2
from google.protobuf.message import Message

from services.common.telemetry import current_traceparent, span_id_of, trace_id_of

_HIDDEN: Final = "[secret]"
# Names of headers that are credentials; those of fields come from the contracts.
_SECRET_HEADERS: Final = frozenset({"authorization", "cookie", "set_cookie"})

request_id: ContextVar[str] = ContextVar("request_id", default="")


def configure(service: str, level: str) -> None:
    """Sends everything that is logged in this process to standard output, as JSON."""
    _secret_names()  # Read from a file: now, not at the first line that has fields.
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonFormatter(service))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.captureWarnings(capture=True)
    # These tell at INFO or WARNING what our own lines tell better.
    for noisy in ("aiokafka", "botocore", "urllib3", "asyncio", "opentelemetry"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, logging.getLevelName(level)))


class JsonFormatter(logging.Formatter):
    """Lines with time, level, logger, message, service, trace_id, span_id, request_id, and `extra={"fields": {…}}`."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        """One line; never raises because of what it is given."""
        traceparent = current_traceparent()
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            "service": self._service,
            "trace_id": trace_id_of(traceparent),
            "span_id": span_id_of(traceparent),
            "request_id": request_id.get(),
        }
        line = {key: value for key, value in line.items() if value}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return _dumps(_harmless(getattr(record, "fields", {})) | line)


def _dumps(line: dict[str, Any]) -> str:
    try:
        return orjson.dumps(line, default=str, option=orjson.OPT_NON_STR_KEYS).decode()
    except TypeError:
        # Lone surrogates of a header, integers beyond 64 bits: the standard library is slower and takes them.
        return json.dumps(line, default=str, ensure_ascii=False).encode(errors="replace").decode()


def _harmless(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields without secrets, and without messages, which are bodies."""
    return {
        name: _HIDDEN if name.lower().replace("-", "_") in _secret_names() else _shown(value)
        for name, value in fields.items()
    }


def _shown(value: object) -> object:
    if isinstance(value, Mapping):
        return _harmless({str(name): inner for name, inner in value.items()})
    if isinstance(value, list | tuple | set | frozenset):
        return [_shown(inner) for inner in value]
    return f"<{type(value).__name__}>" if isinstance(value, Message | bytes) else value


@cache
def _secret_names() -> frozenset[str]:
    """Names of headers and fields whose values are never written: the contracts say which, in all of their files."""
    contracts = descriptor_pb2.FileDescriptorSet.FromString(
        resources.files("boxoffice").joinpath("descriptors.binpb").read_bytes()
    )
    fields = (field for file in contracts.file for message in file.message_type for field in _fields_of(message))
    return _SECRET_HEADERS | {field.name for field in fields if field.options.Extensions[options_pb2.field].secret}


def _fields_of(message: descriptor_pb2.DescriptorProto) -> Iterator[descriptor_pb2.FieldDescriptorProto]:
    yield from message.field
    for nested in message.nested_type:
        yield from _fields_of(nested)
