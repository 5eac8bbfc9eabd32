"""The draw over real gRPC: what is told before the opening, and after it."""

from __future__ import annotations  # the async stub exists for type checkers only

import base64
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import grpc
import jwt
import pytest
from boxoffice.queue.v1 import queue_service_pb2 as pb
from boxoffice.queue.v1 import queue_service_pb2_grpc as rpc
from google.protobuf import descriptor_pool
from pydantic import SecretStr

from services.common import draw
from services.common.errors import from_rpc_error
from services.common.eventlog import open_event_log
from services.common.eventlog.topics import TOPICS
from services.common.lifecycle import Lifecycle, running
from services.queue.settings import QueueSettings
from services.queue.wiring import wire
from tests.queue import neighbours as around_us
from tests.queue.neighbours import Neighbours, bearer, neighbours, stamp
from tests.support import eventually

EVENT = 7
SEED = draw.seed(b"d" * 32, EVENT)
LANES = pb.Lanes(lanes=[pb.Lane(lane=0, name="general", weight=1), pb.Lane(lane=2, name="fans", weight=3)])
OPERATOR = bearer(99, "operator")


@pytest.fixture
async def around() -> AsyncIterator[Neighbours]:
    async with neighbours() as servicer:
        servicer.events[EVENT].sale_open_time.CopyFrom(stamp(datetime.now(UTC) + timedelta(hours=1)))
        yield servicer


@pytest.fixture
async def stub(redis_url: str, around: Neighbours) -> AsyncIterator[rpc.QueueServiceAsyncStub]:
    settings = QueueSettings(
        redis_url=redis_url,
        eventlog_url=redis_url,
        inventory_target=around.target,
        auth_target=around.target,
        admission_keys=SecretStr(around_us.ADMISSION_KEYS),
        place_keys=SecretStr(around_us.PLACE_KEYS),
        draw_secret=SecretStr(around_us.DRAW_SECRET),
        receipt_keys=SecretStr(around_us.RECEIPT_KEYS),
        queue_inside_cap=1,
        drain_seconds=1,
    )
    ports: list[int] = []
    async with open_event_log(redis_url) as log:
        await log.create_topics(TOPICS)

    async def start(lifecycle: Lifecycle) -> None:
        ports.append(await wire(lifecycle, settings))

    async with running(start, 1.0), grpc.aio.insecure_channel(f"127.0.0.1:{ports[0]}") as channel:
        yield rpc.QueueServiceStub(channel)


async def _join(stub: rpc.QueueServiceAsyncStub, user_id: int, lane_pass: str = "") -> pb.JoinQueueResponse:
    request = pb.JoinQueueRequest(event_id=EVENT, lane_pass=lane_pass)
    return await stub.JoinQueue(request, metadata=bearer(user_id))


async def _draw(stub: rpc.QueueServiceAsyncStub) -> pb.GetDrawResponse:
    return await stub.GetDraw(pb.GetDrawRequest(event_id=EVENT))


async def _receipt(stub: rpc.QueueServiceAsyncStub, user_id: int) -> dict[str, Any]:
    answer = await stub.GetReceipt(pb.GetReceiptRequest(event_id=EVENT), metadata=bearer(user_id))
    keys = {key.kid: key for key in (await _draw(stub)).receipt_keys}
    kid = jwt.get_unverified_header(answer.receipt)["kid"]
    key = {"kty": keys[kid].kty, "crv": keys[kid].crv, "x": keys[kid].x}
    return jwt.decode(answer.receipt, jwt.PyJWK(key, "EdDSA"), ["EdDSA"], issuer="boxoffice")


async def _opens(stub: rpc.QueueServiceAsyncStub, around: Neighbours) -> pb.GetDrawResponse:
    """The sale opens, and the draw is held."""
    around.events[EVENT].sale_open_time.CopyFrom(stamp(datetime.now(UTC) - timedelta(seconds=1)))

    async def held() -> pb.GetDrawResponse | None:
        told = await _draw(stub)
        return told if told.state == pb.GetDrawResponse.STATE_HELD else None

    told = await eventually(held, timedelta(seconds=15))
    assert told
    return told


async def _refused(call: Any) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call
    return from_rpc_error(refused.value)[0]


async def _enter_all(stub: rpc.QueueServiceAsyncStub) -> dict[int, int]:
    """Thirty people in two lanes, and one who leaves again."""
    await stub.UpdateQueuePolicy(pb.UpdateQueuePolicyRequest(event_id=EVENT, lanes=LANES), metadata=OPERATOR)
    request = pb.IssueLanePassesRequest(event_id=EVENT, lane=2, user_ids=range(1, 31))
    passes = (await stub.IssueLanePasses(request, metadata=OPERATOR)).passes
    lanes = {user: 2 if user % 3 == 0 else 0 for user in range(30, 0, -1)}
    for user_id, lane in lanes.items():
        await _join(stub, user_id, passes[user_id - 1].lane_pass if lane else "")
    await stub.LeaveQueue(pb.LeaveQueueRequest(event_id=EVENT), metadata=bearer(15))
    del lanes[15]
    return lanes


def _key_of(lanes: dict[int, int]) -> bytes:
    return draw.draw_key(SEED, draw.text_digest("".join(f"{user} {lanes[user]}\n" for user in sorted(lanes))))


async def test_a_draw_from_the_first_join_to_the_proof(stub: rpc.QueueServiceAsyncStub, around: Neighbours) -> None:
    lanes = await _enter_all(stub)
    before = await _draw(stub)
    promise = await _receipt(stub, 7)
    assert before.commitment == promise["commitment"] == draw.commitment(SEED).hex()

    told = await _opens(stub, around)

    lines = [f"{user} {lanes[user]}" for user in sorted(lanes)]
    digest, key = draw.text_digest("".join(f"{line}\n" for line in lines)), _key_of(lanes)
    assert (told.commitment, told.seed) == (before.commitment, SEED.hex())
    assert (told.list_digest, told.draw_key, told.entrant_count) == (digest.hex(), key.hex(), 29)
    listed = await stub.ListEntrants(pb.ListEntrantsRequest(event_id=EVENT))
    assert list(listed.entrants) == lines
    # Everyone has the place that the key gives, and the first of each lane is called first.
    scores = {user: draw.score(key, user) for user in lanes}
    for user_id in lanes:
        place = (await stub.GetPlace(pb.GetPlaceRequest(event_id=EVENT), metadata=bearer(user_id))).place
        assert (place.score, place.lane, place.in_draw) == (scores[user_id], lanes[user_id], False)
        if place.state == pb.Place.STATE_READY:
            assert scores[user_id] == min(scores[user] for user in lanes if lanes[user] == lanes[user_id])
    assert promise == {
        "iss": "boxoffice",
        "event_id": EVENT,
        "user_id": 7,
        "lane": 0,
        "entered": promise["entered"],
        "commitment": before.commitment,
        "in_draw": True,
        "iat": promise["iat"],
    }
    assert datetime.now(UTC).timestamp() - 60 < promise["iat"] <= datetime.now(UTC).timestamp()
    kept = {"score": scores[7], "list_digest": digest.hex()}
    receipt = await _receipt(stub, 7)
    assert receipt == promise | kept | {"iat": receipt["iat"]}
    # Who comes later stands behind all of them, and is in no draw.
    late = await _join(stub, 40)
    assert late.place.score > max(scores.values())
    assert (await _receipt(stub, 40))["in_draw"] is False


def _fields(message: Any) -> dict[str, Any]:
    """Everything that a message tells, by path."""
    found: dict[str, Any] = {}
    for field, value in message.ListFields():
        if field.message_type and not field.message_type.name.endswith("Timestamp"):
            for index, each in enumerate(value if field.is_repeated else [value]):
                found |= {f"{field.name}.{index}.{name}": inner for name, inner in _fields(each).items()}
        else:
            found[field.name] = value
    return found


def _signed(token: str) -> bytes:
    """What a signed token says, whoever can verify it."""
    payload = token.split(".")[1]
    return base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4))


async def _everything(stub: rpc.QueueServiceAsyncStub) -> dict[str, Any]:
    """The answer of every RPC of the service to people and operators before the opening; "" is refused."""
    mine, event = bearer(1), cast("Any", {"event_id": EVENT})
    join, look = pb.JoinQueueRequest(**event), pb.GetPlaceRequest(**event)
    answers: dict[str, Any] = {
        "JoinQueue": await _join(stub, 1),
        "BatchJoinQueue": await stub.BatchJoinQueue(
            pb.BatchJoinQueueRequest(items=[pb.BatchJoinQueueItem(request=join, user_id=user) for user in (2, 3)])
        ),
        "GetPlace": await stub.GetPlace(pb.GetPlaceRequest(**event), metadata=mine),
        "BatchGetPlace": await stub.BatchGetPlace(
            pb.BatchGetPlaceRequest(items=[pb.BatchGetPlaceItem(request=look, user_id=user) for user in (1, 2, 3, 12)])
        ),
        "WatchPlace": await anext(aiter(stub.WatchPlace(pb.WatchPlaceRequest(**event), metadata=mine))),
        "WatchDigest": await anext(aiter(stub.WatchDigest(pb.WatchDigestRequest(**event)))),
        "ClaimPlace": await _refused(stub.ClaimPlace(pb.ClaimPlaceRequest(**event), metadata=mine)),
        "LeaveQueue": await stub.LeaveQueue(pb.LeaveQueueRequest(**event), metadata=bearer(30)),
        "GetReceipt": await stub.GetReceipt(pb.GetReceiptRequest(**event), metadata=mine),
        "GetDraw": await _draw(stub),
        "ListEntrants": await _refused(stub.ListEntrants(pb.ListEntrantsRequest(**event))),
        "IssueLanePasses": await stub.IssueLanePasses(
            pb.IssueLanePassesRequest(**event, lane=2, user_ids=[1]), metadata=OPERATOR
        ),
        "GetQueuePolicy": await stub.GetQueuePolicy(pb.GetQueuePolicyRequest(**event), metadata=OPERATOR),
        "UpdateQueuePolicy": await stub.UpdateQueuePolicy(pb.UpdateQueuePolicyRequest(**event), metadata=OPERATOR),
    }
    return answers


# Fields that would tell something of an order, wherever they stand.
_ORDERS = {"score", "position", "ahead", "draw_key", "seed", "list_digest", "watermark", "front", "samples", "entrants"}


async def test_nothing_about_the_order_can_be_learnt_before_the_opening(
    stub: rpc.QueueServiceAsyncStub, around: Neighbours
) -> None:
    await _enter_all(stub)
    told = await _everything(stub)
    service = descriptor_pool.Default().FindServiceByName("boxoffice.queue.v1.QueueService")
    assert set(told) == {method.name for method in service.methods}
    assert (told.pop("ClaimPlace"), told.pop("ListEntrants")) == ("PLACE_NOT_READY", "DRAW_NOT_HELD")
    # An operator is told how many take part. What a position that nobody has yet would have to wait says nothing.
    status = told["GetQueuePolicy"].status
    assert status.entrants > 0
    status.ClearField("entrants")
    leaks = {
        f"{name}: {path}"
        for name, answer in told.items()
        for path, value in _fields(answer).items()
        if path.split(".")[-1] in _ORDERS and ".forecast." not in path and value
    }
    assert leaks == set()
    secrets = [SEED, _key_of(await _listed(stub, around)), SEED.hex().encode()]
    for name, answer in told.items():
        assert not [secret for secret in secrets if secret in answer.SerializeToString()], name
    place = _signed(told["JoinQueue"].signed_place)
    receipt = json.loads(_signed(told["GetReceipt"].receipt))
    assert {"score", "list_digest"} & receipt.keys() == set()
    assert draw.score(_key_of(await _listed(stub, around)), 1).to_bytes(8, "big") not in place
    # All are told the same of their chances, whoever they are and whenever they came.
    outlooks = {
        (result.response.place.eta_p10_seconds, result.response.place.eta_p90_seconds, result.response.place.odds)
        for result in told["BatchGetPlace"].results
        if not result.response.place.lane
    }
    assert len(outlooks) == 1


async def _listed(stub: rpc.QueueServiceAsyncStub, around: Neighbours) -> dict[int, int]:
    """Who took part: known after the opening only."""
    await _opens(stub, around)
    listed = (await stub.ListEntrants(pb.ListEntrantsRequest(event_id=EVENT))).entrants
    return {int(user): int(lane) for user, lane in (line.split() for line in listed)}


async def test_control_after_the_opening_the_order_is_told(stub: rpc.QueueServiceAsyncStub, around: Neighbours) -> None:
    await _enter_all(stub)
    told = await _opens(stub, around)
    place = (await stub.GetPlace(pb.GetPlaceRequest(event_id=EVENT), metadata=bearer(5))).place
    digest = await anext(aiter(stub.WatchDigest(pb.WatchDigestRequest(event_id=EVENT))))
    found = {path.split(".")[-1] for answer in (told, place, digest) for path in _fields(answer)}
    assert {"score", "draw_key", "seed", "list_digest", "front"} <= found


async def test_the_list_comes_in_pages_that_never_shift(stub: rpc.QueueServiceAsyncStub, around: Neighbours) -> None:
    lanes = await _enter_all(stub)
    await _opens(stub, around)
    lines: list[str] = []
    token = ""
    while True:
        request = pb.ListEntrantsRequest(event_id=EVENT, page_size=8, page_token=token)
        page = await stub.ListEntrants(request)
        assert list((await stub.ListEntrants(request)).entrants) == list(page.entrants)
        lines += page.entrants
        token = page.next_page_token
        if not token:
            break
        assert len(page.entrants) == 8
        await stub.LeaveQueue(pb.LeaveQueueRequest(event_id=EVENT), metadata=bearer(int(lines[-1].split()[0]) + 1))
    assert lines == [f"{user} {lanes[user]}" for user in sorted(lanes)]
    for wrong in ("x", "AAAA", "!", "좌석", base64.urlsafe_b64encode(b"\0" * 16).decode().rstrip("=")):
        request = pb.ListEntrantsRequest(event_id=EVENT, page_token=wrong)
        assert await _refused(stub.ListEntrants(request)) == "INVALID_ARGUMENT"
    for size in (-1, 10_001):
        request = pb.ListEntrantsRequest(event_id=EVENT, page_size=size)
        assert await _refused(stub.ListEntrants(request)) == "INVALID_ARGUMENT"


async def test_refusals_of_the_draw(stub: rpc.QueueServiceAsyncStub) -> None:
    assert await _refused(stub.GetDraw(pb.GetDrawRequest(event_id=8))) == "EVENT_NOT_FOUND"
    assert await _refused(stub.ListEntrants(pb.ListEntrantsRequest(event_id=8))) == "EVENT_NOT_FOUND"
    receipt = pb.GetReceiptRequest(event_id=EVENT)
    assert await _refused(stub.GetReceipt(receipt, metadata=bearer(5))) == "PLACE_NOT_FOUND"
    assert await _refused(stub.GetReceipt(receipt)) == "UNAUTHENTICATED"
    await _join(stub, 5)
    await stub.LeaveQueue(pb.LeaveQueueRequest(event_id=EVENT), metadata=bearer(5))
    assert await _refused(stub.GetReceipt(receipt, metadata=bearer(5))) == "PLACE_NOT_FOUND"
