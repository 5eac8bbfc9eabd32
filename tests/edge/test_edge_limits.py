"""What the door of the waiting room refuses, as a client of REST is told."""

from boxoffice.queue.v1 import queue_service_pb2 as pb

from services.common import errors
from services.common.limits import RateLimited
from services.queue.challenge import ChallengeRequired
from tests.edge.world import World, bearer

_LINE = "/api/events/7/queue"


def _refuse(edge: World, error: Exception) -> None:
    result = pb.BatchJoinQueueResult(error=errors.to_status(error))
    edge.backend.scripts["BatchJoinQueue"] = lambda _batch: pb.BatchJoinQueueResponse(results=[result])


async def test_too_many_joins_are_told_when_to_come_back(edge: World) -> None:
    _refuse(edge, RateLimited("address", 2300))
    status, told, response = await edge.answer("POST", _LINE, json={}, headers=bearer())
    assert (status, told["code"], told["retry_after_ms"]) == (429, "RATE_LIMITED", 2300)
    assert told["metadata"] == {"limit": "address"}
    # Whole seconds, and never too early.
    assert response.headers["Retry-After"] == "3"


async def test_a_challenge_comes_with_what_it_takes_to_answer(edge: World) -> None:
    metadata = {"challenge": "p1.payload.mac", "kind": "proof_of_work", "difficulty": "18"}
    _refuse(edge, ChallengeRequired(metadata=metadata))
    status, told, _ = await edge.answer("POST", _LINE, json={}, headers=bearer())
    assert (status, told["code"], told["metadata"]) == (403, "CHALLENGE_REQUIRED", metadata)
