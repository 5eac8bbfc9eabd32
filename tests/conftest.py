"""Real servers for tests: started when first asked for, one set per test session, gone afterwards."""

import itertools
import re
from collections.abc import Callable, Iterator

import pymysql
import pytest
import redis
from blockbuster import blockbuster_ctx
from grpc._cython import cygrpc  # type: ignore[attr-defined] # compiled, without types

from deploy.local.servers import SERVERS
from deploy.local.stack import Stack, remove_dead_sessions, session_name

_numbers = itertools.count(1)
# The databases of `valkey_url` and its neighbours stay out of the way of those that single tests take.
_FIRST_DATABASE, _LAST_DATABASE = 16, 511


@pytest.fixture(autouse=True)
def no_blocking_in_the_loop() -> Iterator[None]:
    """Makes a call of our own code that would stop the event loop (sleeping, sockets, TLS, locks) fail.

    Files are let be: services read their scripts, pages and settings once, before they serve.
    """
    with blockbuster_ctx(["services", "edge"]) as detector:
        for name, function in detector.functions.items():
            if not name.startswith(("time.", "socket.", "ssl.", "threading.")):
                function.deactivate()
        yield


@pytest.fixture(scope="session", autouse=True)
def grpc_keeps_its_poller() -> None:
    """Keeps gRPC from stopping its thread, and waiting for it, whenever its last object happens to be collected."""
    cygrpc.init_grpc_aio()


@pytest.fixture(scope="session")
def server_stack() -> Iterator[Stack]:
    """The session's own stack of servers, none of which runs until a fixture below asks for it."""
    remove_dead_sessions("test")
    stack = Stack(session_name("test"), specs=SERVERS)
    try:
        yield stack
    finally:
        stack.remove()


@pytest.fixture(scope="session")
def valkey_url(server_stack: Stack) -> str:
    """The URL of a running Valkey, database 0."""
    server_stack.up(["valkey"])
    return server_stack.url("valkey")


@pytest.fixture
def redis_url(valkey_url: str) -> Iterator[str]:
    """The URL of a Valkey database that is empty and nobody else's during the test."""
    span = _LAST_DATABASE - _FIRST_DATABASE + 1
    url = f"{valkey_url.rpartition('/')[0]}/{_FIRST_DATABASE + next(_numbers) % span}"
    with redis.Redis.from_url(url) as client:
        client.flushdb()
        yield url
        client.flushdb()


@pytest.fixture(scope="session")
def mysql_url_factory(server_stack: Stack) -> Callable[[str], str]:
    """Returns the URL of a new, empty database; the name is for people who look, and need not be unique."""
    server_stack.up(["mariadb"])
    base = server_stack.url("mariadb")

    def create(name: str) -> str:
        database = f"boxoffice_{re.sub(r'[^a-z0-9]+', '_', name.lower())[:40]}_{next(_numbers)}"
        _execute(base, f"CREATE DATABASE {database} CHARACTER SET utf8mb4")
        return f"{base}/{database}"

    return create


def _execute(url: str, statement: str) -> None:
    user, password, host, port = re.fullmatch(r"mysql://(.+?):(.+?)@(.+?):(\d+)", url).groups()  # type: ignore[union-attr] # it always matches
    connection = pymysql.connect(host=host, port=int(port), user=user, password=password)
    try:
        with connection.cursor() as cursor:
            cursor.execute(statement)
    finally:
        connection.close()


@pytest.fixture(scope="session")
def kafka_url(server_stack: Stack) -> str:
    """The URL (kafka://host:port) of a running Apache Kafka, which creates no topics by itself."""
    server_stack.up(["kafka"])
    return server_stack.url("kafka")


@pytest.fixture(scope="session")
def sns_url(server_stack: Stack) -> str:
    """The endpoint URL of a running stand-in for SNS; `GET /moto-api/data.json` shows what was pushed."""
    server_stack.up(["sns"])
    return server_stack.url("sns")
