"""What a field is, as far as JSON and HTTP are concerned."""

import re
from collections.abc import Mapping
from enum import Enum, auto
from functools import cache
from typing import Final

from boxoffice.options.v1 import options_pb2
from google.protobuf import descriptor

from edge.transcode.problems import ContractError

# Beyond this, JSON numbers lose digits in most clients; ids are below it (RFC 7493).
LARGEST_INTEGER: Final = 2**53 - 1

_Field = descriptor.FieldDescriptor


class Kind(Enum):
    """The JSON shape of one value."""

    BOOL = auto()
    INT32 = auto()
    UINT32 = auto()
    INT64 = auto()
    UINT64 = auto()
    FLOAT = auto()
    DOUBLE = auto()
    STRING = auto()
    BYTES = auto()
    ENUM = auto()
    MESSAGE = auto()
    TIMESTAMP = auto()
    DURATION = auto()


_KINDS: Final[Mapping[int, Kind]] = {
    _Field.TYPE_BOOL: Kind.BOOL,
    _Field.TYPE_INT32: Kind.INT32,
    _Field.TYPE_SINT32: Kind.INT32,
    _Field.TYPE_SFIXED32: Kind.INT32,
    _Field.TYPE_UINT32: Kind.UINT32,
    _Field.TYPE_FIXED32: Kind.UINT32,
    _Field.TYPE_INT64: Kind.INT64,
    _Field.TYPE_SINT64: Kind.INT64,
    _Field.TYPE_SFIXED64: Kind.INT64,
    _Field.TYPE_UINT64: Kind.UINT64,
    _Field.TYPE_FIXED64: Kind.UINT64,
    _Field.TYPE_FLOAT: Kind.FLOAT,
    _Field.TYPE_DOUBLE: Kind.DOUBLE,
    _Field.TYPE_STRING: Kind.STRING,
    _Field.TYPE_BYTES: Kind.BYTES,
    _Field.TYPE_ENUM: Kind.ENUM,
}

_WELL_KNOWN: Final = {"google.protobuf.Timestamp": Kind.TIMESTAMP, "google.protobuf.Duration": Kind.DURATION}

# Least and greatest value that is taken and told.
INTEGERS: Final[Mapping[Kind, tuple[int, int]]] = {
    Kind.INT32: (-(2**31), 2**31 - 1),
    Kind.UINT32: (0, 2**32 - 1),
    Kind.INT64: (-LARGEST_INTEGER, LARGEST_INTEGER),
    Kind.UINT64: (0, LARGEST_INTEGER),
}


def kind_of(field: _Field) -> Kind:
    """The shape of one value of a field. Raises ContractError for types whose JSON form nobody needed yet."""
    if field.message_type is None:
        return _KINDS[field.type]
    name = field.message_type.full_name
    if name in _WELL_KNOWN:
        return _WELL_KNOWN[name]
    if name.startswith("google.protobuf.") and name != "google.protobuf.Empty":
        raise ContractError(f"{field.full_name}: {name} has no JSON form here")
    return Kind.MESSAGE


def is_map(field: _Field) -> bool:
    """Whether a field is a map. Raises ContractError unless its keys are strings."""
    entry = field.message_type
    if entry is None or not entry.GetOptions().map_entry:
        return False
    if kind_of(entry.fields_by_name["key"]) is not Kind.STRING:
        raise ContractError(f"{field.full_name}: keys of a JSON object are strings")
    return True


def message_of(field: _Field) -> descriptor.Descriptor:
    """The type of a message field."""
    assert field.message_type is not None
    return field.message_type


def map_value_of(field: _Field) -> _Field:
    """The values of a map field, as a field."""
    return message_of(field).fields_by_name["value"]


def enum_of(field: _Field) -> descriptor.EnumDescriptor:
    """The type of an enum field."""
    assert field.enum_type is not None
    return field.enum_type


def policy_of(field: _Field) -> options_pb2.FieldPolicy:
    """What the contract declares on a field."""
    return field.GetOptions().Extensions[options_pb2.field]


@cache
def names_of(enum: descriptor.EnumDescriptor) -> Mapping[int, str]:
    """Names in JSON by number: without the prefix that protos need, STATE_OPEN of `State` being "OPEN"."""
    prefix = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", enum.name).upper() + "_"
    return {value.number: value.name.removeprefix(prefix) for value in reversed(enum.values)}


@cache
def numbers_of(enum: descriptor.EnumDescriptor) -> Mapping[str, int]:
    """The reverse of `names_of`."""
    return {name: number for number, name in names_of(enum).items()}
