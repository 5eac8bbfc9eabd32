"""JSON objects → messages: one parser per message type, generated as Python source when the edge starts.

The generated code checks and sets the common types in line; whatever looks wrong goes to a converter of `values`,
which knows what to say. A parser for `Money` reads, shortened:

    def parse_2(o, m, at, violations):
        seen = 0
        v = o.get("amount", A)
        if v is not A:
            seen += 1
            m.amount = v if type(v) is int and -9007199254740991 <= v <= 9007199254740991 else c_amount(v, …)
        …
        if seen != len(o):
            unknown_2(o, at, violations)
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import orjson
from google.protobuf import descriptor
from google.protobuf.message import Message

from edge.transcode import values
from edge.transcode.fields import INTEGERS, Kind, is_map, kind_of, map_value_of, message_of, policy_of
from edge.transcode.problems import InvalidRequest, MalformedJson, Violation
from edge.transcode.values import Violations

# Fills a message from a JSON object found at a path, and adds what is wrong with it.
FillMessage = Callable[[dict[str, Any], Message, str, Violations], None]

_INDENT: Final = "    "


class ParserCompiler:
    """Makes parsers; those of nested messages are shared."""

    def __init__(self) -> None:
        self._globals: dict[str, Any] = {"A": object(), "Violation": Violation}
        self._names: dict[str, str] = {}
        self.sources: list[str] = []

    def compile(self, message: descriptor.Descriptor, elsewhere: Mapping[str, str] | None = None) -> FillMessage:
        """The parser of a message. Fields in `elsewhere` are refused, with the text that tells where they belong."""
        fill: FillMessage = self._globals[self._define(message, elsewhere or {})]
        return fill

    def _define(self, message: descriptor.Descriptor, elsewhere: Mapping[str, str]) -> str:
        name = f"parse_{len(self.sources)}"
        if not elsewhere:
            if message.full_name in self._names:
                return self._names[message.full_name]
            # Before the fields, so that a recursive message finds itself.
            self._names[message.full_name] = name
        # Reserves the number; parsers of nested messages take the next ones.
        index = len(self.sources)
        self.sources.append("")
        fields = [field for field in message.fields if field.name not in elsewhere]
        self._globals[f"unknown_{name}"] = _unknown(frozenset(field.name for field in fields), elsewhere)
        self.sources[index] = "\n".join(self._source(name, message, fields))
        exec(compile(self.sources[index], f"<{message.full_name}>", "exec"), self._globals)  # noqa: S102 - our own text
        return name

    def _source(
        self, name: str, message: descriptor.Descriptor, fields: Sequence[descriptor.FieldDescriptor]
    ) -> Iterator[str]:
        yield f"def {name}(o, m, at, violations):"
        yield f"{_INDENT}seen = 0"
        for field in fields:
            yield from _indented(self._field(field))
        yield f"{_INDENT}if seen != len(o):"
        yield f"{_INDENT * 2}unknown_{name}(o, at, violations)"
        for oneof in message.oneofs:
            members = [field.name for field in oneof.fields if field in fields]
            # A field that is `optional` is alone in a oneof that protoc made up.
            if len(members) > 1:
                self._globals[f"oneof_{name}_{oneof.name}"] = _at_most_one(members)
                yield f"{_INDENT}oneof_{name}_{oneof.name}(o, at, violations)"

    def _field(self, field: descriptor.FieldDescriptor) -> Iterator[str]:
        yield f"v = o.get({field.name!r}, A)"
        yield "if v is not A:"
        yield f"{_INDENT}seen += 1"
        yield from _indented(self._value(field))
        if policy_of(field).required:
            yield "else:"
            yield f"{_INDENT}violations.append(Violation(at + {field.name!r}, {values.REQUIRED!r}))"

    def _value(self, field: descriptor.FieldDescriptor) -> Iterator[str]:
        if is_map(field):
            yield from self._map(field)
        elif field.is_repeated:
            yield from self._repeated(field)
        elif kind_of(field) is Kind.MESSAGE:
            yield from self._message(field)
        elif field.message_type is not None:
            yield f"m.{field.name}.CopyFrom({self._converter(field)}(v, at + {field.name!r}, violations))"
        else:
            yield f"m.{field.name} = {self._scalar(field, f'at + {field.name!r}')}"

    def _scalar(self, field: descriptor.FieldDescriptor, at: str) -> str:
        converted = f"{self._converter(field)}(v, {at}, violations)"
        test = _inline_test(kind_of(field))
        return f"v if {test} else {converted}" if test else converted

    def _converter(self, field: descriptor.FieldDescriptor) -> str:
        name = f"convert_{field.full_name.replace('.', '_')}"
        self._globals[name] = values.from_json(field)
        return name

    def _message(self, field: descriptor.FieldDescriptor) -> Iterator[str]:
        nested = self._define(message_of(field), {})
        yield "if type(v) is dict:"
        # An empty object is present too.
        yield f"{_INDENT}m.{field.name}.SetInParent()"
        yield f"{_INDENT}{nested}(v, m.{field.name}, at + {field.name + '.'!r}, violations)"
        yield from _otherwise(f"at + {field.name!r}", values.OBJECT)

    def _repeated(self, field: descriptor.FieldDescriptor) -> Iterator[str]:
        at = f"f'{{at}}{field.name}[{{i}}]'"
        yield "if type(v) is list:"
        if kind_of(field) is Kind.MESSAGE:
            nested = self._define(message_of(field), {})
            yield f"{_INDENT}for i, v in enumerate(v):"
            yield f"{_INDENT * 2}if type(v) is dict:"
            yield f"{_INDENT * 3}{nested}(v, m.{field.name}.add(), {at} + '.', violations)"
            yield from _indented(_indented(_otherwise(at, values.OBJECT)))
        else:
            yield f"{_INDENT}m.{field.name}.extend([{self._scalar(field, at)} for i, v in enumerate(v)])"
        yield from _otherwise(f"at + {field.name!r}", values.ARRAY)

    def _map(self, field: descriptor.FieldDescriptor) -> Iterator[str]:
        value = map_value_of(field)
        at = f"f'{{at}}{field.name}.{{k}}'"
        yield "if type(v) is dict:"
        yield f"{_INDENT}for k, v in v.items():"
        if kind_of(value) is Kind.MESSAGE:
            nested = self._define(message_of(value), {})
            yield f"{_INDENT * 2}if type(v) is dict:"
            yield f"{_INDENT * 3}{nested}(v, m.{field.name}[k], {at} + '.', violations)"
            yield from _indented(_indented(_otherwise(at, values.OBJECT)))
        elif value.message_type is not None:
            yield f"{_INDENT * 2}m.{field.name}[k].CopyFrom({self._converter(value)}(v, {at}, violations))"
        else:
            yield f"{_INDENT * 2}m.{field.name}[k] = {self._scalar(value, at)}"
        yield from _otherwise(f"at + {field.name!r}", values.OBJECT)


def _otherwise(at: str, detail: str) -> Iterator[str]:
    yield "else:"
    yield f"{_INDENT}violations.append(Violation({at}, {detail!r}))"


def _indented(lines: Iterator[str]) -> Iterator[str]:
    return (_INDENT + line for line in lines)


def _inline_test(kind: Kind) -> str:
    """The check of the common kinds as an expression over `v`; "" where the converter is called at once."""
    if kind in INTEGERS:
        least, greatest = INTEGERS[kind]
        return f"type(v) is int and {least} <= v <= {greatest}"
    return {Kind.STRING: "type(v) is str", Kind.BOOL: "type(v) is bool"}.get(kind, "")


def _unknown(known: frozenset[str], elsewhere: Mapping[str, str]) -> Callable[[dict[str, Any], str, Violations], None]:
    def report(body: dict[str, Any], at: str, violations: Violations) -> None:
        violations.extend(
            Violation(at + name, elsewhere.get(name, "is not known")) for name in body if name not in known
        )

    return report


def _at_most_one(names: Sequence[str]) -> Callable[[dict[str, Any], str, Violations], None]:
    detail = f"only one of {', '.join(names)} can be given"

    def check(body: dict[str, Any], at: str, violations: Violations) -> None:
        given = [name for name in names if name in body]
        violations.extend(Violation(at + name, detail) for name in given[1:])

    return check


def parse_object(body: bytes) -> dict[str, Any]:
    """The JSON object that a body is. Raises MalformedJson, and InvalidRequest when it is not an object."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise MalformedJson(f"the body is not JSON: line {error.lineno}, column {error.colno}") from None
    if type(value) is not dict:
        raise InvalidRequest([Violation("", values.OBJECT)])
    return value
