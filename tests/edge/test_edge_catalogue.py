"""No reason stays in the catalogue that nothing produces, or that no test has seen."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from boxoffice.errors.v1 import reason_pb2

_ROOT = Path(__file__).parents[2]
_REASONS = {name.removeprefix("REASON_") for name in reason_pb2.Reason.keys()} - {"UNSPECIFIED"}  # noqa: SIM118 - an enum wrapper is no mapping

# In the contract, and nothing produces it yet. Whoever makes one come true takes it off this list.
_NOT_YET: set[str] = set()
# These name reasons without producing them: what documents them, and this.
_NO_EVIDENCE = {Path(__file__).name, "test_edge_documents.py", "openapi.py"}


@cache
def _parsed(folder: str) -> list[ast.Module]:
    files = (_ROOT / folder).rglob("*.py")
    return [
        ast.parse(file.read_text(encoding="utf-8"))
        for file in sorted(files)
        if file.name not in _NO_EVIDENCE and (folder != "tests" or file.name.startswith("test_"))
    ]


def _reasons_of_classes(tree: ast.AST) -> Iterator[tuple[str, ast.Constant]]:
    """The typed errors of a module: (name of the class, its reason)."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            for statement in node.body:
                if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "reason":
                    yield node.name, statement.value  # type: ignore[misc] # a reason is a constant


def _named(tree: ast.AST) -> set[str]:
    """The reasons that a module names, other than in an error that it defines."""
    defined = {id(value) for _, value in _reasons_of_classes(tree)}
    constants = (node for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in defined)
    return {node.value for node in constants if isinstance(node.value, str)} & _REASONS


def _raised(tree: ast.AST) -> Iterator[str]:
    """The classes of errors that a module waits for with `pytest.raises`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.raises":
            yield from (name.id for name in ast.walk(node.args[0]) if isinstance(name, ast.Name))


def _code() -> list[ast.Module]:
    return [*_parsed("edge"), *_parsed("services")]


def _tested() -> set[str]:
    reasons = {name: str(value.value) for tree in _code() for name, value in _reasons_of_classes(tree)}
    tests = _parsed("tests")
    raised = {reasons[name] for tree in tests for name in _raised(tree) if name in reasons}
    return raised.union(*map(_named, tests))


def _produced() -> set[str]:
    defined = {str(value.value) for tree in _code() for _, value in _reasons_of_classes(tree)}
    return defined.union(*map(_named, _code()))


def test_a_test_produces_every_reason() -> None:
    assert _REASONS - _tested() == _NOT_YET


def test_only_what_is_listed_is_produced_by_nothing() -> None:
    assert _REASONS - _produced() == _NOT_YET
