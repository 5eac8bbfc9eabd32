"""Every script of every service: the header is true of the body."""

import re
from pathlib import Path

import pytest

from services.common.lua import Header, parse_header

SCRIPTS = sorted((Path(__file__).parents[2] / "services").glob("**/lua/*.lua"))
MOST_LINES = 60

_BINDING = re.compile(r"^local ([a-z_0-9, ]+?)\s*=\s*(.+)$", re.MULTILINE)
_TERM = re.compile(r"(?:tonumber\()?(KEYS|ARGV)\[(\d+)\]\)?")
_USE = re.compile(r"\b(KEYS|ARGV)\[([^\]]*)\]")
_WALK = re.compile(r"unpack\(ARGV(?:, (\w+))?\)|\bfor \w+ = (\w+), #ARGV\b")


def _code(source: str) -> str:
    body = source.split("]]", 1)[1]
    lines = "\n".join(re.sub(r"--.*", "", line).rstrip() for line in body.splitlines())
    return re.sub(r"=\n\s+", "= ", lines)


def _locals(code: str) -> dict[str, str]:
    """Name → the expression that it is bound to, of the first binding of each name outside of blocks."""
    found: dict[str, str] = {}
    for names, terms in _BINDING.findall(code):
        expressions = re.split(r",\s*(?![^({]*[)}])", terms)
        for name, expression in zip(names.split(","), expressions, strict=False):
            found.setdefault(name.strip(), expression.strip())
    return found


def problems(source: str) -> list[str]:
    """What is wrong with a script; its header is taken at its word."""
    header, code = parse_header(source), _code(source)
    return _misnamed(header, code) + _undeclared(header, code) + _walked(header, code)


def _misnamed(header: Header, code: str) -> list[str]:
    single = header.args[:-1] if header.variadic else header.args
    wanted = {("KEYS", number): name for number, name in enumerate(header.keys, 1)}
    wanted |= {("ARGV", number): name for number, name in enumerate(single, 1)}
    terms = {name: _TERM.fullmatch(expression) for name, expression in _locals(code).items()}
    bound = {(match[1], int(match[2])): name for name, match in terms.items() if match}
    return [
        f"{table}[{number}] is declared as {wanted.get((table, number))} and bound as {bound.get((table, number))}"
        for table, number in wanted.keys() | bound.keys()
        if bound.get((table, number)) != wanted.get((table, number))
    ]


def _undeclared(header: Header, code: str) -> list[str]:
    counts = {"KEYS": len(header.keys), "ARGV": len(header.args)}
    wrong = []
    for table, index in _USE.findall(code):
        if index.isdigit() and not 1 <= int(index) <= counts[table]:
            wrong.append(f"{table}[{index}] is not declared")
        if not index.isdigit() and (table == "KEYS" or not header.variadic):
            wrong.append(f"{table}[{index}] is not one of the names")
    return wrong


def _walked(header: Header, code: str) -> list[str]:
    """A variadic argument is the rest of ARGV, from its place on, and nothing else is."""
    known = _locals(code)
    starts = [known.get(first or second, first or second) or "1" for first, second in _WALK.findall(code)]
    if header.variadic and not starts:
        return [f"{header.args[-1]} is declared and not used"]
    place = str(len(header.args)) if header.variadic else "none"
    return [f"the list starts at ARGV[{start}], declared: {place}" for start in starts if start != place]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: f"{path.parts[-3]}/{path.stem}")
def test_the_header_is_true_of_the_body(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert parse_header(source).name == path.stem
    assert problems(source) == []


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: f"{path.parts[-3]}/{path.stem}")
def test_a_script_fits_on_a_page_and_takes_its_time_from_redis(path: Path) -> None:
    code = _code(path.read_text(encoding="utf-8"))
    assert len([line for line in code.splitlines() if line.strip()]) <= MOST_LINES
    assert "os.time" not in code
    assert "os.clock" not in code


GOOD = """--[[ good: does nothing.
KEYS
  1 seats   a
  2 holds   b
ARGV
  1 booking_id   c
  2 indexes...   d
RETURNS
  1
COMPLEXITY O(1)
]]
local seats, holds = KEYS[1], KEYS[2]
local booking_id = ARGV[1]
local indexes = {unpack(ARGV, 2)}
return 1
"""


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("seats, holds = KEYS[1], KEYS[2]", "holds, seats = KEYS[1], KEYS[2]"),
        ("seats, holds = KEYS[1], KEYS[2]", "seats, holds = KEYS[2], KEYS[1]"),
        ("seats, holds = KEYS[1], KEYS[2]", "seats = KEYS[1]"),
        ("return 1", "return KEYS[3]"),
        ("return 1", "return redis.call('GET', KEYS[1 + 1])"),
        ("unpack(ARGV, 2)", "unpack(ARGV, 3)"),
        ("booking_id = ARGV[1]", "booking = ARGV[1]"),
        ("  2 indexes...   d\n", ""),
        ("  2 holds   b\n", ""),
        ("ARGV\n", "ARGV\n  1 more   of them\n"),
    ],
)
def test_control_a_header_that_is_not_true_is_found(right: str, wrong: str) -> None:
    assert problems(GOOD) == []
    assert right in GOOD
    try:
        assert problems(GOOD.replace(right, wrong, 1))
    except ValueError:
        return  # the header itself was refused
