"""What `make breaking` compares the contracts with, in clones of every depth."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
IDENTITY = {f"GIT_{who}_{what}": f"{who}@example.com" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith(("GIT_", "MAKE"))} | IDENTITY


def _run(folder: Path, *command: str) -> str:
    done = subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=True, timeout=30)
    return done.stdout.strip()


def _commit(folder: Path, path: str, text: str) -> str:
    (folder / path).parent.mkdir(exist_ok=True)
    (folder / path).write_text(text)
    _run(folder, "git", "add", ".")
    _run(folder, "git", "commit", "-q", "-m", "x")
    return _run(folder, "git", "rev-parse", "HEAD")


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    folder = tmp_path / "clone"
    folder.mkdir()
    _run(folder, "git", "init", "-q")
    shutil.copy(ROOT / "Makefile", folder)
    _commit(folder, "protos/a.proto", "first")
    return folder


def _against(folder: Path) -> str:
    [line] = [line for line in _run(folder, "make", "-n", "breaking").splitlines() if line.startswith("git archive")]
    return _run(folder, "git", "rev-parse", line.split()[2])


def test_what_is_not_committed_is_compared_with_what_is(clone: Path) -> None:
    head = _commit(clone, "protos/a.proto", "second")
    (clone / "protos/a.proto").write_text("third")
    assert _against(clone) == head


def test_what_is_committed_is_compared_with_what_was_before_its_last_change(clone: Path) -> None:
    first = _run(clone, "git", "rev-parse", "HEAD")
    _commit(clone, "protos/a.proto", "second")
    _commit(clone, "other/a", "later")
    assert _against(clone) == first


def test_where_nothing_came_before_there_is_nothing_to_break(clone: Path, tmp_path: Path) -> None:
    assert _against(clone) == _run(clone, "git", "rev-parse", "HEAD")
    head = _commit(clone, "protos/a.proto", "second")
    shallow = tmp_path / "shallow"
    _run(tmp_path, "git", "clone", "-q", "--depth", "1", clone.as_uri(), str(shallow))
    assert _against(shallow) == head
    # The first contracts came behind other things.
    _commit(clone, "protos/a.proto", "third")
    _run(clone, "git", "checkout", "-q", "--orphan", "new")
    _run(clone, "git", "rm", "-rq", "--cached", ".")
    shutil.rmtree(clone / "protos")
    _commit(clone, "other/a", "before")
    head = _commit(clone, "protos/a.proto", "first")
    assert _against(clone) == head
