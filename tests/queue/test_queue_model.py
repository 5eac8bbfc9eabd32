"""The scripts against a plain model of a line, over random histories."""

import asyncio
from collections.abc import Coroutine, Iterator
from datetime import UTC, datetime
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from redis.asyncio import Redis

from services.common.redis import open_redis
from services.queue.line.domain import PlaceNotFound, PlaceNotReady, PlaceState
from services.queue.line.transitions import Purchase
from tests.queue.lines import EVENT, called, join, readings, run_out, store_of, tick

T = TypeVar("T")
USERS = st.integers(1, 6)
LIVE_INSIDE = {PlaceState.READY, PlaceState.ADMITTED}


async def _empty(redis: Redis) -> None:
    await redis.flushdb()


class LineMachine(RuleBasedStateMachine):
    """Six people, a cap of two, and no rate to speak of."""

    redis: Redis
    runner: asyncio.Runner

    def _run(self, step: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(step)

    @initialize()
    def begin(self) -> None:
        self._run(_empty(self.redis))
        self.store = store_of(self.redis, inside_cap=2)
        self.line: list[int] = []
        self.states: dict[int, PlaceState] = {}
        self.out_of_time: set[int] = set()
        self.calls: list[int] = []

    @rule(user=USERS)
    def join(self, user: int) -> None:
        live = user in self.line or (self.states.get(user) in LIVE_INSIDE and user not in self.out_of_time)
        assert self._run(join(self.store, user)).fresh is not live
        if not live:
            self.line.append(user)
            self.states[user] = PlaceState.WAITING
            self.out_of_time.discard(user)

    @rule(user=USERS)
    def leave(self, user: int) -> None:
        live = user in self.line or self.states.get(user) in LIVE_INSIDE
        assert self._run(self.store.leave(EVENT, user)) is live
        if live:
            self._end(user, PlaceState.LEFT)

    @rule(user=USERS)
    def claim(self, user: int) -> None:
        try:
            fresh = self._run(self.store.claim(EVENT, user)).fresh
        except PlaceNotFound:
            assert user not in self.states
        except PlaceNotReady:
            assert self.states[user] not in LIVE_INSIDE or user in self.out_of_time
        else:
            assert user not in self.out_of_time
            assert fresh is (self.states[user] is PlaceState.READY)
            self.states[user] = PlaceState.ADMITTED

    @rule(user=USERS)
    def buy(self, user: int) -> None:
        bought = self._run(self.store.finish_many([Purchase(EVENT, user, datetime.now(UTC))]))
        assert bought == (self.states.get(user) in {PlaceState.ADMITTED, PlaceState.EXPIRED})
        if bought:
            self._end(user, PlaceState.DONE)

    @rule(user=USERS)
    def let_time_run_out(self, user: int) -> None:
        if self.states.get(user) in LIVE_INSIDE:
            self._run(run_out(self.redis, user))
            self.out_of_time.add(user)

    @rule()
    def tick(self) -> None:
        for user in list(self.out_of_time):
            self._end(user, PlaceState.EXPIRED)
        free = 2 - self._inside()
        chosen, self.line = self.line[:free], self.line[free:]
        self.states.update(dict.fromkeys(chosen, PlaceState.READY))
        self.calls.extend(chosen)
        after = self._run(tick(self.store))
        assert (after.called, after.waiting, after.inside) == (len(chosen), len(self.line), self._inside())

    def _end(self, user: int, state: PlaceState) -> None:
        self.line = [each for each in self.line if each != user]
        self.states[user] = state
        self.out_of_time.discard(user)

    def _inside(self) -> int:
        return sum(state in LIVE_INSIDE for state in self.states.values())

    @invariant()
    def the_line_is_as_the_model_says(self) -> None:
        line, standings = self._run(readings(self.store, {EVENT: range(1, 7)}))[EVENT]
        for user, standing in standings.items():
            state = PlaceState.EXPIRED if user in self.out_of_time else self.states.get(user)
            assert (standing.at(line.now) if standing else None) == state
            if standing and state is PlaceState.WAITING:
                assert standing.ahead == self.line.index(user)
        assert self._run(called(self.store)) == self.calls


@pytest.fixture
def machine(redis_url: str) -> Iterator[type[LineMachine]]:
    with asyncio.Runner() as runner:
        opened = open_redis(redis_url)
        LineMachine.redis, LineMachine.runner = runner.run(opened.__aenter__()), runner
        try:
            yield LineMachine
        finally:
            runner.run(opened.__aexit__(None, None, None))


def test_random_histories_go_as_the_model_says(machine: type[LineMachine]) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=40,
            stateful_step_count=40,
            deadline=None,
            derandomize=True,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
