"""How an operation calls its RPC: alone, in company of concurrent calls, or as a stream."""

import asyncio
import logging
from collections.abc import AsyncIterable, Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import grpc
from google.protobuf import descriptor
from google.protobuf.message import Message
from google.rpc import status_pb2
from grpc import aio

from edge.transcode.contract import Operation, grpc_path, message_class
from edge.transcode.problems import ContractError
from services.common import telemetry
from services.common.caller import call_var, current_caller
from services.common.coalesce import Coalescer
from services.common.errors import BoxofficeError, Unavailable, from_status

# Of the contract: what applies where a method declares none.
DEFAULT_DEADLINE: Final = timedelta(seconds=5)

CallUnary = Callable[[Message], Awaitable[Message]]
# A stream can also be cancelled; aio.UnaryStreamCall is such a thing.
OpenStream = Callable[[Message], AsyncIterable[Message]]

_RESULT: Final = {"response", "error"}
# The field of an item that not every twin asks for.
_ADDRESS: Final = "client_address"

_log = logging.getLogger(__name__)


class Refused(BoxofficeError):
    """One item of a batch was refused; the reason is the service's."""

    def __init__(self, status: status_pb2.Status) -> None:
        self.reason, detail, metadata = from_status(status)
        super().__init__(detail, metadata)


def deadline_of(operation: Operation) -> timedelta:
    """How long a call may take. Streams have no deadline."""
    policy = operation.policy
    return policy.deadline.ToTimedelta() if policy.HasField("deadline") else DEFAULT_DEADLINE


def compile_unary(operation: Operation, channel: aio.Channel) -> CallUnary:
    """Makes the function that calls the RPC. It raises what gRPC raises, or Refused."""
    if operation.policy.batch:
        return _coalesced(operation, channel)
    call = _multicallable(channel, operation.rpc)
    seconds = deadline_of(operation).total_seconds()

    async def send(request: Message) -> Message:
        response: Message = await call(request, timeout=seconds)
        return response

    return send


def compile_stream(rpc: descriptor.MethodDescriptor, channel: aio.Channel) -> OpenStream:
    """Makes the function that opens the stream. The RPC need not have a route."""
    open_stream: OpenStream = channel.unary_stream(
        grpc_path(rpc),
        request_serializer=message_class(rpc.input_type).SerializeToString,
        response_deserializer=message_class(rpc.output_type).FromString,
    )
    return open_stream


def _multicallable(channel: aio.Channel, rpc: descriptor.MethodDescriptor) -> Any:
    return channel.unary_unary(
        grpc_path(rpc),
        request_serializer=message_class(rpc.input_type).SerializeToString,
        response_deserializer=message_class(rpc.output_type).FromString,
    )


@dataclass(frozen=True, slots=True)
class Item:
    """One call that waits for a batch: what the batch cannot know, since it is nobody's request."""

    request: Message
    user_id: int
    traceparent: str
    client_address: str


SendBatch = Callable[[Sequence[Item]], Awaitable[Sequence[Message | Exception]]]


def compile_batch(operation: Operation, channel: aio.Channel) -> SendBatch:
    """Makes the function that sends 1 to 256 calls as one of the batch twin; each has an outcome of its own.

    It raises Unavailable or TimeoutError when the batch as a whole was not answered, and ContractError at once when
    the twin does not follow the convention.
    """
    twin = _twin(operation)
    return _BatchSender(_multicallable(channel, twin), twin, deadline_of(operation).total_seconds())


def _coalesced(operation: Operation, channel: aio.Channel) -> CallUnary:
    send_batch = compile_batch(operation, channel)
    coalescer: Coalescer[Item, Message] = Coalescer(
        send_batch, max_in_flight=1 if operation.policy.batch_in_order else 2, name=operation.name
    )
    seconds = deadline_of(operation).total_seconds()

    async def send(request: Message) -> Message:
        call = call_var.get()
        address = call.client_address if call else ""
        item = Item(request, current_caller().user_id, telemetry.current_traceparent(), address)
        # Waiting for a place in a batch counts as well.
        async with asyncio.timeout(seconds):
            return await coalescer.submit(item)

    return send


class _BatchSender:
    """Sends items as one request of the batch twin, and takes the answer apart."""

    def __init__(self, call: Any, twin: descriptor.MethodDescriptor, seconds: float) -> None:
        self._call = call
        self._batch = message_class(twin.input_type)
        self._seconds = seconds
        self._takes_address = _ADDRESS in _type_of(twin.input_type, "items").fields_by_name
        (self._oneof,) = (oneof.name for oneof in _type_of(twin.output_type, "results").oneofs)
        self._name = twin.full_name

    async def __call__(self, items: Sequence[Item]) -> Sequence[Message | Exception]:
        batch: Any = self._batch()
        for item in items:
            more = {_ADDRESS: item.client_address} if self._takes_address else {}
            batch.items.add(request=item.request, user_id=item.user_id, traceparent=item.traceparent, **more)
        try:
            answer = await self._call(batch, timeout=self._seconds)
        except aio.AioRpcError as error:
            raise self._failure(error) from error
        return [self._outcome(result) for result in answer.results]

    def _failure(self, error: aio.AioRpcError) -> Exception:
        """A batch that failed as a whole is nobody's mistake among those who travelled in it."""
        if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
            return TimeoutError()
        fields = {"method": self._name, "code": error.code().name, "error": error.details()}
        _log.warning("batch failed", extra={"fields": fields})
        return Unavailable()

    def _outcome(self, result: Any) -> Message | Exception:
        outcome = result.WhichOneof(self._oneof)
        if outcome == "response":
            response: Message = result.response
            return response
        return Refused(result.error) if outcome else RuntimeError("a result of the batch is empty")


def _twin(operation: Operation) -> descriptor.MethodDescriptor:
    """The batch twin. Raises ContractError unless it follows the convention of `MethodPolicy.batch`."""
    twin = operation.rpc.containing_service.methods_by_name.get(operation.policy.batch)
    if twin is None:
        raise ContractError(f"{operation.name}: there is no RPC {operation.policy.batch}")
    item, result = _type_of(twin.input_type, "items"), _type_of(twin.output_type, "results")
    matches = (
        {"request", "user_id", "traceparent"} <= set(item.fields_by_name)
        and item.fields_by_name["request"].message_type is operation.rpc.input_type
        and len(result.oneofs) == 1
        and {field.name for field in result.oneofs[0].fields} == _RESULT
        and result.fields_by_name["response"].message_type is operation.rpc.output_type
    )
    if not matches:
        raise ContractError(f"{twin.full_name} does not follow the convention of batch twins")
    return twin


def _type_of(message: descriptor.Descriptor, field: str) -> descriptor.Descriptor:
    found = message.fields_by_name.get(field)
    if found is None or found.message_type is None or not found.is_repeated:
        raise ContractError(f"{message.full_name} must have `repeated … {field}`")
    return found.message_type
