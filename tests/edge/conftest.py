"""One running edge per test."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from edge.line.lines import Lines
from tests.edge.world import World, world


@pytest.fixture
async def edge() -> AsyncIterator[World]:
    async with world() as running:
        yield running


@pytest.fixture(autouse=True)
def made_lines(monkeypatch: pytest.MonkeyPatch) -> list[Lines]:
    """The lines of each edge that was started."""
    lines: list[Lines] = []
    made = Lines.__init__

    def note(self: Lines, *args: Any, **kwargs: Any) -> None:
        made(self, *args, **kwargs)
        lines.append(self)

    monkeypatch.setattr(Lines, "__init__", note)
    return lines
