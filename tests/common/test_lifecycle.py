"""A process starts whole or not at all, tells the truth about itself, and leaves nothing half done."""

import asyncio
import gzip
import logging
import os
import signal
import sys
import threading
import time
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import grpc
import orjson
import pytest
from boxoffice.auth.v1 import auth_service_pb2 as pb
from boxoffice.auth.v1 import auth_service_pb2_grpc as stubs
from grpc_health.v1 import health_pb2, health_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2
from prometheus_client import REGISTRY

from services.common import health
from services.common.grpc_server import serve
from services.common.lifecycle import Lifecycle, running
from services.common.settings import CommonSettings
from tests.support import eventually

ROOT = Path(__file__).parents[2]
STATUS = health_pb2.HealthCheckResponse


class Process:
    """tests/common/process.py as a child; what it prints is kept."""

    def __init__(self, child: asyncio.subprocess.Process) -> None:
        self.child = child
        self.lines: list[dict[str, object]] = []
        self.errors: list[str] = []
        self._readers = [asyncio.create_task(self._read_out()), asyncio.create_task(self._read_err())]

    async def _read_out(self) -> None:
        assert self.child.stdout is not None
        async for line in self.child.stdout:
            self.lines.append(orjson.loads(line))

    async def _read_err(self) -> None:
        assert self.child.stderr is not None
        async for line in self.child.stderr:
            self.errors.append(line.decode().strip())

    async def said(self, message: str) -> dict[str, object]:
        def find() -> list[dict[str, object]]:
            return [line for line in self.lines if line["message"] == message]

        return (await eventually(find, timedelta(seconds=30)))[0]

    async def ended(self) -> int:
        status = await asyncio.wait_for(self.child.wait(), 30)
        await asyncio.gather(*self._readers)
        return status


@asynccontextmanager
async def _process(*arguments: str, **environment: str) -> AsyncIterator[Process]:
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.common.process",
        *arguments,
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    process = Process(child)
    try:
        yield process
    finally:
        if child.returncode is None:
            child.kill()
        await process.ended()


async def test_a_process_says_where_it_serves_and_serves_metrics() -> None:
    async with _process() as process:
        started = await process.said("started")
        url = f"http://127.0.0.1:{started['metrics_port']}/metrics"
        text = (await asyncio.to_thread(urllib.request.urlopen, url, None, 10)).read().decode()
        assert 'boxoffice_build_info{service="auth"' in text
        for invariant in ("oversold_tickets", "leaked_holds", "paid_without_ticket", "undecided_bookings"):
            assert f"boxoffice_{invariant} 0.0" in text
        async with grpc.aio.insecure_channel(f"127.0.0.1:{started['grpc_port']}") as channel:
            answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        assert answer.status == STATUS.SERVING


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_lets_calls_in_flight_end_and_then_closes_in_reverse(number: signal.Signals) -> None:
    async with _process(BOXOFFICE_TEST_ANSWER_SECONDS="0.8") as process:
        port = (await process.said("started"))["grpc_port"]
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            call = stubs.AuthServiceStub(channel).GetJwks(pb.GetJwksRequest())
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
            assert (await watch.read()).status == STATUS.SERVING
            await eventually(lambda: "entered" in process.errors)
            process.child.send_signal(number)
            assert (await watch.read()).status == STATUS.NOT_SERVING
            watch.cancel()
            assert (await call).keys[0].kid == "k1"
        assert await process.ended() == 0
    assert [line for line in process.errors if line.startswith("closed")] == ["closed second", "closed first"]
    assert [line["message"] for line in process.lines] == ["started", "stopping", "stopped"]


@pytest.mark.parametrize("service", ["", health.LIVENESS, "boxoffice.auth.v1.AuthService"])
async def test_whoever_watches_health_does_not_hold_up_the_end(service: str) -> None:
    async with _process(BOXOFFICE_DRAIN_SECONDS="20") as process:
        port = (await process.said("started"))["grpc_port"]
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=service))
            changes = aiter(watch)
            assert (await anext(changes)).status == STATUS.SERVING
            process.child.terminate()
            told = [change.status async for change in changes]
            assert await watch.code() is grpc.StatusCode.OK
            assert await asyncio.wait_for(process.ended(), 5) == 0
    assert told == ([] if service == health.LIVENESS else [STATUS.NOT_SERVING])


async def test_what_does_not_end_in_time_is_cut_off() -> None:
    async with _process(BOXOFFICE_TEST_ANSWER_SECONDS="60", BOXOFFICE_DRAIN_SECONDS="0.2") as process:
        port = (await process.said("started"))["grpc_port"]
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            call = stubs.AuthServiceStub(channel).GetJwks(pb.GetJwksRequest())
            waiting = asyncio.ensure_future(call)
            await eventually(lambda: "entered" in process.errors)
            process.child.terminate()
            with pytest.raises(grpc.aio.AioRpcError):
                await waiting
        assert await process.ended() == 0
    assert "closed first" in process.errors


async def test_a_second_signal_ends_at_once() -> None:
    async with _process(BOXOFFICE_TEST_ANSWER_SECONDS="60", BOXOFFICE_DRAIN_SECONDS="60") as process:
        port = (await process.said("started"))["grpc_port"]
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            waiting = asyncio.ensure_future(stubs.AuthServiceStub(channel).GetJwks(pb.GetJwksRequest()))
            await eventually(lambda: "entered" in process.errors)
            process.child.terminate()
            await process.said("stopping")
            process.child.terminate()
            assert await process.ended() == 128 + signal.SIGTERM
            await asyncio.gather(waiting, return_exceptions=True)
    assert "closed first" not in process.errors


async def test_a_failure_half_way_unwinds_and_says_why() -> None:
    async with _process("fail") as process:
        assert await process.ended() == 1
    (line,) = process.lines
    assert (line["level"], line["error"]) == ("CRITICAL", "ConnectionError: the database does not answer")
    assert process.errors == ["closed second", "closed first"]


async def test_a_taken_port_is_told_in_one_line() -> None:
    async with _process() as first:
        port = (await first.said("started"))["metrics_port"]
        async with _process(BOXOFFICE_METRICS_LISTEN=f"127.0.0.1:{port}") as second:
            assert await second.ended() == 1
    (line,) = second.lines
    assert "in use" in str(line["error"])


async def test_a_signal_while_starting_stops_the_start() -> None:
    async with _process("hang") as process:
        await eventually(lambda: "hanging" in process.errors, timedelta(seconds=30))
        process.child.terminate()
        assert await process.ended() == 0
    assert process.errors == ["hanging", "closed first"]


class Collector(BaseHTTPRequestHandler):
    """Takes OTLP over HTTP and keeps the names of spans."""

    names: ClassVar[list[str]] = []

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        assert self.path == "/v1/traces"
        export = trace_service_pb2.ExportTraceServiceRequest.FromString(body)
        scopes = [scope for resource in export.resource_spans for scope in resource.scope_spans]
        self.names.extend(span.name for scope in scopes for span in scope.spans)
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the standard library's name
        pass


async def _call_sampled(process: Process) -> None:
    port = (await process.said("started"))["grpc_port"]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        sampled = grpc.aio.Metadata(("traceparent", f"00-{'a' * 32}-{'b' * 16}-01"))
        await stubs.AuthServiceStub(channel).GetJwks(pb.GetJwksRequest(), metadata=sampled)
    process.child.terminate()


async def test_spans_that_wait_are_sent_before_the_end() -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        async with _process(BOXOFFICE_OTLP_ENDPOINT=f"http://127.0.0.1:{server.server_port}") as process:
            await _call_sampled(process)
            assert await process.ended() == 0
    finally:
        await asyncio.to_thread(server.shutdown)
        server.server_close()
        thread.join()
    assert Collector.names == ["/boxoffice.auth.v1.AuthService/GetJwks"]


async def test_a_collector_that_is_away_does_not_hold_up_the_end() -> None:
    async with _process(BOXOFFICE_OTLP_ENDPOINT="http://127.0.0.1:9", BOXOFFICE_DRAIN_SECONDS="0.1") as process:
        await _call_sampled(process)
        await process.said("stopped")
        stopped = time.monotonic()
        assert await process.ended() == 0
        assert time.monotonic() - stopped < 6


class Dependency:
    """Answers, or not."""

    def __init__(self) -> None:
        self.answers = False
        self.asked = 0

    async def __call__(self) -> None:
        self.asked += 1
        await asyncio.sleep(0)
        if not self.answers:
            raise ConnectionError("away")


async def test_health_is_not_serving_until_every_dependency_answered_and_while_one_stays_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(health, "CHECK_EVERY", timedelta(milliseconds=20))
    redis, mysql = Dependency(), Dependency()
    redis.answers = True

    async def wire(lifecycle: Lifecycle) -> None:
        lifecycle.ready_when("redis", redis)
        lifecycle.ready_when("mysql", mysql)
        await serve(lifecycle, CommonSettings(), [], None)

    async with running(wire, drain_seconds=0) as lifecycle:
        target = f"127.0.0.1:{lifecycle.addresses['grpc_port']}"
        async with grpc.aio.insecure_channel(target) as channel:
            stub = health_pb2_grpc.HealthStub(channel)

            async def status() -> int:
                return int((await stub.Check(health_pb2.HealthCheckRequest())).status)

            async def reads(expected: int) -> bool:
                return await status() == expected

            await eventually(lambda: mysql.asked >= 2)
            assert await status() == STATUS.NOT_SERVING
            assert lifecycle.health.failing == ["mysql"]
            mysql.answers = True
            assert await eventually(lambda: reads(STATUS.SERVING))
            redis.answers = False
            assert await eventually(lambda: reads(STATUS.NOT_SERVING))
            assert REGISTRY.get_sample_value("boxoffice_dependency_up", {"dependency": "redis"}) == 0
            redis.answers = True
            assert await eventually(lambda: reads(STATUS.SERVING))


async def test_liveness_does_not_depend_on_dependencies_nor_on_the_drain() -> None:
    async def wire(lifecycle: Lifecycle) -> None:
        lifecycle.ready_when("redis", Dependency())
        await serve(lifecycle, CommonSettings(), [], None)

    async with running(wire, drain_seconds=0) as lifecycle:
        target = f"127.0.0.1:{lifecycle.addresses['grpc_port']}"
        async with grpc.aio.insecure_channel(target) as channel:
            stub = health_pb2_grpc.HealthStub(channel)

            async def statuses() -> list[int]:
                names = "", health.LIVENESS
                return [(await stub.Check(health_pb2.HealthCheckRequest(service=name))).status for name in names]

            assert await statuses() == [STATUS.NOT_SERVING, STATUS.SERVING]
            await lifecycle.health.close()
            assert await statuses() == [STATUS.NOT_SERVING, STATUS.SERVING]


async def test_one_missed_answer_takes_nobody_out_of_service() -> None:
    redis = Dependency()
    redis.answers = True
    state = health.Health()
    state.add_check("redis", redis)
    await state.open()
    await state.check()
    assert state.serving
    redis.answers = False
    await state.check()
    assert state.serving
    await state.check()
    assert not state.serving


async def test_what_is_needed_once_holds_up_the_start_and_nothing_later() -> None:
    notify = Dependency()
    state = health.Health()
    state.add_check("notify", notify, once=True)
    await state.open()
    await state.check()
    assert (state.serving, state.failing, state.degraded) == (False, ["notify"], [])
    notify.answers = True
    await state.check()
    assert (state.serving, state.failing, state.degraded) == (True, [], [])
    notify.answers = False
    for _ in range(3):
        await state.check()
    assert (state.serving, state.failing, state.degraded) == (True, [], ["notify"])
    assert REGISTRY.get_sample_value("boxoffice_dependency_up", {"dependency": "notify"}) == 0
    notify.answers = True
    await state.check()
    assert state.degraded == []


async def test_a_dependency_is_logged_when_it_goes_and_when_it_comes(caplog: pytest.LogCaptureFixture) -> None:
    redis = Dependency()
    state = health.Health()
    state.add_check("redis", redis)
    with caplog.at_level(logging.INFO):
        for answers in (False, False, False, True, True, False, False, True):
            redis.answers = answers
            await state.check()
    away, back = "dependency does not answer", "dependency answers"
    assert [record.message for record in caplog.records] == [away, back, away, back]


async def test_a_drain_that_fails_does_not_cut_off_the_others(caplog: pytest.LogCaptureFixture) -> None:
    happened: list[str] = []

    async def fails(_: float) -> None:
        raise RuntimeError("cannot drain")

    async def drains(_: float) -> None:
        await asyncio.sleep(0.05)
        happened.append("drained")

    async def close() -> None:
        happened.append("pool closed")

    async def wire(lifecycle: Lifecycle) -> None:
        lifecycle.defer(close)
        lifecycle.on_drain(fails)
        lifecycle.on_drain(drains)

    async with running(wire, drain_seconds=0):
        pass
    assert happened == ["drained", "pool closed"]
    assert "could not drain" in [record.message for record in caplog.records]


async def test_a_background_task_is_started_again_and_its_failures_counted() -> None:
    runs = 0

    async def loop() -> None:
        nonlocal runs
        runs += 1
        await asyncio.sleep(0)
        if runs < 3:
            raise RuntimeError("broken")
        await asyncio.Event().wait()

    async def wire(lifecycle: Lifecycle) -> None:
        lifecycle.background("test-loop", loop)

    async with running(wire, drain_seconds=0):
        await eventually(lambda: runs == 3)
    assert REGISTRY.get_sample_value("boxoffice_background_restarts_total", {"task": "test-loop"}) == 2


async def test_background_tasks_end_before_what_they_use_is_closed() -> None:
    happened: list[str] = []

    async def loop() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            happened.append("task ended")

    async def close() -> None:
        happened.append("pool closed")

    async def drained(_: float) -> None:
        happened.append("drained")

    async def wire(lifecycle: Lifecycle) -> None:
        lifecycle.defer(close)
        lifecycle.on_drain(drained)
        lifecycle.background("loop", loop)
        await asyncio.sleep(0)

    async with running(wire, drain_seconds=0):
        pass
    assert happened == ["drained", "task ended", "pool closed"]
