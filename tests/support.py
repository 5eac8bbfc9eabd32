"""Helpers that tests of every area share."""

import asyncio
import inspect
import shutil
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import TypeVar, overload

import pytest

from services.common.lua import Script

T = TypeVar("T")

_POLL_SECONDS = 0.02


@overload
async def eventually(predicate: Callable[[], Awaitable[T]], within: timedelta = ...) -> T: ...


@overload
async def eventually(predicate: Callable[[], T], within: timedelta = ...) -> T: ...


async def eventually(predicate: Callable[[], object], within: timedelta = timedelta(seconds=10)) -> object:
    """Calls the predicate, plain or async, until what it returns is true, and returns that.

    An AssertionError counts as "not yet", so a predicate may assert. When the time is over the last one is raised,
    or an AssertionError that shows the last value.
    """
    deadline = time.monotonic() + within.total_seconds()
    while True:
        failure: AssertionError | None = None
        value: object = None
        try:
            outcome = predicate()
            value = await outcome if inspect.isawaitable(outcome) else outcome
        except AssertionError as error:
            failure = error
        if value:
            return value
        if time.monotonic() > deadline:
            raise failure or AssertionError(f"not within {within}: the last value was {value!r}")
        await asyncio.sleep(_POLL_SECONDS)


def without_guard(
    monkeypatch: pytest.MonkeyPatch, folder: Path, module: ModuleType, name: str, guard: str, instead: str = ""
) -> None:
    """Has `module` run a variant of its script `name` that lacks a guard: the control of a race test."""
    script: Script = getattr(module, name)
    assert script.source.count(guard) == 1
    variant = folder / f"{script.header.name}.lua"
    variant.write_text(script.source.replace(guard, instead), encoding="utf-8")
    monkeypatch.setattr(module, name, Script.load(variant))


class FakeClock:
    """A clock that stands still until it is moved."""

    def __init__(self, start: datetime) -> None:
        if start.tzinfo is None:
            raise ValueError("a clock starts at an aware datetime")
        self._now = start.astimezone(UTC)

    def now(self) -> datetime:
        """The moment it was last moved to."""
        return self._now

    def advance(self, step: timedelta) -> None:
        """Moves time forward; time never goes back."""
        if step < timedelta():
            raise ValueError("time does not go back")
        self._now += step


def needed(program: str, purpose: str) -> str:
    """Returns the path of a program of the machine; without it the test fails in plain words, and is not skipped."""
    path = shutil.which(program)
    if path is None:
        pytest.fail(f"{program} is needed {purpose}; install it and run the tests again", pytrace=False)
    return path
