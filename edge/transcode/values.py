"""Single values: from parsed JSON, and from the text of a path, a query or a header.

A converter takes a value, where it was found, and the list to which it adds what is wrong; then its result is the
default of the type, which nobody will see.
"""

import base64
import binascii
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from google.protobuf import descriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from edge.transcode.fields import INTEGERS, Kind, enum_of, kind_of, numbers_of
from edge.transcode.problems import Violation

Violations = list[Violation]
Converter = Callable[[Any, str, Violations], Any]

REQUIRED: Final = "is required"
OBJECT: Final = "must be an object"
ARRAY: Final = "must be an array"
# Long enough for every number in range, short enough that parsing it costs nothing.
_INTEGER_TEXT: Final = re.compile(r"-?[0-9]{1,20}")
_NUMBER_TEXT: Final = re.compile(r"-?[0-9]{1,40}(\.[0-9]{1,40})?([eE][+-]?[0-9]{1,3})?")
_LARGEST_FLOAT: Final = 3.4028234663852886e38


def _refuse(at: str, detail: str, violations: Violations, default: Any) -> Any:
    violations.append(Violation(at, detail))
    return default


def _integer(kind: Kind) -> Converter:
    least, greatest = INTEGERS[kind]

    def convert(value: Any, at: str, violations: Violations) -> int:
        # To JSON 5.0 and 5 are one number; numbers beyond 64 bits arrive as floats too, and are out of range.
        if type(value) is float and value.is_integer():
            value = int(value)
        if type(value) is not int:
            return int(_refuse(at, "must be an integer", violations, 0))
        if not least <= value <= greatest:
            return int(_refuse(at, f"must be between {least} and {greatest}", violations, 0))
        return value

    return convert


def _number(greatest: float) -> Converter:
    def convert(value: Any, at: str, violations: Violations) -> float:
        if type(value) is not float and type(value) is not int:
            return float(_refuse(at, "must be a number", violations, 0.0))
        if not math.isfinite(value) or abs(value) > greatest:
            return float(_refuse(at, "is out of range", violations, 0.0))
        return float(value)

    return convert


def _string(value: Any, at: str, violations: Violations) -> str:
    return value if type(value) is str else _refuse(at, "must be a string", violations, "")


def _bool(value: Any, at: str, violations: Violations) -> bool:
    return value if type(value) is bool else _refuse(at, "must be true or false", violations, False)


def _bytes(value: Any, at: str, violations: Violations) -> bytes:
    try:
        return base64.b64decode(value.encode("ascii"), validate=True)
    except (AttributeError, ValueError, binascii.Error):
        return bytes(_refuse(at, "must be a string in base64", violations, b""))


def _timestamp(value: Any, at: str, violations: Violations) -> Timestamp:
    moment = Timestamp()
    try:
        moment.FromJsonString(value)
    except (ValueError, TypeError, AttributeError):
        _refuse(at, "must be a time like 2026-01-31T12:00:00Z", violations, None)
    return moment


def _duration(value: Any, at: str, violations: Violations) -> Duration:
    span = Duration()
    try:
        span.FromJsonString(value)
    except (ValueError, TypeError, AttributeError):
        _refuse(at, "must be a duration like 1.5s", violations, None)
    return span


def _enum(enum: descriptor.EnumDescriptor) -> Converter:
    numbers = numbers_of(enum)
    detail = f"must be one of {', '.join(numbers)}"

    def convert(value: Any, at: str, violations: Violations) -> int:
        number = numbers.get(value) if type(value) is str else None
        return number if number is not None else int(_refuse(at, detail, violations, 0))

    return convert


_FROM_JSON: Final[Mapping[Kind, Converter]] = {
    **{kind: _integer(kind) for kind in INTEGERS},
    Kind.FLOAT: _number(_LARGEST_FLOAT),
    Kind.DOUBLE: _number(math.inf),
    Kind.STRING: _string,
    Kind.BOOL: _bool,
    Kind.BYTES: _bytes,
    Kind.TIMESTAMP: _timestamp,
    Kind.DURATION: _duration,
}


def from_json(field: descriptor.FieldDescriptor) -> Converter:
    """The converter of one JSON value of a field that is not a message of ours."""
    kind = kind_of(field)
    return _enum(enum_of(field)) if kind is Kind.ENUM else _FROM_JSON[kind]


def from_text(field: descriptor.FieldDescriptor) -> Converter:
    """The converter of one value of a field in a path, query or header."""
    kind, convert = kind_of(field), from_json(field)
    if kind in INTEGERS:
        return lambda text, at, violations: convert(_read(_INTEGER_TEXT, int, text), at, violations)
    if kind in {Kind.FLOAT, Kind.DOUBLE}:
        return lambda text, at, violations: convert(_read(_NUMBER_TEXT, float, text), at, violations)
    if kind is Kind.BOOL:
        return lambda text, at, violations: convert(_TRUTHS.get(text), at, violations)
    return lambda text, at, violations: convert(_encodable(text, at, violations), at, violations)


_TRUTHS: Final = {"true": True, "false": False}


def _read(pattern: re.Pattern[str], parse: Callable[[str], Any], text: str) -> Any:
    return parse(text) if pattern.fullmatch(text) else None


def _encodable(text: str, at: str, violations: Violations) -> str:
    """Bytes that are not UTF-8 come as surrogates, which protos cannot hold."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return str(_refuse(at, "must be UTF-8", violations, ""))
    return text
