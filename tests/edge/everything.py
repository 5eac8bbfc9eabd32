"""A message type with every kind of field that codecs serve, most of which our contracts do not use yet."""

from functools import cache

from google.protobuf import descriptor, descriptor_pb2, descriptor_pool

_F = descriptor_pb2.FieldDescriptorProto
_NAME = "boxoffice.made.v1.Everything"

_SCALARS = {
    "a_bool": _F.TYPE_BOOL,
    "an_int32": _F.TYPE_INT32,
    "a_uint32": _F.TYPE_FIXED32,
    "an_int64": _F.TYPE_SINT64,
    "a_uint64": _F.TYPE_UINT64,
    "a_float": _F.TYPE_FLOAT,
    "a_double": _F.TYPE_DOUBLE,
    "a_string": _F.TYPE_STRING,
    "some_bytes": _F.TYPE_BYTES,
}


def _add(message: descriptor_pb2.DescriptorProto, name: str, kind: int, type_name: str = "") -> _F:
    number = len(message.field) + 1
    return message.field.add(
        name=name,
        number=number,
        type=kind,
        label=_F.LABEL_OPTIONAL,
        type_name=type_name or None,
    )


def _add_map(message: descriptor_pb2.DescriptorProto, name: str, kind: int, type_name: str = "") -> None:
    entry = message.nested_type.add(name=name.title().replace("_", "") + "Entry")
    entry.options.map_entry = True
    _add(entry, "key", _F.TYPE_STRING)
    _add(entry, "value", kind, type_name)
    _add(message, name, _F.TYPE_MESSAGE, f".{_NAME}.{entry.name}").label = _F.LABEL_REPEATED


@cache
def everything() -> descriptor.Descriptor:
    """Its descriptor, in the default pool."""
    file = descriptor_pb2.FileDescriptorProto(name="made/everything.proto", syntax="proto3")
    file.package = "boxoffice.made.v1"
    file.dependency.extend(["google/protobuf/timestamp.proto", "google/protobuf/duration.proto"])
    message = file.message_type.add(name="Everything")
    kind = message.enum_type.add(name="SeatKind")
    for number, name in enumerate(("UNSPECIFIED", "STANDING", "SEATED")):
        kind.value.add(name=f"SEAT_KIND_{name}", number=number)
    types = {name: (scalar, "") for name, scalar in _SCALARS.items()} | {
        "an_enum": (_F.TYPE_ENUM, f".{_NAME}.SeatKind"),
        "a_time": (_F.TYPE_MESSAGE, ".google.protobuf.Timestamp"),
        "a_duration": (_F.TYPE_MESSAGE, ".google.protobuf.Duration"),
        "itself": (_F.TYPE_MESSAGE, f".{_NAME}"),
    }
    for name, (type_, type_name) in types.items():
        _add(message, name, type_, type_name)
        _add(message, f"many_{name}", type_, type_name).label = _F.LABEL_REPEATED
        _add_map(message, f"map_{name}", type_, type_name)
    message.oneof_decl.add(name="choice")
    for name in ("a_bool", "a_string", "itself"):
        _add(message, f"one_{name}", *types[name]).oneof_index = 0
    for name, type_ in _SCALARS.items():
        field = _add(message, f"maybe_{name}", type_)
        field.proto3_optional, field.oneof_index = True, len(message.oneof_decl)
        message.oneof_decl.add(name=f"_maybe_{name}")
    descriptor_pool.Default().AddSerializedFile(file.SerializeToString())
    return descriptor_pool.Default().FindMessageTypeByName(_NAME)
