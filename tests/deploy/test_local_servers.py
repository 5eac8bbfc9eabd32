"""Each server of the embedded stack behaves as the services rely on; and the helpers that all tests share."""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from datetime import timedelta
from urllib.parse import urlsplit

import aiohttp
import pymysql
import pytest
import redis
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import UnknownTopicOrPartitionError
from blockbuster import BlockingError

from deploy.local.paths import ROOT
from deploy.local.servers import KAFKA, MARIADB
from deploy.local.stack import Stack, session_name
from tests.support import eventually


def connect(url: str) -> "pymysql.Connection[pymysql.cursors.Cursor]":
    parts = urlsplit(url)
    return pymysql.connect(
        host=parts.hostname,
        port=parts.port or 0,
        user=parts.username,
        password=parts.password or "",
        database=parts.path.strip("/"),
    )


def ask(url: str, question: str) -> tuple[object, ...]:
    connection = connect(url)
    try:
        with connection.cursor() as cursor:
            cursor.execute(question)
            return cursor.fetchone() or ()
    finally:
        connection.close()


def test_mariadb_commits_durably_in_utc_and_four_byte_characters(mysql_url_factory: Callable[[str], str]) -> None:
    url = mysql_url_factory("durable")
    assert ask(url, "SELECT @@innodb_flush_log_at_trx_commit, @@time_zone, @@character_set_database") == (
        1,
        "+00:00",
        "utf8mb4",
    )


def test_every_database_is_a_new_one(mysql_url_factory: Callable[[str], str]) -> None:
    urls = [mysql_url_factory("Same name!") for _ in range(2)]
    assert len(set(urls)) == 2


def test_the_account_of_services_reaches_only_databases_of_boxoffice(mysql_url_factory: Callable[[str], str]) -> None:
    with pytest.raises(pymysql.err.OperationalError, match=r"command denied|Access denied"):
        ask(mysql_url_factory("account"), "SELECT COUNT(*) FROM mysql.global_priv")


def test_no_account_works_without_a_password(mysql_url_factory: Callable[[str], str]) -> None:
    parts = urlsplit(mysql_url_factory("anonymous"))
    for user in ("root", "", "boxoffice"):
        with pytest.raises(pymysql.err.OperationalError, match="Access denied"):
            pymysql.connect(host=parts.hostname, port=parts.port or 0, user=user)


async def test_kafka_creates_no_topic_by_itself(kafka_url: str) -> None:
    address = kafka_url.removeprefix("kafka://")
    async with AIOKafkaProducer(bootstrap_servers=address, request_timeout_ms=500) as producer:
        with pytest.raises(UnknownTopicOrPartitionError):
            await producer.send_and_wait("nobody-made-me", b"lost")


def test_a_database_of_valkey_is_empty_and_ones_own(redis_url: str, valkey_url: str) -> None:
    with redis.Redis.from_url(redis_url) as own, redis.Redis.from_url(valkey_url) as other:
        assert own.dbsize() == 0
        own.set("mine", "1")
        assert other.get("mine") is None


async def test_sns_shows_what_was_pushed(sns_url: str) -> None:
    async with aiohttp.ClientSession() as session, session.get(f"{sns_url}/moto-api/data.json") as answer:
        assert answer.status == 200


@pytest.fixture
def own_stack() -> Iterator[Stack]:
    stack = Stack(session_name("test-durable"), specs=[MARIADB, KAFKA])
    yield stack
    stack.remove()


async def produce(address: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=address)
    await admin.start()
    await admin.create_topics([NewTopic("kept", num_partitions=1, replication_factor=1)])
    await admin.close()
    async with AIOKafkaProducer(bootstrap_servers=address, acks="all", enable_idempotence=True) as producer:
        await producer.send_and_wait("kept", b"record")


async def consume(address: str) -> bytes | None:
    async with AIOKafkaConsumer(
        "kept", bootstrap_servers=address, group_id="readers", auto_offset_reset="earliest"
    ) as consumer:
        value: bytes | None = (await consumer.getone()).value
        return value


@pytest.mark.slow
async def test_what_was_acknowledged_survives_a_kill_of_every_server(own_stack: Stack) -> None:
    await asyncio.to_thread(own_stack.up)
    database, address = f"{own_stack.url('mariadb')}/boxoffice_auth", own_stack.url("kafka").removeprefix("kafka://")
    ask(database, "CREATE TABLE kept AS SELECT 'row' AS value")
    await produce(address)
    for name in ("mariadb", "kafka"):
        own_stack.kill(name)
    await asyncio.to_thread(own_stack.up)
    assert ask(database, "SELECT value FROM kept") == ("row",)
    async with asyncio.timeout(30):
        assert await consume(address) == b"record"


@pytest.mark.parametrize("call", ["time.sleep(0)", "s.connect(('127.0.0.1', 9))"])
async def test_a_blocking_call_of_ours_in_the_loop_fails(call: str) -> None:
    # Compiled as if it stood in a service: only calls of our own code count.
    code = compile(
        f"import socket, time\nwith socket.socket() as s: {call}", str(ROOT / "services" / "pause.py"), "exec"
    )
    with pytest.raises(BlockingError):
        exec(code, {})
    with pytest.raises(ConnectionRefusedError) if "connect" in call else nullcontext():
        await asyncio.to_thread(exec, code, {})


async def test_eventually_returns_the_first_true_value() -> None:
    values = iter([0, None, "there"])
    assert await eventually(lambda: next(values)) == "there"


async def test_eventually_waits_for_assertions_and_awaits() -> None:
    began = time.monotonic()

    async def late() -> bool:
        assert time.monotonic() > began + 0.1, "too early"
        return True

    assert await eventually(late)


async def test_eventually_tells_what_it_saw_last() -> None:
    def never() -> bool:
        raise AssertionError("three are missing")

    with pytest.raises(AssertionError, match="three are missing"):
        await eventually(never, within=timedelta(milliseconds=50))
    with pytest.raises(AssertionError, match="the last value was 0"):
        await eventually(lambda: 0, within=timedelta(milliseconds=50))
