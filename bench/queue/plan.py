"""One whole run: a line that grows, a draw, and thousands who watch."""

import asyncio
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

from redis.asyncio import Redis

from bench.queue import stores
from bench.queue.joins import Crowd
from bench.queue.measure import FIRST, LATER, RATE, Run, Scale
from bench.queue.result import Result
from bench.queue.venue import Account, Venue, mint
from deploy.local import LocalStack
from deploy.local.site import EventLogKind
from deploy.local.stack import remove_dead_sessions, session_name


async def measure(events: EventLogKind, scale: Scale, say: Callable[[str], None]) -> Result:
    """One whole run on a stack of its own, which is deleted afterwards."""
    result = Result(events, scale.people)
    spawning = multiprocessing.get_context("spawn")
    settings = {"BOXOFFICE_TRACE_RATIO": "0"}
    # What a run that was killed has left.
    remove_dead_sessions("bench-queue")
    with ProcessPoolExecutor(1, mp_context=spawning) as pool:
        async with LocalStack(session_name("bench-queue"), events=events, settings=settings) as stack:
            venue = Venue(stack)
            async with venue.redis() as redis:
                await _drive(Run(venue, redis, pool, scale, result), venue, redis, say)
    return result


async def _drive(run: Run, venue: Venue, redis: Redis, say: Callable[[str], None]) -> None:
    scale = run.scale
    step = max(1, scale.people // scale.accounts)
    # Spread over everyone who will be in the draw.
    minting = asyncio.create_task(run.apart(mint, venue.key_file, range(FIRST, FIRST + scale.people, step)))
    open_line, other_line, drawn = (
        await venue.sale(opened=True),
        await venue.sale(opened=True),
        await venue.sale(opened=False),
    )
    accounts: list[Account] = (await minting)[: scale.accounts]
    for event_id in (open_line, other_line, drawn):
        await venue.policy(event_id, rate_per_second=RATE, inside_cap=1_000_000, claim_window_seconds=3_600)
    have = 0
    for length in scale.lengths[:-1]:
        say(f"a line of {length:,}, first come, first served")
        have = await run.fill(open_line, have, length, LATER)
        late = Crowd(LATER + have, scale.window(length))
        await run.timed("line", open_line, late)
        have += late.number
        await run.digest(open_line)
    say(f"{len(accounts):,} join through REST")
    await run.through_rest((open_line, other_line), accounts)
    await _hold_draw(run, redis, drawn, say)
    say("joining behind everyone, and the digest of all")
    await run.timed("line", drawn, Crowd(LATER, scale.window(scale.people)))
    await run.digest(drawn)
    say(f"{scale.watchers:,} watchers")
    await run.watch(drawn, accounts[: scale.watchers])


async def _hold_draw(run: Run, redis: Redis, event_id: int, say: Callable[[str], None]) -> None:
    have, empty = 0, await stores.used_memory(redis)
    for length in run.scale.lengths:
        say(f"{length:,} enter the draw")
        window = run.scale.window(length)
        have = await run.fill(event_id, have, length - window)
        await run.timed("draw", event_id, Crowd(FIRST + have, window))
        have += window
    entered = await stores.used_memory(redis)
    say("the sale opens")
    await run.open(event_id, have)
    drawn = await stores.used_memory(redis)
    run.result.memory = {
        "bytes of Redis per person in the draw": (entered - empty) / have,
        "bytes of Redis per person in the line, drawn": (drawn - empty) / have,
    }
