"""Asks a server, in its own protocol, whether it can serve. Each check raises `NotReady` until it can."""

import http.client
import socket
import struct

from deploy.local.ports import is_free

_PATIENCE_SECONDS = 2.0


class NotReady(Exception):
    """The server does not serve yet; the text says what was seen."""


def _ask(port: int, question: bytes, size: int) -> bytes:
    try:
        with socket.create_connection(("127.0.0.1", port), _PATIENCE_SECONDS) as connection:
            connection.settimeout(_PATIENCE_SECONDS)
            connection.sendall(question)
            return connection.recv(size)
    except OSError as error:
        raise NotReady(str(error)) from error


def valkey(port: int) -> None:
    """Valkey answers PING with PONG once its append-only file is loaded."""
    answer = _ask(port, b"PING\r\n", 64)
    if not answer.startswith(b"+PONG"):
        raise NotReady(answer.decode(errors="replace"))


def mariadb(port: int) -> None:
    """MariaDB greets with protocol version 10; an error packet instead means that it refuses."""
    greeting = _ask(port, b"", 64)
    if greeting[4:5] != b"\x0a":
        raise NotReady("no greeting yet")


def kafka(port: int) -> None:
    """Kafka answers ApiVersions once the broker is unfenced and takes requests."""
    api_versions, version, correlation_id, no_client_id = 18, 0, 7, -1
    request = struct.pack(">hhih", api_versions, version, correlation_id, no_client_id)
    answer = _ask(port, struct.pack(">i", len(request)) + request, 64)
    if answer[4:8] != struct.pack(">i", correlation_id):
        raise NotReady("no answer to ApiVersions yet")


def http_ok(port: int, path: str) -> None:
    """An HTTP server answers the path with 200."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_PATIENCE_SECONDS)
    try:
        connection.request("GET", path)
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        raise NotReady(str(error)) from error
    finally:
        connection.close()
    if status != http.client.OK:
        raise NotReady(f"{path} answers {status}")


def grpc_serving(port: int) -> None:
    """A gRPC server answers the standard health check of the whole server with SERVING."""
    if is_free(port):  # spares a channel, and its back-off, while nobody listens
        raise NotReady("nobody listens yet")
    # Imported late: starting only servers should not need gRPC.
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(service=""), timeout=_PATIENCE_SECONDS
            )
        except grpc.RpcError as error:
            raise NotReady(str(error.code())) from error
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        raise NotReady(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))
