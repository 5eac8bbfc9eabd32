"""The door of the waiting room, over a real gRPC server: who may join, and what refusals cost."""

from __future__ import annotations  # the async stub exists for type checkers only

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from boxoffice.queue.v1 import queue_service_pb2 as pb
from boxoffice.queue.v1 import queue_service_pb2_grpc as rpc
from prometheus_client import REGISTRY
from pydantic import SecretStr
from redis.asyncio import Redis

from services.common.errors import from_status
from services.common.eventlog import open_event_log
from services.common.eventlog.topics import TOPICS
from services.common.lifecycle import Lifecycle, running
from services.queue.challenge import leading_zero_bits
from services.queue.line.store import line_key
from services.queue.settings import QueueSettings
from services.queue.wiring import wire
from tests.queue.neighbours import ADMISSION_KEYS, DRAW_SECRET, PLACE_KEYS, RECEIPT_KEYS, Neighbours, bearer, neighbours

EVENT = 7
HOME = "192.0.2.7"


@pytest.fixture
async def around() -> AsyncIterator[Neighbours]:
    async with neighbours() as servicer:
        yield servicer


@asynccontextmanager
async def _queue(redis_url: str, around: Neighbours, **settings: Any) -> AsyncIterator[rpc.QueueServiceAsyncStub]:
    needed = {
        "redis_url": redis_url,
        "eventlog_url": redis_url,
        "inventory_target": around.target,
        "auth_target": around.target,
        "admission_keys": SecretStr(ADMISSION_KEYS),
        "place_keys": SecretStr(PLACE_KEYS),
        "draw_secret": SecretStr(DRAW_SECRET),
        "receipt_keys": SecretStr(RECEIPT_KEYS),
        "queue_inside_cap": 1,
        "drain_seconds": 1,
    }
    made, ports = QueueSettings(**{**needed, **settings}), list[int]()
    async with open_event_log(redis_url) as log:
        await log.create_topics(TOPICS)

    async def start(lifecycle: Lifecycle) -> None:
        ports.append(await wire(lifecycle, made))

    async with running(start, 1.0), grpc.aio.insecure_channel(f"127.0.0.1:{ports[0]}") as channel:
        yield rpc.QueueServiceStub(channel)


def _item(user_id: int, address: str = HOME, **wish: Any) -> pb.BatchJoinQueueItem:
    request = pb.JoinQueueRequest(event_id=EVENT, **wish)
    return pb.BatchJoinQueueItem(request=request, user_id=user_id, client_address=address)


async def _join(stub: rpc.QueueServiceAsyncStub, *items: pb.BatchJoinQueueItem) -> list[Any]:
    """(reason, metadata) of each refusal, and the response of each join."""
    results = (await stub.BatchJoinQueue(pb.BatchJoinQueueRequest(items=items))).results
    return [from_status(each.error)[::2] if each.HasField("error") else each.response for each in results]


def _reasons(answers: list[Any]) -> list[str]:
    return [f"{each[0]} {each[1].get('limit', '')}".strip() if isinstance(each, tuple) else "" for each in answers]


async def test_a_crowd_of_one_address_is_held_up_and_the_line_does_not_hear_of_it(
    redis_url: str, redis: Redis, around: Neighbours
) -> None:
    async with _queue(redis_url, around, queue_joins_per_address="3/60") as stub:
        answers = await _join(stub, *(_item(user) for user in range(1, 9)), _item(9, "198.51.100.1"))
        assert _reasons(answers) == ["", "", "", *["RATE_LIMITED address"] * 5, ""]
        assert 0 < int(answers[3][1]["retry_after_ms"]) <= 1000
        places = [await redis.hexists(line_key(EVENT, "places"), str(user)) for user in range(4, 9)]
        waiting = [await redis.zscore(line_key(EVENT, "users"), str(user)) for user in range(4, 9)]
        assert (places, waiting) == ([False] * 5, [None] * 5)
        assert (REGISTRY.get_sample_value("boxoffice_queue_refused_total", {"by": "address"}) or 0) >= 5


async def test_who_has_a_place_or_the_proof_of_one_is_not_counted_for_the_address(
    redis_url: str, redis: Redis, around: Neighbours
) -> None:
    async with _queue(redis_url, around, queue_joins_per_address="4/1") as stub:
        university = await _join(stub, *(_item(user) for user in range(1, 5)))
        # The budget is spent; yet who stands in line finds their place from any device, with the proof or without it.
        again = await _join(stub, *(_item(user) for user in range(1, 5)))
        assert [answer.already_joined for answer in again] == [True] * 4
        assert _reasons(await _join(stub, _item(5))) == ["RATE_LIMITED address"]

        await redis.flushdb()
        spend = await _join(stub, *(_item(user) for user in range(11, 15)))
        assert _reasons(spend) == [""] * 4
        back = await _join(stub, *(_item(u, signed_place=university[u - 1].signed_place) for u in range(1, 5)))
        assert _reasons(back) == [""] * 4
        forged = _item(5, signed_place=university[0].signed_place)
        assert _reasons(await _join(stub, forged)) == ["RATE_LIMITED address"]


async def _leave(stub: rpc.QueueServiceAsyncStub, user_id: int) -> None:
    await stub.LeaveQueue(pb.LeaveQueueRequest(event_id=EVENT), metadata=bearer(user_id))


async def test_the_proof_of_a_place_that_has_ended_is_none(redis_url: str, around: Neighbours) -> None:
    async with _queue(redis_url, around, queue_joins_per_address="2/1") as stub:
        first, _ = await _join(stub, _item(1), _item(2))
        assert _reasons(await _join(stub, _item(1, signed_place=first.signed_place))) == [""]
        await _leave(stub, 1)
        again = await _join(stub, _item(1, signed_place=first.signed_place))
        assert _reasons(again) == ["RATE_LIMITED address"]


async def test_a_join_that_found_its_place_is_given_back_to_the_address(redis_url: str, around: Neighbours) -> None:
    async with _queue(redis_url, around, queue_joins_per_address="3/1") as stub:
        for _ in range(6):
            assert _reasons(await _join(stub, _item(1))) == [""]
        assert _reasons(await _join(stub, _item(2), _item(3), _item(4))) == ["", "", "RATE_LIMITED address"]


async def test_an_account_is_limited_and_waiting_is_not(redis_url: str, around: Neighbours) -> None:
    async with _queue(redis_url, around, queue_joins_per_account="2/1") as stub:
        alone = [("x-client-address", HOME), *bearer(1)]
        for _ in range(2):
            await stub.JoinQueue(pb.JoinQueueRequest(event_id=EVENT), metadata=alone)
        assert _reasons(await _join(stub, _item(1))) == ["RATE_LIMITED account"]
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.JoinQueue(pb.JoinQueueRequest(event_id=EVENT), metadata=alone)
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        for _ in range(30):
            await stub.GetPlace(pb.GetPlaceRequest(event_id=EVENT), metadata=bearer(1))
        await stub.LeaveQueue(pb.LeaveQueueRequest(event_id=EVENT), metadata=bearer(1))


async def test_a_single_join_is_counted_for_its_address(redis_url: str, around: Neighbours) -> None:
    async with _queue(redis_url, around, queue_joins_per_address="1/1") as stub:
        for user_id in (1, 1):  # the second one finds the place
            metadata = [("x-client-address", HOME), *bearer(user_id)]
            await stub.JoinQueue(pb.JoinQueueRequest(event_id=EVENT), metadata=metadata)
        assert _reasons(await _join(stub, _item(2))) == ["RATE_LIMITED address"]


def _solve(challenge: str, bits: int) -> str:
    number = 0
    while leading_zero_bits(f"{challenge}.{number}") < bits:
        number += 1
    return f"{challenge}.{number}"


async def test_nobody_is_asked_unless_it_is_switched_on(redis_url: str, around: Neighbours) -> None:
    async with _queue(redis_url, around) as stub:
        assert _reasons(await _join(stub, _item(1), _item(2, challenge_response="whatever"))) == ["", ""]


async def test_newcomers_work_and_residents_do_not(redis_url: str, redis: Redis, around: Neighbours) -> None:
    work = {"queue_challenge": "proof_of_work", "queue_challenge_bits": 10}
    async with _queue(redis_url, around, **work) as stub:
        ((reason, told),) = await _join(stub, _item(1))
        assert (reason, told["kind"], told["difficulty"]) == ("CHALLENGE_REQUIRED", "proof_of_work", "10")
        answer = _solve(told["challenge"], 10)
        (joined,) = await _join(stub, _item(1, challenge_response=answer))
        assert not joined.already_joined
        # From another device, without proof of anything.
        (found,) = await _join(stub, _item(1))
        assert found.already_joined
        await redis.flushdb()
        assert _reasons(await _join(stub, _item(1, signed_place=joined.signed_place))) == [""]
        await _leave(stub, 1)
        assert _reasons(await _join(stub, _item(1, signed_place=joined.signed_place))) == ["CHALLENGE_REQUIRED"]


async def test_who_fails_the_challenge_spends_nothing_of_their_neighbours(redis_url: str, around: Neighbours) -> None:
    work = {"queue_challenge": "proof_of_work", "queue_challenge_bits": 8, "queue_joins_per_address": "1/1"}
    async with _queue(redis_url, around, **work) as stub:
        ((_, told), *_) = await _join(stub, *(_item(user) for user in range(1, 9)))
        assert _reasons(await _join(stub, _item(1, challenge_response=_solve(told["challenge"], 8)))) == [""]
