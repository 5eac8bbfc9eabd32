"""HTTP requests → request messages: path, query, headers and body, by what the contract says about each field."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from aiohttp import web
from google.protobuf import descriptor
from google.protobuf.message import Message

from edge.transcode import values
from edge.transcode.contract import Operation, message_class
from edge.transcode.fields import Kind, is_map, kind_of, message_of, policy_of
from edge.transcode.parse import ParserCompiler, parse_object
from edge.transcode.problems import (
    BodyTimeout,
    BodyTooLarge,
    ContractError,
    InvalidRequest,
    MalformedRequest,
    UnsupportedMediaType,
    Violation,
)
from edge.transcode.values import Violations

# What a JSON request may need: a reservation takes a few hundred bytes.
JSON_LIMIT: Final = 64 * 1024
# Webhooks of payment providers carry whole orders.
RAW_LIMIT: Final = 256 * 1024

# A reservation fits into one packet, a webhook into some; who needs longer for one holds a place that others need.
_BODY_SECONDS: Final = 10.0

_JSON: Final = "application/json"
_IDENTITY: Final = "identity"

ReadRequest = Callable[[web.Request], Awaitable[Message]]
# Sets fields of a message from a part of a request.
_Fill = Callable[[web.Request, Message, Violations], None]
_FillFromBody = Callable[[bytes, Message, Violations], None]


@dataclass(frozen=True)
class Binding:
    """Where each field of the request of an operation comes from."""

    operation: Operation

    @cached_property
    def _fields(self) -> Sequence[descriptor.FieldDescriptor]:
        return list(self.operation.rpc.input_type.fields)

    @cached_property
    def path(self) -> Sequence[descriptor.FieldDescriptor]:
        """Fields in the path."""
        names = self.operation.path_fields
        return [field for field in self._fields if field.name in names]

    @cached_property
    def headers(self) -> Mapping[str, descriptor.FieldDescriptor]:
        """Fields in headers, by the name of the header."""
        return {policy_of(field).header: field for field in self._fields if policy_of(field).header}

    @cached_property
    def raw(self) -> descriptor.FieldDescriptor | None:
        """The field that takes the raw body, if any."""
        return next((field for field in self._fields if policy_of(field).raw_body), None)

    @cached_property
    def body(self) -> Sequence[descriptor.FieldDescriptor]:
        """Fields in a JSON body."""
        if self.raw is not None:
            return []
        return [field for field in self._remaining if self.operation.body in {"*", field.name}]

    @cached_property
    def query(self) -> Sequence[descriptor.FieldDescriptor]:
        """Fields in the query string. Messages and maps have no place there."""
        if self.operation.body == "*":
            return []
        fields = [field for field in self._remaining if field.name != self.operation.body]
        return [field for field in fields if not is_map(field) and kind_of(field) is not Kind.MESSAGE]

    @cached_property
    def _remaining(self) -> Sequence[descriptor.FieldDescriptor]:
        elsewhere = {field.name for field in (*self.path, *self.headers.values(), *([self.raw] if self.raw else []))}
        return [field for field in self._fields if field.name not in elsewhere]

    @cached_property
    def outside_of_body(self) -> Mapping[str, str]:
        """What to tell about a field that has no place in the body, by its name."""
        return {
            **{field.name: "is taken from the path" for field in self.path},
            **{field.name: f"is taken from the header {name}" for name, field in self.headers.items()},
        }


def compile_reader(operation: Operation, parsers: ParserCompiler) -> ReadRequest:
    """Makes the function that reads a request. It raises InvalidRequest with everything that is wrong, and others."""
    binding = Binding(operation)
    message_type = message_class(operation.rpc.input_type)
    fillers = list(_fillers(binding))
    fill_from_body = _body_filler(binding, parsers)
    limit = JSON_LIMIT if binding.raw is None else RAW_LIMIT
    wants_json = binding.raw is None

    async def read(request: web.Request) -> Message:
        message, violations = message_type(), list[Violation]()
        if fill_from_body is not None:
            fill_from_body(await _read_body(request, limit, wants_json), message, violations)
        for fill in fillers:
            fill(request, message, violations)
        if violations:
            raise InvalidRequest(violations)
        return message

    return read


async def _read_body(request: web.Request, limit: int, wants_json: bool) -> bytes:
    """The body, at most `limit` bytes. The application's own limit stops what does not tell its length."""
    if (request.content_length or 0) > limit:
        raise BodyTooLarge(f"the body may have {limit} bytes")
    # Nothing that a client of ours sends is worth compressing, and a little of it can become a lot of memory.
    if request.headers.get("Content-Encoding", _IDENTITY) != _IDENTITY:
        raise UnsupportedMediaType("the body must not be compressed")
    body = await _receive(request)
    if len(body) > limit:
        raise BodyTooLarge(f"the body may have {limit} bytes")
    # Nothing at all is taken for an object without fields, whatever it claims to be.
    if wants_json and body and request.headers.get("Content-Type") != _JSON:
        _check_media_type(request)
    return body


async def _receive(request: web.Request) -> bytes:
    """The body. Raises MalformedRequest when it ends early or breaks, BodyTimeout when it does not come."""
    try:
        # Most bodies came with their headers, and need no timer.
        if request.content.is_eof():
            return await request.read()
        async with asyncio.timeout(_BODY_SECONDS):
            return await request.read()
    except TimeoutError:
        raise BodyTimeout from None
    except (web.RequestPayloadError, OSError):
        raise MalformedRequest("the body is not what the headers promised") from None


def _check_media_type(request: web.Request) -> None:
    if request.content_type != _JSON or (request.charset or "utf-8").lower() not in {"utf-8", "utf8"}:
        raise UnsupportedMediaType("the body must be application/json in UTF-8")


def _body_filler(binding: Binding, parsers: ParserCompiler) -> _FillFromBody | None:
    if binding.raw is not None:
        return _raw_filler(binding.raw)
    operation = binding.operation
    if operation.body == "*":
        fill_all = parsers.compile(operation.rpc.input_type, binding.outside_of_body)
        return lambda body, message, violations: fill_all(parse_object(body) if body else {}, message, "", violations)
    return _field_filler(binding.body[0], parsers) if operation.body else None


def _raw_filler(field: descriptor.FieldDescriptor) -> _FillFromBody:
    if field.type != field.TYPE_STRING:
        raise ContractError(f"{field.full_name}: a raw body is a string")

    def fill(body: bytes, message: Message, violations: Violations) -> None:
        try:
            setattr(message, field.name, body.decode())
        except UnicodeDecodeError:
            violations.append(Violation("", "must be UTF-8"))

    return fill


def _field_filler(field: descriptor.FieldDescriptor, parsers: ParserCompiler) -> _FillFromBody:
    if field.is_repeated or kind_of(field) is not Kind.MESSAGE:
        raise ContractError(f"{field.full_name}: a body that is one field must be a message")
    fill_field = parsers.compile(message_of(field))

    def fill(body: bytes, message: Message, violations: Violations) -> None:
        inner = getattr(message, field.name)
        inner.SetInParent()
        fill_field(parse_object(body) if body else {}, inner, "", violations)

    return fill


def _fillers(binding: Binding) -> Iterable[_Fill]:
    for field in binding.path:
        yield _path_filler(field)
    for name, field in binding.headers.items():
        yield _header_filler(name, field)
    yield _query_filler(binding.query)


def _path_filler(field: descriptor.FieldDescriptor) -> _Fill:
    name, convert = field.name, values.from_text(field)

    def fill(request: web.Request, message: Message, violations: Violations) -> None:
        _assign(message, name, convert(request.match_info[name], name, violations))

    return fill


def _header_filler(header: str, field: descriptor.FieldDescriptor) -> _Fill:
    name, convert, required = field.name, values.from_text(field), policy_of(field).required

    def fill(request: web.Request, message: Message, violations: Violations) -> None:
        value = request.headers.get(header)
        if value is not None:
            _assign(message, name, convert(value, header, violations))
        elif required:
            violations.append(Violation(header, values.REQUIRED))

    return fill


def _query_filler(fields: Sequence[descriptor.FieldDescriptor]) -> _Fill:
    setters = {field.name: _query_setter(field) for field in fields}
    required = frozenset(field.name for field in fields if policy_of(field).required)

    def fill(request: web.Request, message: Message, violations: Violations) -> None:
        # Most requests have no query, and are not made to pay for one.
        if not required and not request.rel_url.raw_query_string:
            return
        query = request.query
        for name in dict.fromkeys(query):
            if name in setters:
                setters[name](query.getall(name), message, violations)
            else:
                violations.append(Violation(name, "is not a known parameter"))
        violations.extend(Violation(name, values.REQUIRED) for name in sorted(required) if not query.get(name))

    return fill


def _query_setter(field: descriptor.FieldDescriptor) -> Callable[[list[str], Message, Violations], None]:
    name, convert = field.name, values.from_text(field)

    def set_one(texts: list[str], message: Message, violations: Violations) -> None:
        if len(texts) > 1:
            violations.append(Violation(name, "may be given once"))
        _assign(message, name, convert(texts[0], name, violations))

    def set_many(texts: list[str], message: Message, violations: Violations) -> None:
        getattr(message, name).extend(convert(text, f"{name}[{index}]", violations) for index, text in enumerate(texts))

    return set_many if field.is_repeated else set_one


def _assign(message: Message, name: str, value: Any) -> None:
    if isinstance(value, Message):
        getattr(message, name).CopyFrom(value)
    else:
        setattr(message, name, value)
