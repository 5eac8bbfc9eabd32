"""The contract: every HTTP binding of every annotated RPC, with its comments, read from a descriptor set."""

import importlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Final

from boxoffice.options.v1 import options_pb2
from google.api import annotations_pb2, http_pb2
from google.protobuf import descriptor, descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import Message

from edge.transcode import comments
from edge.transcode.problems import ContractError

_VERBS: Final = ("get", "post", "put", "patch", "delete")
_PLACEHOLDER: Final = re.compile(r"\{([^{}=]+)(?:=([^{}]*))?\}")
_NAME: Final = re.compile(r"[a-z_][a-z0-9_]*")
_TARGET_PART: Final = 1


@dataclass(frozen=True, slots=True)
class Operation:
    """One HTTP binding of one RPC."""

    rpc: descriptor.MethodDescriptor
    policy: options_pb2.MethodPolicy
    # "GET".
    verb: str
    # As annotated: "/api/events/{event_id}".
    path: str
    # "": nothing is read from the body; "*": the whole request; else the field that the body is.
    body: str

    @property
    def part(self) -> str:
        """Who serves it: "inventory" of boxoffice.inventory.v1."""
        return part_of(self.rpc.containing_service)

    @property
    def name(self) -> str:
        """Service and method, "BookingService.Reserve"."""
        return f"{self.rpc.containing_service.name}.{self.rpc.name}"

    @property
    def grpc_path(self) -> str:
        """As gRPC spells the method."""
        return grpc_path(self.rpc)

    @property
    def needs_key(self) -> bool:
        """Whether a call without an `Idempotency-Key` is refused."""
        return bool(self.policy.idempotency == options_pb2.IDEMPOTENCY_KEY_REQUIRED)

    @property
    def path_fields(self) -> tuple[str, ...]:
        """Names of the request fields in the path."""
        return tuple(name for name, _ in _PLACEHOLDER.findall(self.path))


@dataclass(frozen=True, slots=True)
class Contract:
    """What the edge serves."""

    operations: Sequence[Operation]
    # Leading comments by full name of what they explain.
    comments: Mapping[str, str]

    @property
    def parts(self) -> frozenset[str]:
        """The parts of Boxoffice that the operations need."""
        return frozenset(operation.part for operation in self.operations)


def message_class(message: descriptor.Descriptor) -> type[Message]:
    """The Python class of a message type."""
    return message_factory.GetMessageClass(message)


def grpc_path(rpc: descriptor.MethodDescriptor) -> str:
    """As gRPC spells the method: "/boxoffice.auth.v1.AuthService/Login"."""
    return f"/{rpc.containing_service.full_name}/{rpc.name}"


def part_of(service: descriptor.ServiceDescriptor) -> str:
    """The second part of the package of a service, which names the process that serves it."""
    return str(service.full_name.split(".")[_TARGET_PART])


def read_descriptors() -> descriptor_pb2.FileDescriptorSet:
    """The descriptor set that was written beside the stubs, comments included."""
    content = resources.files("boxoffice").joinpath("descriptors.binpb").read_bytes()
    return descriptor_pb2.FileDescriptorSet.FromString(content)


def load(files: descriptor_pb2.FileDescriptorSet) -> Contract:
    """Finds the operations of `files`. Raises ContractError when one cannot be served as it is annotated."""
    for file in files.file:
        _register(file)
    operations = tuple(operation for file in files.file for operation in _operations_of(file))
    _refuse_twins(operations)
    return Contract(operations, comments.of_files(files))


def _register(file: descriptor_pb2.FileDescriptorProto) -> None:
    """Makes a file known to the default pool: by its stub, which also registers extensions, else from its bytes."""
    try:
        importlib.import_module(file.name.removesuffix(".proto").replace("/", ".") + "_pb2")
    except ModuleNotFoundError:
        # A contract that is newer than the installed stubs is served all the same.
        descriptor_pool.Default().AddSerializedFile(file.SerializeToString())


def _operations_of(file: descriptor_pb2.FileDescriptorProto) -> Iterator[Operation]:
    services = descriptor_pool.Default().FindFileByName(file.name).services_by_name.values()
    for service in services:
        for rpc in service.methods:
            yield from _operations_of_rpc(rpc)


def _operations_of_rpc(rpc: descriptor.MethodDescriptor) -> Iterator[Operation]:
    options = rpc.GetOptions()
    policy = options.Extensions[options_pb2.policy]
    if not options.HasExtension(annotations_pb2.http) or policy.access == options_pb2.ACCESS_INTERNAL:
        return
    if policy.access == options_pb2.ACCESS_UNSPECIFIED:
        raise ContractError(f"{rpc.full_name} has a route, but does not declare who may call it")
    if rpc.client_streaming:
        raise ContractError(f"{rpc.full_name} streams requests, which HTTP clients cannot")
    rule = options.Extensions[annotations_pb2.http]
    for binding in (rule, *rule.additional_bindings):
        yield _operation(rpc, policy, binding)


def _operation(
    rpc: descriptor.MethodDescriptor, policy: options_pb2.MethodPolicy, rule: http_pb2.HttpRule
) -> Operation:
    verb = rule.WhichOneof("pattern")
    if verb not in _VERBS:
        raise ContractError(f"{rpc.full_name} has a binding with an HTTP method other than {', '.join(_VERBS)}")
    operation = Operation(rpc, policy, verb.upper(), getattr(rule, verb), rule.body)
    fields = rpc.input_type.fields_by_name
    named = [*operation.path_fields, *([rule.body] if rule.body not in {"", "*"} else [])]
    if unknown := [name for name in named if name not in fields]:
        raise ContractError(f"{rpc.full_name} binds fields that its request has not: {', '.join(unknown)}")
    return operation


def _refuse_twins(operations: Sequence[Operation]) -> None:
    seen: dict[tuple[str, str], str] = {}
    for operation in operations:
        address = operation.verb, _PLACEHOLDER.sub("{}", operation.path)
        if address in seen:
            raise ContractError(f"{operation.name} and {seen[address]} have the same address {address}")
        seen[address] = operation.name


def route_of(path: str) -> str:
    """An annotated path as an aiohttp route. Raises ContractError for templates that are not served."""
    return _PLACEHOLDER.sub(_route_placeholder, path)


def _route_placeholder(match: re.Match[str]) -> str:
    name, pattern = match[1], match[2]
    if not _NAME.fullmatch(name) or pattern not in {None, "*", "**"}:
        raise ContractError(f"path templates like {match[0]} are not served")
    return f"{{{name}:.+}}" if pattern == "**" else f"{{{name}}}"


def plain_path(path: str) -> str:
    """An annotated path as OpenAPI and metrics write it, without patterns."""
    return _PLACEHOLDER.sub(lambda match: f"{{{match[1]}}}", path)
