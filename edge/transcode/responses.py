"""Response messages → HTTP responses: status, headers, ETag, body, by what the contract says about each field."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote

from aiohttp import web
from google.protobuf import descriptor
from google.protobuf.message import Message

from edge.transcode.contract import Operation
from edge.transcode.dump import DumperCompiler, to_json
from edge.transcode.fields import INTEGERS, Kind, kind_of, policy_of
from edge.transcode.problems import ContractError

WriteResponse = Callable[[web.Request, Message], web.Response]

NO_STORE: Final = "no-store"
_ETAG: Final = "etag"
_OK: Final = 200
_NOT_MODIFIED: Final = 304
_HEADER_KINDS: Final = frozenset({*INTEGERS, Kind.STRING, Kind.BOOL})
_BRACES: Final = re.compile(r"\{([a-z0-9_]+)\}")


def success_status(operation: Operation) -> int:
    """The HTTP status of a success."""
    return operation.policy.success_status or _OK


def header_fields(operation: Operation) -> Mapping[str, descriptor.FieldDescriptor]:
    """Response fields that are sent as headers, by the name of the header."""
    fields = operation.rpc.output_type.fields
    return {policy_of(field).header: field for field in fields if policy_of(field).header}


def sets_ok(operation: Operation) -> descriptor.FieldDescriptor | None:
    """The field that, when true, turns the success status into 200."""
    return next((field for field in operation.rpc.output_type.fields if policy_of(field).ok_when_true), None)


def etag_field(operation: Operation) -> descriptor.FieldDescriptor | None:
    """The response field that is the ETag, if any."""
    return next((field for name, field in header_fields(operation).items() if name.lower() == _ETAG), None)


def cache_control(operation: Operation) -> str:
    """The `Cache-Control` of a success."""
    return operation.policy.cache_control or NO_STORE


def compile_writer(operation: Operation, dumpers: DumperCompiler) -> WriteResponse:
    """Makes the function that turns a response message into an HTTP response."""
    dump = dumpers.compile(operation.rpc.output_type, [field.name for field in header_fields(operation).values()])
    status, flag = success_status(operation), sets_ok(operation)
    flag_name = flag.name if flag is not None else None
    fixed = {"Content-Type": "application/json", "Cache-Control": cache_control(operation)}
    writers = list(_header_writers(operation))
    has_etag = etag_field(operation) is not None

    def write(request: web.Request, message: Message) -> web.Response:
        headers = fixed.copy()
        for write_header in writers:
            write_header(message, headers)
        if has_etag and _matches(request.headers.get("If-None-Match"), headers.get("ETag")):
            del headers["Content-Type"]
            return web.Response(status=_NOT_MODIFIED, headers=headers)
        code = _OK if flag_name is not None and getattr(message, flag_name) else status
        return web.Response(body=to_json(dump(message)), status=code, headers=headers)

    return write


_WriteHeader = Callable[[Any, dict[str, str]], None]


def _header_writers(operation: Operation) -> Iterator[_WriteHeader]:
    for name, field in header_fields(operation).items():
        yield _header_writer(name, field)
    if operation.policy.location:
        yield _location_writer(operation)


def _header_writer(header: str, field: descriptor.FieldDescriptor) -> _WriteHeader:
    kind, name = kind_of(field), field.name
    if field.is_repeated or kind not in _HEADER_KINDS:
        raise ContractError(f"{field.full_name}: this type cannot be a header")
    is_etag = header.lower() == _ETAG

    def write(message: Any, headers: dict[str, str]) -> None:
        value = getattr(message, name)
        if value is True:
            headers[header] = "true"
        elif is_etag and value:
            headers["ETag"] = _quoted(value)
        elif value not in {False, ""}:
            headers[header] = str(value)

    return write


def _location_writer(operation: Operation) -> _WriteHeader:
    template = operation.policy.location
    fields = operation.rpc.output_type.fields_by_name
    if unknown := [name for name in _BRACES.findall(template) if name not in fields]:
        raise ContractError(f"{operation.name}: location names fields that the response has not: {unknown}")

    def write(message: Any, headers: dict[str, str]) -> None:
        headers["Location"] = _BRACES.sub(lambda match: quote(str(getattr(message, match[1])), safe=""), template)

    return write


def _quoted(etag: str) -> str:
    """Services give the bare value or the quoted one; HTTP wants it in quotes."""
    return etag if etag.startswith(('"', 'W/"')) else f'"{etag}"'


def _matches(condition: str | None, etag: str | None) -> bool:
    """Whether `If-None-Match` names the ETag: weak comparison, RFC 9110 section 13.1.2."""
    if not condition or etag is None:
        return False
    return condition.strip() == "*" or _opaque(etag) in _opaques(condition)


def _opaques(condition: str) -> Sequence[str]:
    return [_opaque(tag) for tag in re.findall(r'(?:W/)?"[^"]*"', condition)]


def _opaque(etag: str) -> str:
    return etag.removeprefix("W/")
