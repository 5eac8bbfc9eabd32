"""One running edge per test."""

from collections.abc import AsyncIterator

import pytest

from tests.edge.world import World, world


@pytest.fixture
async def edge() -> AsyncIterator[World]:
    async with world() as running:
        yield running
