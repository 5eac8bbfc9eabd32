"""A task whose cancellation was swallowed once, as `asyncio.wait_for` can, ends all the same."""

import asyncio

import pytest

from services.common import cancellation


async def _swallowing() -> None:
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        await asyncio.Event().wait()


@pytest.fixture
async def task() -> asyncio.Task[None]:
    started = asyncio.create_task(_swallowing())
    await asyncio.sleep(0)
    return started


async def test_it_is_cancelled_until_it_has_ended(task: asyncio.Task[None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cancellation, "CANCEL_AGAIN", 0.05)
    async with asyncio.timeout(5):
        await cancellation.cancel([task])
    assert task.cancelled()


async def test_control_cancelling_once_leaves_it_running(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task], timeout=0.1)
    assert not task.done()
    await cancellation.cancel([task])


async def test_nothing_to_cancel_is_no_error() -> None:
    await cancellation.cancel([])
