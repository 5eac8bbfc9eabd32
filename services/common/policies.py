"""What the contracts declare about each method, read from the descriptors (`boxoffice.options.v1.policy`)."""

from collections.abc import Mapping
from dataclasses import dataclass

from boxoffice.options.v1 import options_pb2
from google.protobuf import descriptor, descriptor_pool


@dataclass(frozen=True, slots=True)
class Method:
    """One RPC and its declaration."""

    # Full name of the service, "boxoffice.auth.v1.AuthService".
    service: str
    # Short name, "Login".
    name: str
    policy: options_pb2.MethodPolicy
    request: descriptor.Descriptor
    streams: bool

    @property
    def path(self) -> str:
        """As gRPC spells it: "/boxoffice.auth.v1.AuthService/Login"."""
        return f"/{self.service}/{self.name}"

    @property
    def takes_idempotency_key(self) -> bool:
        """Whether a call without an idempotency key is refused."""
        return self.policy.idempotency == options_pb2.IDEMPOTENCY_KEY_REQUIRED


def methods_of(service: str) -> Mapping[str, Method]:
    """Every RPC of a service by its path. The service's generated module must have been imported; else KeyError."""
    methods = descriptor_pool.Default().FindServiceByName(service).methods
    return {method.path: method for method in map(_method, methods)}


def _method(rpc: descriptor.MethodDescriptor) -> Method:
    policy = rpc.GetOptions().Extensions[options_pb2.policy]
    return Method(rpc.containing_service.full_name, rpc.name, policy, rpc.input_type, rpc.server_streaming)
