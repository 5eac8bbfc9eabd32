"""A request's client is known by the connection, or by what our own proxies say; nobody can pass for somebody else."""

from typing import Any

import pytest
from boxoffice.queue.v1 import queue_service_pb2 as pb
from pydantic import ValidationError

from edge.settings import settings_for
from tests.edge.world import World, bearer, world

OUR_PROXIES = "127.0.0.0/8, 10.1.0.0/16, 2001:db8:1::/48"
FORWARDED = "X-Forwarded-For"


def _join(batch: pb.BatchJoinQueueRequest) -> pb.BatchJoinQueueResponse:
    place = pb.Place(state=pb.Place.STATE_WAITING)
    result = pb.BatchJoinQueueResult(response=pb.JoinQueueResponse(place=place))
    return pb.BatchJoinQueueResponse(results=[result for _ in batch.items])


async def _seen(edge: World, *forwarded: str) -> str:
    """The address that queue is told, for a request from 127.0.0.1 with these headers."""
    edge.backend.scripts["BatchJoinQueue"] = _join
    headers: list[tuple[str, str]] = [*bearer().items(), *((FORWARDED, value) for value in forwarded)]
    status, _, _ = await edge.answer("POST", "/api/events/7/queue", json={}, headers=headers)
    assert status == 201
    batch: Any = edge.backend.called("BatchJoinQueue")[-1]
    return str(batch.items[0].client_address)


async def test_without_trusted_proxies_only_the_connection_counts(edge: World) -> None:
    assert await _seen(edge) == "127.0.0.1"
    assert await _seen(edge, "203.0.113.9") == "127.0.0.1"


@pytest.mark.parametrize(
    ("forwarded", "client"),
    [
        ([], "127.0.0.1"),
        (["203.0.113.9"], "203.0.113.9"),
        # What the client itself has sent stands before what our proxies have added.
        (["198.51.100.1, 203.0.113.9"], "203.0.113.9"),
        (["198.51.100.1", "203.0.113.9, 10.1.2.3"], "203.0.113.9"),
        (["10.1.2.3, 127.0.0.1"], "10.1.2.3"),
        (["203.0.113.9, made up"], "127.0.0.1"),
        (["203.0.113.9, , 10.1.2.3"], "10.1.2.3"),
        (["2001:DB8:2:0::7, 2001:db8:1::1"], "2001:db8:2::7"),
        (["::ffff:203.0.113.9"], "203.0.113.9"),
    ],
)
async def test_behind_trusted_proxies_the_last_stranger_is_the_client(forwarded: list[str], client: str) -> None:
    async with world(trusted_proxies=OUR_PROXIES) as edge:
        assert await _seen(edge, *forwarded) == client


async def test_a_peer_that_is_not_trusted_is_not_believed() -> None:
    async with world(trusted_proxies="10.1.0.0/16") as edge:
        assert await _seen(edge, "203.0.113.9") == "127.0.0.1"


async def test_a_single_call_carries_the_address_and_no_header_of_the_client_can_set_it() -> None:
    async with world(trusted_proxies=OUR_PROXIES) as edge:
        edge.backend.scripts["ClaimPlace"] = lambda _request: pb.ClaimPlaceResponse()
        headers = {**bearer(), FORWARDED: "203.0.113.9", "X-Client-Address": "198.51.100.1"}
        await edge.answer("POST", "/api/events/7/queue/claim", json={}, headers=headers)
        assert edge.backend.metadata("ClaimPlace")["x-client-address"] == "203.0.113.9"


def test_networks_are_checked_at_the_start() -> None:
    assert len(settings_for(())(trusted_proxies=OUR_PROXIES).proxies) == 3
    assert settings_for(())().proxies == ()
    with pytest.raises(ValidationError):
        settings_for(())(trusted_proxies="10.1.0.1/16")
