"""Settings of the edge ask for the targets that the contract needs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from edge.settings import settings_for

_ROOT = Path(__file__).parents[2]


def test_a_part_that_the_contract_adds_needs_a_target(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BOXOFFICE_SEATING_TARGET", "seating:9000")
    monkeypatch.delenv("BOXOFFICE_AUTH_TARGET", raising=False)
    assert settings_for({"seating"})().targets({"seating"}) == {"seating": "seating:9000"}
    with pytest.raises(ValidationError):
        settings_for({"seating", "auth"})()


def test_origins_are_a_list() -> None:
    assert settings_for(())(cors_origins=" https://a.example ,,https://b.example").allowed_origins == {
        "https://a.example",
        "https://b.example",
    }
    assert settings_for(())().allowed_origins == frozenset()


def test_the_process_says_what_it_lacks() -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("BOXOFFICE_")}
    environment["PYTHONPATH"] = f"{_ROOT}:{_ROOT / 'generated'}"
    command = [sys.executable, "-m", "edge"]
    done = subprocess.run(command, cwd=_ROOT, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert "BOXOFFICE_INVENTORY_TARGET" in done.stderr
