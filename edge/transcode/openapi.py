"""The OpenAPI 3.1 document of a contract: the comments of the protos are its descriptions."""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from boxoffice.options.v1 import options_pb2
from google.protobuf import descriptor

from edge import problems, streams
from edge.middlewares import authentication, idempotency
from edge.transcode.contract import Contract, Operation, plain_path
from edge.transcode.fields import policy_of
from edge.transcode.requests import Binding
from edge.transcode.responses import etag_field, header_fields, sets_ok, success_status
from edge.transcode.schemas import Schemas
from services.common import errors

Document = dict[str, Any]

_JSON: Final = "application/json"
_BEARER: Final = "access_token"
_ERRORS: Final = "Errors:"
_REASON: Final = re.compile(r"\b[A-Z][A-Z_]+[A-Z]\b")
_PROBLEM_NAME: Final = "Problem"

_INTRODUCTION: Final = """\
Ticketing for the on-sale. Times are RFC 3339 in UTC, ids are integers below 2^53, money is in minor units.

Errors are RFC 9457 problem documents. `code` is stable; texts are not. `trace_id` finds the request in our logs.

Calls that take an `Idempotency-Key` may be repeated with the same key and body: they have one effect and one answer.
Events of a stream have one line of JSON as `data`; an event of type `problem` ends it.
"""

_PROBLEM: Final[Document] = {
    "type": "object",
    "description": "RFC 9457 problem details.",
    "required": ["type", "title", "status", "detail", "code", "trace_id"],
    "properties": {
        "type": {"type": "string", "format": "uri-reference", "description": "Opens what is known about the code."},
        "title": {"type": "string", "description": "The same for every occurrence of the code."},
        "status": {"type": "integer", "description": "The HTTP status."},
        "detail": {"type": "string", "description": "What happened, for people."},
        "code": {"type": "string", "description": "Stable, for programs."},
        "trace_id": {"type": "string", "description": "Finds the request in our logs and traces."},
        "errors": {
            "type": "array",
            "description": "Everything that is wrong with the request.",
            "items": {
                "type": "object",
                "required": ["field", "detail"],
                "properties": {"field": {"type": "string"}, "detail": {"type": "string"}},
            },
        },
        "retry_after_ms": {"type": "integer", "description": "When to try again."},
        "metadata": {
            "type": "object",
            "description": "More about this occurrence; what, depends on the code.",
            "additionalProperties": {"type": "string"},
        },
    },
}


def document(contract: Contract) -> Document:
    """The document. Same contract, same document: it can be compared and cached."""
    schemas = Schemas(contract.comments)
    paths: dict[str, Document] = defaultdict(dict)
    for operation in contract.operations:
        paths[plain_path(operation.path)][operation.verb.lower()] = _operation(operation, contract, schemas)
    components = {**schemas.components, _PROBLEM_NAME: _PROBLEM}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Boxoffice", "version": "1", "description": _INTRODUCTION},
        "servers": [{"url": "/"}],
        "tags": _tags(contract),
        "paths": dict(sorted(paths.items())),
        "components": {
            "schemas": dict(sorted(components.items())),
            "securitySchemes": {_BEARER: {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}},
        },
    }


def _tags(contract: Contract) -> list[Document]:
    services = {operation.rpc.containing_service for operation in contract.operations}
    return [
        {"name": service.name, "description": contract.comments.get(service.full_name, "")}
        for service in sorted(services, key=lambda service: service.full_name)
    ]


def _operation(operation: Operation, contract: Contract, schemas: Schemas) -> Document:
    comment = contract.comments.get(operation.rpc.full_name, "")
    told: Document = {
        "operationId": operation.name,
        "tags": [operation.rpc.containing_service.name],
        "summary": comment.split(". ")[0].split("\n")[0].rstrip("."),
        "description": comment,
        "security": [] if _is_public(operation) else [{_BEARER: []}],
        "responses": _responses(operation, comment, schemas),
    }
    if role := _role(operation):
        told["description"] = f"{comment}\n\nNeeds the role `{role}`."
    if parameters := list(_parameters(Binding(operation), schemas)):
        told["parameters"] = parameters
    if operation.body or Binding(operation).raw is not None:
        told["requestBody"] = _body(Binding(operation), schemas)
    return told


def _is_public(operation: Operation) -> bool:
    return bool(operation.policy.access == options_pb2.ACCESS_PUBLIC)


def _role(operation: Operation) -> str:
    return "" if _is_public(operation) else authentication.role_of(operation.policy.access)


def _parameters(binding: Binding, schemas: Schemas) -> Iterator[Document]:
    for field in binding.path:
        yield _parameter("path", field.name, field, schemas, required=True)
    for field in binding.query:
        yield _parameter("query", field.name, field, schemas, required=policy_of(field).required)
    for name, field in binding.headers.items():
        required = policy_of(field).required or _is_required_key(binding.operation, field)
        yield _parameter("header", name, field, schemas, required=required)


def _is_required_key(operation: Operation, field: descriptor.FieldDescriptor) -> bool:
    return operation.needs_key and policy_of(field).header == idempotency.HEADER


def _parameter(
    place: str, name: str, field: descriptor.FieldDescriptor, schemas: Schemas, *, required: bool
) -> Document:
    schema = schemas.field(field, sent=True)
    description = schema.pop("description", "")
    return {"in": place, "name": name, "required": required, "description": description, "schema": schema}


def _body(binding: Binding, schemas: Schemas) -> Document:
    if binding.raw is not None:
        return {"required": True, "content": {"*/*": {"schema": {"type": "string"}}}}
    message = binding.operation.rpc.input_type
    if binding.operation.body == "*":
        schema = schemas.request(message, binding.outside_of_body)
    else:
        schema = schemas.field(binding.body[0], sent=True)
    return {"required": bool(schema.get("required")), "content": {_JSON: {"schema": schema}}}


def _responses(operation: Operation, comment: str, schemas: Schemas) -> Document:
    success = _success(operation, schemas)
    told = {str(success_status(operation)): success}
    if flag := sets_ok(operation):
        told["200"] = success | {"description": schemas.field(flag, sent=False).get("description", "Repeated")}
    if etag_field(operation) is not None:
        told["304"] = {"description": "What `If-None-Match` names is still current."}
    by_status: dict[int, list[str]] = defaultdict(list)
    for reason in sorted(_reasons(operation, comment)):
        by_status[errors.mapping(reason).http_status].append(reason)
    told |= {str(status): _problem(reasons) for status, reasons in by_status.items()}
    return dict(sorted(told.items()))


def _success(operation: Operation, schemas: Schemas) -> Document:
    sent = header_fields(operation)
    schema = schemas.response(operation.rpc.output_type, [field.name for field in sent.values()])
    headers = {name: _header(schemas.field(field, sent=False)) for name, field in sent.items()}
    if operation.policy.location:
        headers["Location"] = {"description": "Where to follow up.", "schema": {"type": "string"}}
    media_type = streams.MEDIA_TYPE if operation.rpc.server_streaming else _JSON
    told: Document = {"description": "Success", "content": {media_type: {"schema": schema}}}
    return told | ({"headers": headers} if headers else {})


def _header(schema: Document) -> Document:
    return {"description": schema.pop("description", ""), "schema": schema}


def _problem(reasons: Iterable[str]) -> Document:
    titles = "\n".join(f"- `{reason}`: {errors.mapping(reason).title}" for reason in reasons)
    code = {"type": "object", "properties": {"code": {"enum": list(reasons)}}}
    schema = {"allOf": [{"$ref": f"#/components/schemas/{_PROBLEM_NAME}"}, code]}
    return {"description": titles, "content": {problems.MEDIA_TYPE: {"schema": schema}}}


def _reasons(operation: Operation, comment: str) -> set[str]:
    """Why a call may fail: what the comment of the RPC lists, and what its declaration implies."""
    binding = Binding(operation)
    # What every call can meet, streams before their first message.
    reasons = {"INTERNAL", "UNAVAILABLE", "MALFORMED_REQUEST", "HEADERS_TOO_LARGE", *errors_in(comment)}
    if not operation.rpc.server_streaming:
        reasons.add("DEADLINE_EXCEEDED")
    if operation.rpc.input_type.fields:
        reasons.add("INVALID_ARGUMENT")
    if operation.body or binding.raw is not None:
        reasons |= {"BODY_TOO_LARGE", "BODY_TIMEOUT", "UNSUPPORTED_MEDIA_TYPE"}
        reasons |= {"MALFORMED_JSON"} if binding.raw is None else set()
    if not _is_public(operation):
        reasons |= {"UNAUTHENTICATED", "TOKEN_EXPIRED"}
    if _role(operation):
        reasons.add("PERMISSION_DENIED")
    if operation.needs_key:
        reasons.add("IDEMPOTENCY_KEY_REQUIRED")
    return reasons


def errors_in(comment: str) -> set[str]:
    """The reasons that the `Errors:` list of an RPC's comment names."""
    listed = comment.partition(_ERRORS)[2]
    return {name for name in _REASON.findall(listed) if _is_reason(name)}


def _is_reason(name: str) -> bool:
    try:
        errors.mapping(name)
    except KeyError:
        return False
    return True


def descriptions(contract: Contract) -> Mapping[str, str]:
    """What each reason of the catalogue means, by reason."""
    prefix = "boxoffice.errors.v1.Reason.REASON_"
    return {
        name.removeprefix(prefix): text
        for name, text in contract.comments.items()
        if name.startswith(prefix) and _is_reason(name.removeprefix(prefix))
    }
