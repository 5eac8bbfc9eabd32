"""Messages → JSON: one function per message type, generated as Python source when the edge starts.

Fields that know whether they are set (messages, `optional`, members of a oneof) are left out when they are not; all
others are always there, with their zero value if need be. `Money` reads:

    def dump_1(m):
        d = {"amount": m.amount, "currency": m.currency}
        return d
"""

import binascii
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final

import orjson
from google.protobuf import descriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from edge.transcode.fields import Kind, enum_of, is_map, kind_of, map_value_of, message_of, names_of

DumpMessage = Callable[[Message], dict[str, Any]]

_INDENT: Final = "    "
_MILLI: Final = 1_000_000
_MICRO: Final = 1_000
_LENGTH_OF_SECOND: Final = len("2026-01-31T12:00:00")


class DumperCompiler:
    """Makes dumpers; those of nested messages are shared."""

    def __init__(self) -> None:
        self._globals: dict[str, Any] = {"timestamp": timestamp, "duration": _duration, "b64": _base64}
        self._names: dict[str, str] = {}
        self.sources: list[str] = []

    def compile(self, message: descriptor.Descriptor, left_out: Iterable[str] = ()) -> DumpMessage:
        """The dumper of a message, without the fields in `left_out`. Its result is for `to_json`."""
        dump: DumpMessage = self._globals[self._define(message, frozenset(left_out))]
        return dump

    def _define(self, message: descriptor.Descriptor, left_out: frozenset[str] = frozenset()) -> str:
        name = f"dump_{len(self.sources)}"
        if not left_out:
            if message.full_name in self._names:
                return self._names[message.full_name]
            # Before the fields, so that a recursive message finds itself.
            self._names[message.full_name] = name
        # Reserves the number; dumpers of nested messages take the next ones.
        index = len(self.sources)
        self.sources.append("")
        fields = [field for field in message.fields if field.name not in left_out]
        self.sources[index] = "\n".join(self._source(name, fields))
        exec(compile(self.sources[index], f"<{message.full_name}>", "exec"), self._globals)  # noqa: S102 - our own text
        return name

    def _source(self, name: str, fields: list[descriptor.FieldDescriptor]) -> Iterator[str]:
        """Fields that are always there, up to the first that may be absent, are one dict display: the fastest way."""
        leading: list[str] = []
        while fields and not fields[0].has_presence:
            field, *fields = fields
            leading.append(f"{field.name!r}: {self._value(field)}")
        yield f"def {name}(m):"
        yield f"{_INDENT}d = {{{', '.join(leading)}}}"
        for field in fields:
            assignment = f"d[{field.name!r}] = {self._value(field)}"
            if field.has_presence:
                yield f"{_INDENT}if m.HasField({field.name!r}):"
                assignment = _INDENT + assignment
            yield _INDENT + assignment
        yield f"{_INDENT}return d"

    def _value(self, field: descriptor.FieldDescriptor) -> str:
        read = f"m.{field.name}"
        if is_map(field):
            value = self._single(map_value_of(field), f"{read}[k]")
            return f"{{k: {value} for k in {read}}}"
        if field.is_repeated:
            single = self._single(field, "v")
            return f"{read}[:]" if single == "v" else f"[{single} for v in {read}]"
        return self._single(field, read)

    def _single(self, field: descriptor.FieldDescriptor, value: str) -> str:
        kind = kind_of(field)
        if kind is Kind.MESSAGE:
            return f"{self._define(message_of(field))}({value})"
        if kind is Kind.ENUM:
            return f"{self._enum(enum_of(field))}.get({value}, {value})"
        wrapper = {Kind.TIMESTAMP: "timestamp", Kind.DURATION: "duration", Kind.BYTES: "b64"}.get(kind)
        return f"{wrapper}({value})" if wrapper else value

    def _enum(self, enum: descriptor.EnumDescriptor) -> str:
        """A number that is newer than our contract is told as a number."""
        name = f"enum_{enum.full_name.replace('.', '_')}"
        self._globals[name] = names_of(enum)
        return name


def to_json(value: Any) -> bytes:
    """What a dumper made, as JSON."""
    return orjson.dumps(value)


@lru_cache(maxsize=4096)
def _second(seconds: int) -> str:
    """Answers of a sale speak of few different seconds."""
    return datetime.fromtimestamp(seconds, UTC).isoformat()[:_LENGTH_OF_SECOND]


def timestamp(moment: Timestamp) -> str:
    """RFC 3339 with as many digits as it needs, in steps of three, as ProtoJSON has it."""
    whole, nanos = _second(moment.seconds), moment.nanos
    if not nanos:
        return whole + "Z"
    if nanos % _MILLI == 0:
        return f"{whole}.{nanos // _MILLI:03d}Z"
    return f"{whole}.{nanos // _MICRO:06d}Z" if nanos % _MICRO == 0 else f"{whole}.{nanos:09d}Z"


def _duration(span: Duration) -> str:
    return span.ToJsonString()


def _base64(content: bytes) -> str:
    return binascii.b2a_base64(content, newline=False).decode()
