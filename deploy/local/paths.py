"""Where the embedded stack keeps its things: one ignored folder in the work tree."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HOME = ROOT / ".boxoffice"
PACKAGES = HOME / "packages"
STACKS = HOME / "stacks"
GOOGLE_PROTOS = HOME / "googleapis"
