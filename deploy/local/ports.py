"""Hands out loopback ports so that two stacks never meet, whatever clone or session they belong to.

A claim is a file in a folder that all clones of one user share; it names the stack that holds the port. Ports lie
below the range from which the kernel takes ports for outgoing connections, so that no connection can take one in
between.
"""

import fcntl
import os
import random
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_FIRST, _LAST = 20_000, 32_000
_CLAIMS = Path(tempfile.gettempdir()) / f"boxoffice-ports-{os.getuid()}"


@contextmanager
def _claims() -> Iterator[Path]:
    _CLAIMS.mkdir(mode=0o700, exist_ok=True)
    with (_CLAIMS / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield _CLAIMS


def claim(stack: Path) -> int:
    """Returns a port that is free now and is claimed by no other stack; it stays claimed until `release`."""
    with _claims() as claims:
        for _ in range(1000):
            port = random.randrange(_FIRST, _LAST)  # noqa: S311 - spreads stacks apart, guards no secret
            if _unclaimed(claims / str(port)) and is_free(port):
                (claims / str(port)).write_text(str(stack))
                return port
    raise OSError(f"no free port between {_FIRST} and {_LAST}")


def _unclaimed(claim_file: Path) -> bool:
    """A claim whose stack folder is gone is a left-over."""
    return not claim_file.exists() or not Path(claim_file.read_text() or "/nowhere").is_dir()


def is_free(port: int) -> bool:
    """Tells whether nobody listens on the loopback port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def release(stack: Path) -> None:
    """Gives back every port that the stack holds."""
    with _claims() as claims:
        for file in claims.iterdir():
            if file.name.isdigit() and file.read_text() == str(stack):
                file.unlink()
