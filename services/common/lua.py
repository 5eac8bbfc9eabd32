"""Lua scripts as functions with named parameters: KEYS and ARGV, and their order, come from the script's header."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis.asyncio
from redis.exceptions import NoScriptError

Argument = str | bytes | int | float
Value = Argument | Sequence[Argument]
Keys = Mapping[str, str | bytes]
Args = Mapping[str, Value]

_HEADER = re.compile(r"\A--\[\[\s*(?P<name>[a-z][a-z0-9_]*): (?P<guarantee>\S.*)\n(?P<body>(?s:.*?))\]\]")
_ENTRY = re.compile(r"^\s+(?P<number>\d+)\s+(?P<name>[a-z][a-z0-9_]*(?:\.\.\.)?)(?:\s|$)")
_SECTIONS = ("KEYS", "ARGV", "RETURNS", "COMPLEXITY")


class ScriptHeaderError(ValueError):
    """The header of a script does not follow the format."""


@dataclass(frozen=True)
class Header:
    """What a script says about itself."""

    name: str
    guarantee: str
    keys: tuple[str, ...]
    args: tuple[str, ...]
    variadic: bool
    """Whether the last argument is a list."""

    def signature(self) -> str:
        """One line for people: `hold(keys: seats, holds; args: booking_id, seats...)`."""
        args = ", ".join(self.args) + ("..." if self.variadic else "")
        return f"{self.name}(keys: {', '.join(self.keys)}; args: {args})"


def parse_header(source: str) -> Header:
    """Reads the header that every script starts with.

    Format: `--[[ name: one-line guarantee`, then the sections KEYS, ARGV, RETURNS and COMPLEXITY, then `]]`. KEYS
    and ARGV list `number name meaning`, counted from 1; a last argument whose name ends with `...` takes any number of
    values.

    Raises:
        ScriptHeaderError: something is missing or miscounted.
    """
    match = _HEADER.match(source)
    if not match:
        raise ScriptHeaderError("a script starts with --[[ name: guarantee")
    sections = _sections(match["body"])
    keys, args = _entries(sections["KEYS"]), _entries(sections["ARGV"])
    if any(name.endswith("...") for name in (*keys, *args[:-1])):
        raise ScriptHeaderError("only the last argument may be variadic")
    variadic = bool(args) and args[-1].endswith("...")
    names = tuple(name.removesuffix("...") for name in args)
    return Header(match["name"], match["guarantee"].strip(), keys, names, variadic)


def _sections(body: str) -> dict[str, list[str]]:
    sections: dict[str, list[str]] = {}
    current: list[str] = []
    for line in body.splitlines():
        word = line.split(" ", 1)[0]
        if word in _SECTIONS:
            current = sections.setdefault(word, [])
        else:
            current.append(line)
    absent = [name for name in _SECTIONS if name not in sections]
    if absent:
        raise ScriptHeaderError(f"the header lacks {', '.join(absent)}")
    return sections


def _entries(lines: Sequence[str]) -> tuple[str, ...]:
    entries = [match for line in lines if (match := _ENTRY.match(line))]
    if [int(entry["number"]) for entry in entries] != list(range(1, len(entries) + 1)):
        raise ScriptHeaderError("entries are numbered 1, 2, 3 …")
    return tuple(entry["name"] for entry in entries)


@dataclass(frozen=True)
class Script:
    """A loaded script. Calls name keys and arguments; a wrong, missing or surplus name raises TypeError at once."""

    header: Header
    source: str
    sha: str

    @classmethod
    def load(cls, path: Path) -> "Script":
        """Reads a script.

        Raises:
            ScriptHeaderError: the header does not follow the format.
        """
        source = path.read_text(encoding="utf-8")
        try:
            header = parse_header(source)
        except ScriptHeaderError as error:
            raise ScriptHeaderError(f"{path.name}: {error}") from error
        # Redis itself names scripts by their SHA-1.
        return cls(header, source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())

    async def call(self, client: redis.asyncio.Redis, keys: Keys, args: Args) -> Any:
        """Runs the script atomically; answers what it returns.

        Raises the errors of redis-py. After ConnectionError or TimeoutError the script may or may not have run.
        """
        command = self._command(keys, args)
        try:
            return await client.evalsha(*command)
        except NoScriptError:
            await client.script_load(self.source)
            return await client.evalsha(*command)

    async def call_many(self, client: redis.asyncio.Redis, calls: Sequence[tuple[Keys, Args]]) -> list[Any]:
        """Runs the script once per item in one pipeline: each atomic by itself, in order, one round trip.

        Answers one result per item, an Exception where that item failed. Raises only when the connection fails.
        """
        commands = [self._command(keys, args) for keys, args in calls]
        results = await self._pipeline(client, commands)
        unknown = [index for index, result in enumerate(results) if isinstance(result, NoScriptError)]
        if unknown:
            await client.script_load(self.source)
            repeated = await self._pipeline(client, [commands[index] for index in unknown])
            for index, result in zip(unknown, repeated, strict=True):
                results[index] = result
        return results

    @staticmethod
    async def _pipeline(client: redis.asyncio.Redis, commands: Sequence[Sequence[Any]]) -> list[Any]:
        if not commands:
            return []
        async with client.pipeline(transaction=False) as pipe:
            for command in commands:
                pipe.evalsha(*command)
            return await pipe.execute(raise_on_error=False)

    def _command(self, keys: Keys, args: Args) -> list[Any]:
        _same_names(self.header.name, "keys", self.header.keys, keys)
        _same_names(self.header.name, "args", self.header.args, args)
        command: list[Any] = [self.sha, len(self.header.keys), *(keys[name] for name in self.header.keys)]
        single = self.header.args[:-1] if self.header.variadic else self.header.args
        command.extend(_scalar(name, args[name]) for name in single)
        if self.header.variadic:
            command.extend(_list(self.header.args[-1], args[self.header.args[-1]]))
        return command


def _same_names(script: str, kind: str, wanted: tuple[str, ...], given: Mapping[str, Any]) -> None:
    if given.keys() != set(wanted):
        raise TypeError(f"{script} takes {kind} {list(wanted)}, got {list(given)}")


def _scalar(name: str, value: Value) -> Argument:
    if isinstance(value, bool) or not isinstance(value, str | bytes | int | float):
        raise TypeError(f"argument {name} is one value, got {type(value).__name__}")
    return value


def _list(name: str, value: Value) -> Sequence[Argument]:
    if isinstance(value, str | bytes) or not isinstance(value, Sequence):
        raise TypeError(f"argument {name} is a list, got {type(value).__name__}")
    return [_scalar(name, item) for item in value]


def describe(folder: Path) -> list[str]:
    """The signatures of all scripts in a folder, sorted by file name."""
    return [Script.load(path).header.signature() for path in sorted(folder.glob("*.lua"))]
