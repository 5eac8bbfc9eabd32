"""Scripts are called by name, and what they declare is what they use."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import redis.asyncio
from redis.exceptions import ResponseError

from services.common.lua import Args, Keys, Script, ScriptHeaderError, describe, parse_header
from services.common.redis import open_redis

SOURCE = """--[[ example: counts and echoes.
KEYS
  1 first    a counter
  2 second   another
ARGV
  1 step     how far
  2 words... any number of them
RETURNS
  {first, second, words…}
COMPLEXITY O(words)
]]
local first, second = KEYS[1], KEYS[2]
local step = tonumber(ARGV[1])
local words = {unpack(ARGV, 2)}
if step == 0 then return redis.error_reply('STEP is zero') end
return {redis.call('INCRBY', first, step), redis.call('DECRBY', second, step), unpack(words)}
"""
KEYS: Keys = {"second": "{k}:b", "first": "{k}:a"}


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[redis.asyncio.Redis]:
    async with open_redis(redis_url) as opened:
        await opened.script_flush()
        yield opened


@pytest.fixture
def script(tmp_path: Path) -> Script:
    path = tmp_path / "example.lua"
    path.write_text(SOURCE, encoding="utf-8")
    return Script.load(path)


def test_the_header_names_everything() -> None:
    header = parse_header(SOURCE)
    assert header.guarantee == "counts and echoes."
    assert header.signature() == "example(keys: first, second; args: step, words...)"


async def test_names_are_bound_whatever_their_order(client: redis.asyncio.Redis, script: Script) -> None:
    assert await script.call(client, KEYS, {"words": ["x", b"y", 3], "step": 2}) == [2, -2, b"x", b"y", b"3"]


async def test_a_script_that_the_server_forgot_is_loaded_again(client: redis.asyncio.Redis, script: Script) -> None:
    for expected in (1, 2):
        await client.script_flush()
        assert (await script.call(client, KEYS, {"step": 1, "words": []}))[0] == expected


async def test_many_calls_are_one_pipeline_with_one_outcome_each(client: redis.asyncio.Redis, script: Script) -> None:
    calls: list[tuple[Keys, Args]] = [(KEYS, {"step": step, "words": []}) for step in (1, 0, 3)]
    for first in (0, 4):
        results = await script.call_many(client, calls)
        assert results[0] == [first + 1, -first - 1]
        assert isinstance(results[1], ResponseError)
        assert results[2] == [first + 4, -first - 4]
    assert await script.call_many(client, []) == []


@pytest.mark.parametrize(
    ("keys", "args"),
    [
        ({"first": "a"}, {"step": 1, "words": []}),
        ({**KEYS, "third": "c"}, {"step": 1, "words": []}),
        (KEYS, {"step": 1}),
        (KEYS, {"step": 1, "words": [], "more": 1}),
        (KEYS, {"step": [1], "words": []}),
        (KEYS, {"step": True, "words": []}),
        (KEYS, {"step": 1, "words": "xyz"}),
        (KEYS, {"step": None, "words": []}),
    ],
)
async def test_a_call_that_does_not_fit_is_refused_before_it_is_sent(
    client: redis.asyncio.Redis, script: Script, keys: dict[str, str], args: dict[str, int]
) -> None:
    with pytest.raises(TypeError):
        await script.call(client, keys, args)
    with pytest.raises(TypeError):
        await script.call_many(client, [(KEYS, {"step": 1, "words": []}), (keys, args)])
    assert await client.dbsize() == 0


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("--[[ example: counts and echoes.", "-- no header"),
        ("example: counts", "counts"),
        ("COMPLEXITY O(words)\n", ""),
        ("  2 second", "  3 second"),
        ("  1 step ", "  1 step..."),
    ],
)
def test_a_header_out_of_form_is_refused(right: str, wrong: str) -> None:
    assert right in SOURCE
    with pytest.raises(ScriptHeaderError):
        parse_header(SOURCE.replace(right, wrong, 1))


def test_scripts_of_a_folder_can_be_listed(script: Script, tmp_path: Path) -> None:
    assert describe(tmp_path) == [script.header.signature()]
