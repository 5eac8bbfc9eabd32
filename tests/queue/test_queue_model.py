"""The scripts against a plain model of a line, over random histories."""

import asyncio
from collections.abc import Coroutine, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar, cast

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from redis.asyncio import Redis

from services.common.redis import open_redis
from services.queue.line.domain import Lane, PlaceNotFound, PlaceNotReady, PlaceState, Sale
from services.queue.line.replies import lanes_text
from services.queue.line.store import line_key
from services.queue.line.transitions import Purchase
from tests.queue.lines import EVENT, OPEN_SALE, build, called, join, readings, run_out, store_of, tick, without_guard

T = TypeVar("T")
PEOPLE = range(1, 6)
USERS = st.integers(PEOPLE[0], PEOPLE[-1])
LIVE_INSIDE = {PlaceState.READY, PlaceState.ADMITTED}
LANES = (Lane(0, "general", 1), Lane(1, "fans", 2))
SCHEDULED = Sale(datetime(2998, 1, 1, tzinfo=UTC), OPEN_SALE.close_time)


async def _begin(redis: Redis) -> None:
    await redis.flushdb()
    await build(redis, is_held=False)
    await cast("Any", redis.hset(line_key(EVENT, "policy"), "lanes", lanes_text(LANES)))


async def _hold_draw(redis: Redis, drawn: list[int], lanes: dict[int, int]) -> None:
    """As a holder does; who comes first in `drawn` has the smallest number."""
    for number, user in enumerate(drawn, 1):
        await redis.zadd(line_key(EVENT, "lane_1" if lanes[user] else "users"), {str(user): number})
    held: dict[Any, Any] = {"closed_ms": 1, "held_ms": 1, "key": b"k" * 32, "entrant_count": len(drawn)}
    await cast("Any", redis.hset(line_key(EVENT, "draw"), mapping=held))


class LineMachine(RuleBasedStateMachine):
    """Five people, two lanes, a cap of two, and no rate to speak of."""

    redis: Redis
    runner: asyncio.Runner

    def _run(self, step: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(step)

    @initialize(is_open=st.booleans())
    def begin(self, is_open: bool) -> None:
        self._run(_begin(self.redis))
        self.store = store_of(self.redis, inside_cap=2)
        self.sale = SCHEDULED
        self.drawing: list[int] = []  # in the draw
        self.lines: list[list[int]] = [[], []]  # by lane
        self.lanes: dict[int, int] = dict.fromkeys(PEOPLE, 0)
        self.states: dict[int, PlaceState] = {}
        self.times_called: dict[int, int] = {}
        self.missed: set[int] = set()
        self.due: set[int] = set()
        self.out_of_time: set[int] = set()
        self.order: dict[int, int] = {}  # by which the lanes are ordered
        self.credit = [0, 0]
        self.calls: list[int] = []
        if is_open:  # a sale in full swing: what happens late in a history happens in every other one
            self._hold([])
            for user in PEOPLE:
                self.join(user, user % 2)
            self.tick()

    def _waits(self, user: int) -> bool:
        return any(user in line for line in self.lines)

    def _has_another_chance(self, user: int) -> bool:
        missed_now = user in self.out_of_time and self.states[user] is PlaceState.READY and self.times_called[user] == 1
        return user in self.missed or missed_now

    @rule(user=USERS, lane=st.none() | st.integers(0, 1))
    def join(self, user: int, lane: int | None) -> None:
        inside = self.states.get(user) in LIVE_INSIDE and user not in self.out_of_time
        live = user in self.drawing or self._waits(user) or inside or self._has_another_chance(user)
        assert self._run(join(self.store, user, sale=self.sale, lane=lane)).fresh is not live
        if not live:
            self._take(user, lane or 0)
        elif self._has_another_chance(user):
            self._return(user)
        if lane is not None and (user in self.drawing or self._waits(user)):
            self._move(user, lane)

    def _take(self, user: int, lane: int) -> None:
        self.states[user], self.lanes[user], self.times_called[user] = PlaceState.WAITING, lane, 0
        self.out_of_time.discard(user)
        if self.sale is SCHEDULED:
            self.drawing.append(user)
        else:
            self.order[user] = max(self.order.values(), default=100) + 1
            self.lines[lane].append(user)

    def _return(self, user: int) -> None:
        for each in (self.missed, self.due, self.out_of_time):
            each.discard(user)
        self.states[user] = PlaceState.WAITING
        self._stand(user)

    def _stand(self, user: int) -> None:
        line = self.lines[self.lanes[user]]
        line.append(user)
        line.sort(key=self.order.__getitem__)

    def _move(self, user: int, lane: int) -> None:
        self.lines = [[each for each in line if each != user] for line in self.lines]
        self.lanes[user] = lane
        if user not in self.drawing:
            self._stand(user)

    @rule(data=st.data())
    def hold_the_draw(self, data: st.DataObject) -> None:
        if self.sale is OPEN_SALE:
            return
        self._hold(data.draw(st.permutations(self.drawing)))

    def _hold(self, drawn: list[int]) -> None:
        self._run(_hold_draw(self.redis, drawn, self.lanes))
        self.sale, self.drawing = OPEN_SALE, []
        for number, user in enumerate(drawn, 1):
            self.order[user] = number
            self.lines[self.lanes[user]].append(user)

    @rule(user=USERS)
    def leave(self, user: int) -> None:
        live = self._waits(user) or user in (*self.drawing, *self.missed) or self.states.get(user) in LIVE_INSIDE
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
        bought = self._run(self.store.finish_many([Purchase(EVENT, user, datetime.now(UTC))]))[EVENT]
        assert bought == (self.states.get(user) in {PlaceState.ADMITTED, PlaceState.EXPIRED})
        if bought:
            self._end(user, PlaceState.DONE)

    @rule(pick=st.integers(0, 11))
    def let_time_run_out(self, pick: int) -> None:
        inside = [user for user in PEOPLE if self.states.get(user) in LIVE_INSIDE and user not in self.out_of_time]
        waiting_for_it = inside + sorted(self.missed - self.due)
        if waiting_for_it:
            user = waiting_for_it[pick % len(waiting_for_it)]
            self._run(run_out(self.redis, user))
            (self.due if user in self.missed else self.out_of_time).add(user)

    @rule()
    def tick(self) -> None:
        self._lapse()
        chosen = self._choose(2 - self._inside()) if self.sale is OPEN_SALE else []
        for user in sorted(chosen, key=lambda each: (self.lanes[each], self.order[each])):
            self.states[user] = PlaceState.READY
            self.times_called[user] += 1
            self.calls.append(user)
        after = self._run(tick(self.store, self.sale))
        assert (after.called, after.waiting) == (len(chosen), sum(map(len, self.lines)))
        assert (after.missed, after.inside, after.jumpers) == (len(self.missed), self._inside(), 0)

    def _lapse(self) -> None:
        for user in list(self.due):
            self._return(user)
        for user in list(self.out_of_time):
            if self._has_another_chance(user):
                self.missed.add(user)
                self.states[user] = PlaceState.WAITING
                self.out_of_time.discard(user)
            else:
                self._end(user, PlaceState.EXPIRED)

    def _choose(self, free: int) -> list[int]:
        chosen: list[int] = []
        while len(chosen) < free and any(self.lines):
            for lane in (0, 1):
                self.credit[lane] = self.credit[lane] + LANES[lane].weight if self.lines[lane] else 0
            richest = max((lane for lane in (0, 1) if self.lines[lane]), key=lambda lane: (self.credit[lane], -lane))
            self.credit[richest] -= sum(LANES[lane].weight for lane in (0, 1) if self.lines[lane])
            chosen.append(self.lines[richest].pop(0))
        return chosen

    def _end(self, user: int, state: PlaceState) -> None:
        self.lines = [[each for each in line if each != user] for line in self.lines]
        self.drawing = [each for each in self.drawing if each != user]
        self.states[user] = state
        for each in (self.out_of_time, self.missed, self.due):
            each.discard(user)

    def _inside(self) -> int:
        return sum(state in LIVE_INSIDE for state in self.states.values())

    @invariant()
    def the_line_is_as_the_model_says(self) -> None:
        line, standings = self._run(readings(self.store, {EVENT: PEOPLE}))[EVENT]
        assert line.total_waiting == sum(map(len, self.lines)) + len(self.missed) + len(self.drawing)
        for user, standing in standings.items():
            state = self.states.get(user)
            if user in self.out_of_time:
                state = PlaceState.WAITING if self._has_another_chance(user) else PlaceState.EXPIRED
            assert (standing.at(line.now) if standing else None) == state
            if standing and self._waits(user):
                assert (standing.lane, standing.ahead) == (
                    self.lanes[user],
                    self.lines[self.lanes[user]].index(user),
                )
            if standing:
                assert standing.in_draw is (user in self.drawing)
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


def _check(machine: type[LineMachine], examples: int, phases: Sequence[Phase] = tuple(Phase)) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=40,
            deadline=None,
            derandomize=True,
            phases=phases,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )


def test_random_histories_go_as_the_model_says(machine: type[LineMachine]) -> None:
    _check(machine, 50)


@pytest.mark.parametrize(
    ("script", "guard", "instead"),
    [
        ("join", "if state == 'M' or (state == 'R' and calls == '1') then", "if state == 'M' then"),
        (
            "leave",
            "for _, set in ipairs({sets[lane], ready, admitted, missed}) do",
            "for _, set in ipairs({sets[lane], ready, admitted}) do",
        ),
        ("lapse", "local returning = ended(missed)", "local returning = {}"),
    ],
)
def test_control_the_model_notices_a_script_that_does_otherwise(
    machine: type[LineMachine], script: str, guard: str, instead: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    without_guard(monkeypatch, tmp_path, script, guard, instead)
    with pytest.raises(AssertionError):
        _check(machine, 200, [Phase.generate])
