"""JSON Schemas of messages and enums, as components of the OpenAPI document."""

from collections.abc import Collection, Mapping
from typing import Any, Final

from google.protobuf import descriptor

from edge.transcode.fields import (
    INTEGERS,
    Kind,
    enum_of,
    is_map,
    kind_of,
    map_value_of,
    message_of,
    names_of,
    policy_of,
)

Schema = dict[str, Any]

_SIMPLE: Final[Mapping[Kind, Schema]] = {
    Kind.BOOL: {"type": "boolean"},
    Kind.FLOAT: {"type": "number", "format": "float"},
    Kind.DOUBLE: {"type": "number", "format": "double"},
    Kind.STRING: {"type": "string"},
    Kind.BYTES: {"type": "string", "contentEncoding": "base64"},
    Kind.TIMESTAMP: {"type": "string", "format": "date-time"},
    Kind.DURATION: {"type": "string", "pattern": r"^-?[0-9]+(\.[0-9]{1,9})?s$"},
}
_FORMATS: Final = {Kind.INT32: "int32", Kind.INT64: "int64"}


class Schemas:
    """Collects the components that operations refer to.

    A message that is sent to the edge and one that comes from it differ: unknown fields of the first are refused,
    while the second may get new ones, and has every field that is not told to be optional.
    """

    def __init__(self, comments: Mapping[str, str]) -> None:
        self.components: dict[str, Schema] = {}
        self._comments = comments

    def request(self, message: descriptor.Descriptor, left_out: Collection[str] = ()) -> Schema:
        """The schema of a body that is sent, in place."""
        fields = [field for field in message.fields if field.name not in left_out]
        schema = self._object(message, fields, sent=True)
        required = [field.name for field in fields if policy_of(field).required]
        return schema | ({"required": required} if required else {}) | {"additionalProperties": False}

    def response(self, message: descriptor.Descriptor, left_out: Collection[str] = ()) -> Schema:
        """The schema of a body that is answered, in place."""
        fields = [field for field in message.fields if field.name not in left_out]
        always = [field.name for field in fields if not field.has_presence]
        return self._object(message, fields, sent=False) | ({"required": always} if always else {})

    def field(self, field: descriptor.FieldDescriptor, *, sent: bool) -> Schema:
        """The schema of a field, with its comment."""
        schema = self._plural(field, sent=sent)
        description = self._comments.get(field.full_name)
        return schema | ({"description": description} if description else {})

    def _object(
        self, message: descriptor.Descriptor, fields: Collection[descriptor.FieldDescriptor], *, sent: bool
    ) -> Schema:
        properties = {field.name: self.field(field, sent=sent) for field in fields}
        return {
            "type": "object",
            "description": self._comments.get(message.full_name, message.name),
            "properties": properties,
        }

    def _plural(self, field: descriptor.FieldDescriptor, *, sent: bool) -> Schema:
        if is_map(field):
            return {"type": "object", "additionalProperties": self._single(map_value_of(field), sent=sent)}
        single = self._single(field, sent=sent)
        return {"type": "array", "items": single} if field.is_repeated else single

    def _single(self, field: descriptor.FieldDescriptor, *, sent: bool) -> Schema:
        kind = kind_of(field)
        if kind in INTEGERS:
            least, greatest = INTEGERS[kind]
            bounds = {"type": "integer", "minimum": least, "maximum": greatest}
            return bounds | ({"format": _FORMATS[kind]} if kind in _FORMATS else {})
        if kind is Kind.ENUM:
            return self._enum(enum_of(field))
        return self._message(message_of(field), sent=sent) if kind is Kind.MESSAGE else dict(_SIMPLE[kind])

    def _message(self, message: descriptor.Descriptor, *, sent: bool) -> Schema:
        name = component_name(message.full_name) + (".Input" if sent else "")
        if name not in self.components:
            # Before the fields, so that a recursive message finds itself.
            self.components[name] = {}
            self.components[name] = self.request(message) if sent else self.response(message)
        return _reference(name)

    def _enum(self, enum: descriptor.EnumDescriptor) -> Schema:
        name = component_name(enum.full_name)
        if name not in self.components:
            values = sorted(names_of(enum).items())
            meanings = [f"- `{text}`: {self._meaning(enum, number)}" for number, text in values]
            description = "\n".join([self._comments.get(enum.full_name, enum.name), "", *meanings])
            self.components[name] = {
                "type": "string",
                "enum": [text for _, text in values],
                "description": description,
            }
        return _reference(name)

    def _meaning(self, enum: descriptor.EnumDescriptor, number: int) -> str:
        return self._comments.get(f"{enum.full_name}.{enum.values_by_number[number].name}", "")


def component_name(full_name: str) -> str:
    """The name of a component: "inventory.Booking.State" of boxoffice.inventory.v1.Booking.State."""
    root, part, version, *names = full_name.split(".")
    del root
    # The first version is the one that needs no saying.
    return ".".join([part, *([version] if version != "v1" else []), *names])


def _reference(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}
