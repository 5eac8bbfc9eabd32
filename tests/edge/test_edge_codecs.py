"""Compiled codecs say what json_format says, apart from what was decided otherwise (docs/decisions/0021)."""

import math
import struct
from functools import cache
from typing import Any

import orjson
import pytest
from boxoffice.inventory.v1 import booking_service_pb2 as booking_pb
from google.protobuf import any_pb2, descriptor, descriptor_pb2, descriptor_pool, json_format
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge.transcode.contract import message_class
from edge.transcode.dump import DumperCompiler, to_json
from edge.transcode.fields import INTEGERS, Kind, enum_of, is_map, kind_of, map_value_of, message_of, names_of
from edge.transcode.parse import ParserCompiler, parse_object
from edge.transcode.problems import ContractError, Violation
from tests.edge.everything import everything
from tests.edge.world import contract_of

_parsers, _dumpers = ParserCompiler(), DumperCompiler()
_DEPTH = 2


@cache
def _messages() -> list[descriptor.Descriptor]:
    found = {everything().full_name: everything()}
    for operation in contract_of().operations:
        for message in (operation.rpc.input_type, operation.rpc.output_type):
            found[message.full_name] = message
    return list(found.values())


_SINGLE: dict[Kind, st.SearchStrategy[Any]] = {
    **{kind: st.integers(*bounds) for kind, bounds in INTEGERS.items()},
    Kind.BOOL: st.booleans(),
    Kind.FLOAT: st.floats(width=32, allow_nan=False, allow_infinity=False),
    Kind.DOUBLE: st.floats(allow_nan=False, allow_infinity=False),
    Kind.STRING: st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    Kind.BYTES: st.binary(max_size=8),
    Kind.TIMESTAMP: st.builds(
        Timestamp,
        seconds=st.integers(-62_135_596_800, 253_402_300_799),
        nanos=st.one_of(st.sampled_from([0, 1_000, 250_000_000]), st.integers(0, 999_999_999)),
    ),
    Kind.DURATION: st.builds(Duration, seconds=st.integers(0, 10**9), nanos=st.integers(0, 999_999_999)),
}


def _value(field: descriptor.FieldDescriptor, draw: Any, depth: int) -> Any:
    kind = kind_of(field)
    if kind is Kind.MESSAGE:
        return _message(message_of(field), draw, depth - 1)
    if kind is Kind.ENUM:
        return draw(st.sampled_from(sorted(names_of(enum_of(field)))))
    return draw(_SINGLE[kind])


def _message(kind: descriptor.Descriptor, draw: Any, depth: int) -> Message:
    """Any message of a type: each field is left alone or given any value; nested to a depth."""
    message = message_class(kind)()
    fields = [field for field in kind.fields if depth > 0 or field.message_type is None]
    for field in (
        draw(st.lists(st.sampled_from(fields), max_size=6, unique_by=lambda field: field.number)) if fields else ()
    ):
        _fill(message, field, draw, depth)
    return message


def _fill(message: Any, field: descriptor.FieldDescriptor, draw: Any, depth: int) -> None:
    if is_map(field):
        value = map_value_of(field)
        for key in draw(st.sets(_SINGLE[Kind.STRING], max_size=2)):
            if value.message_type is not None:
                getattr(message, field.name)[key].CopyFrom(_value(value, draw, depth))
            else:
                getattr(message, field.name)[key] = _value(value, draw, depth)
    elif field.is_repeated:
        getattr(message, field.name).extend([_value(field, draw, depth) for _ in range(draw(st.integers(0, 3)))])
    elif field.message_type is not None:
        getattr(message, field.name).CopyFrom(_value(field, draw, depth))
    else:
        setattr(message, field.name, _value(field, draw, depth))


def _expected(field: descriptor.FieldDescriptor, told: Any) -> Any:
    """What json_format told of one value, in our dialect: numbers for 64 bits, enum names without prefix."""
    kind = kind_of(field)
    if kind is Kind.MESSAGE:
        return _expected_message(message_of(field), told)
    if kind is Kind.ENUM:
        return names_of(enum_of(field))[enum_of(field).values_by_name[told].number]
    return _comparable(field, int(told) if kind in INTEGERS else told)


def _comparable(field: descriptor.FieldDescriptor, told: Any) -> Any:
    """Digits of a float may differ, as long as it is the same float."""
    return struct.pack("f", told) if kind_of(field) is Kind.FLOAT else told


def _each(kind: descriptor.Descriptor, told: dict[str, Any], convert: Any) -> dict[str, Any]:
    converted: dict[str, Any] = {}
    for name, value in told.items():
        field = kind.fields_by_name[name]
        if is_map(field):
            converted[name] = {key: convert(map_value_of(field), inner) for key, inner in value.items()}
        elif field.is_repeated:
            converted[name] = [convert(field, inner) for inner in value]
        else:
            converted[name] = convert(field, value)
    return converted


def _expected_message(kind: descriptor.Descriptor, told: dict[str, Any]) -> dict[str, Any]:
    return _each(kind, told, _expected)


def _told_message(kind: descriptor.Descriptor, told: dict[str, Any]) -> dict[str, Any]:
    def convert(field: descriptor.FieldDescriptor, value: Any) -> Any:
        if kind_of(field) is Kind.MESSAGE:
            return _told_message(message_of(field), value)
        return _comparable(field, value)

    return _each(kind, told, convert)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_messages_are_told_as_json_format_tells_them_and_come_back(data: st.DataObject) -> None:
    kind = data.draw(st.one_of(st.just(everything()), st.sampled_from(_messages())))
    message = _message(kind, data.draw, _DEPTH)
    told = to_json(_dumpers.compile(kind)(message))
    reference = json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    assert _told_message(kind, orjson.loads(told)) == _expected_message(kind, reference)

    again, violations = message_class(kind)(), list[Violation]()
    _parsers.compile(kind)(parse_object(told), again, "", violations)
    assert violations == []
    assert again == message


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_json_is_either_taken_or_refused_with_a_path(data: st.DataObject) -> None:
    """Whatever a client sends, the parser neither raises nor forgets to say what is wrong."""
    kind = data.draw(st.one_of(st.just(everything()), st.sampled_from(_messages())))
    names = st.sampled_from([field.name for field in kind.fields] or ["x"])
    body = data.draw(st.dictionaries(names | st.text(max_size=3), _JSON, max_size=4))
    message, violations = message_class(kind)(), list[Violation]()
    _parsers.compile(kind)(body, message, "", violations)
    message.SerializeToString()
    for violation in violations:
        assert violation.detail
        assert violation.detail == "is required" or any(violation.field.startswith(name) for name in body)


def _parse_everything(body: dict[str, Any]) -> list[Violation]:
    violations: list[Violation] = []
    _parsers.compile(everything())(body, message_class(everything())(), "", violations)
    return violations


@pytest.mark.parametrize(
    "body",
    [
        {"a_bool": 1},
        {"an_int32": True},
        {"an_int32": 2**31},
        {"a_uint32": -1},
        {"a_uint64": 2**53},
        {"an_int64": 1.5},
        {"a_float": 1e39},
        {"a_double": "1"},
        {"a_double": True},
        {"some_bytes": "a"},
        {"some_bytes": "ä==="},
        {"some_bytes": 5},
        {"an_enum": "SEAT_KIND_SEATED"},
        {"an_enum": 2},
        {"a_time": "yesterday"},
        {"a_time": "2026-01-31T12:00:00"},
        {"a_time": 5},
        {"a_time": {"seconds": 1}},
        {"a_duration": "5"},
        {"itself": []},
        {"many_itself": [[]]},
        {"many_an_enum": ["SEATED", "LYING"]},
        {"map_itself": []},
        {"map_an_int64": {"a": "1"}},
        {"one_a_bool": True, "one_a_string": "x"},
        {"itself": {"many_itself": [{}, {"nope": 1}]}},
    ],
    ids=str,
)
def test_what_is_refused(body: dict[str, Any]) -> None:
    assert len(_parse_everything(body)) == 1


def test_paths_lead_to_the_place() -> None:
    body = {"itself": {"many_itself": [{}, {"nope": 1}], "map_itself": {"k": {"a_bool": 0}}}}
    assert [violation.field for violation in _parse_everything(body)] == [
        "itself.many_itself[1].nope",
        "itself.map_itself.k.a_bool",
    ]


def test_of_repeated_keys_the_last_one_counts() -> None:
    message = booking_pb.ListBookingsRequest()
    _parsers.compile(message.DESCRIPTOR)(parse_object(b'{"page_size":1,"page_size":2}'), message, "", [])
    assert message.page_size == 2


def test_a_state_that_is_newer_than_the_contract_is_told_as_its_number() -> None:
    message = booking_pb.Booking(state=99)  # type: ignore[arg-type] # from the future
    assert _dumpers.compile(message.DESCRIPTOR)(message)["state"] == 99


def test_types_without_a_json_form_are_refused_at_start() -> None:
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="made/any.proto", package="boxoffice.made.v1", syntax="proto3")
    file.dependency.append(any_pb2.DESCRIPTOR.name)
    message = file.message_type.add(name="HasAny")
    message.field.add(
        name="x", number=1, type=field.TYPE_MESSAGE, type_name=".google.protobuf.Any", label=field.LABEL_OPTIONAL
    )
    descriptor_pool.Default().AddSerializedFile(file.SerializeToString())
    kind = descriptor_pool.Default().FindMessageTypeByName("boxoffice.made.v1.HasAny")
    for compiler in (_parsers, _dumpers):
        with pytest.raises(ContractError):
            compiler.compile(kind)


def test_numbers_are_finite() -> None:
    assert not math.isfinite(float("1e999"))
    assert [violation.field for violation in _parse_everything({"a_double": math.inf})] == ["a_double"]
