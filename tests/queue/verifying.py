"""Verifying a draw as a stranger does: with our command in an empty environment, or with the document's commands."""

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.support import needed

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs" / "verify-a-draw.md").read_text()


def verify(*arguments: str) -> tuple[int, list[str]]:
    """Status and lines of `verify-draw`, with nothing of our environment: neither settings nor generated code."""
    command = [sys.executable, "-m", "services.queue", "verify-draw", *arguments]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert done.stderr == ""
    return done.returncode, done.stdout.splitlines()


def by_hand(url: str, folder: Path, event_id: int, account: int, receipt: str, kept: str = "") -> list[str]:
    """What the commands of the document say, run one after the other as a stranger types them."""
    for program in ("bash", "curl", "jq", "openssl", "basenc", "sha256sum"):
        needed(program, "to try out the commands of docs/verify-a-draw.md")
    (folder / "receipt.txt").write_text(receipt + "\n")
    script = "\n".join(re.findall(r"^```bash\n(.*?)^```", DOCUMENT, flags=re.DOTALL | re.MULTILINE))
    environment = {
        "PATH": os.environ["PATH"],
        "SHOP": url,
        "EVENT": str(event_id),
        "ACCOUNT": str(account),
        "KEPT": kept,
    }
    command = ["bash", "-e", "-u", "-c", script]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()
