"""What a process may know of the stack that it belongs to: folders, ports, secrets, and the URLs made of them."""

import base64
import json
import os
import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Literal

from deploy.local import ports

EventLogKind = Literal["kafka", "redis"]


@dataclass
class Site:
    """One stack's place on this machine. Ports and secrets are made on first use and live as long as the folder."""

    folder: Path
    events: EventLogKind = "kafka"
    settings: Mapping[str, str] = field(default_factory=dict)
    """Environment variables given to every process of Boxoffice itself, over what the stack would give."""

    def __post_init__(self) -> None:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = threading.Lock()

    def data(self, process: str) -> Path:
        """Returns the folder of the process' own data."""
        folder = self.folder / "data" / process
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def log(self, process: str) -> Path:
        """Returns the file that the process' output goes to."""
        return self.folder / "log" / f"{process}.log"

    def pid_file(self, process: str) -> Path:
        """Returns the file that records the running process."""
        return self.folder / "run" / f"{process}.json"

    def port(self, process: str, name: str) -> int:
        """Returns the port of that name, the same after a restart."""
        key, file = f"{process}.{name}", self.folder / "ports.json"
        with self._lock:
            known: dict[str, int] = json.loads(file.read_text()) if file.exists() else {}
            if key not in known:
                known[key] = ports.claim(self.folder)
                write_private(file, json.dumps(known, indent=2))
            return known[key]

    def address(self, process: str, name: str) -> str:
        """Returns host:port."""
        return f"127.0.0.1:{self.port(process, name)}"

    def secret(self, name: str, make: Callable[[], str]) -> Path:
        """Returns a file, readable by its owner only, that holds the secret; makes it at first use."""
        file = self.folder / "secrets" / name
        with self._lock:
            if not file.exists():
                file.parent.mkdir(mode=0o700, exist_ok=True)
                write_private(file, make())
        return file

    def redis_url(self, database: int = 0) -> str:
        """Returns the URL of a numbered database of Valkey."""
        return f"redis://{self.address('valkey', 'redis')}/{database}"

    def mysql_url(self, database: str) -> str:
        """Returns the URL of a database of MariaDB, with the password of this stack in it."""
        password = self.secret("mysql-password", secrets.token_urlsafe).read_text()
        return f"mysql://boxoffice:{password}@{self.address('mariadb', 'mysql')}/{database}"

    def eventlog_url(self) -> str:
        """Returns the URL of the event log: Kafka's, or a Valkey database that nothing else uses."""
        return f"kafka://{self.address('kafka', 'broker')}" if self.events == "kafka" else self.redis_url(9)


@dataclass(frozen=True)
class ProcessSpec:
    """How to run one process of the stack."""

    name: str
    command: Callable[[Site], Sequence[str]]
    ready: Callable[[Site], None]
    """Raises `NotReady` until the process serves."""
    environment: Callable[[Site], Mapping[str, str]] = lambda _: dict(os.environ)
    prepare: Callable[[Site], None] = lambda _: None
    """Brings about what must exist before the start: packages, folders, configuration files."""
    after: tuple[str, ...] = ()
    """What must serve first; names that the stack does not run are passed over."""
    grace: timedelta = timedelta(seconds=15)
    """How long it may take to end by itself."""


def hmac_key_ring() -> str:
    """Returns a new ring of one HMAC key, `kid:base64`; a key id has letters and digits only."""
    return f"local{secrets.token_hex(4)}:{base64.b64encode(secrets.token_bytes(32)).decode()}"


def draw_secret() -> str:
    """Returns a new secret of draws: base64 of 32 bytes."""
    return base64.b64encode(secrets.token_bytes(32)).decode()


def rsa_key() -> str:
    """Returns a new RSA private key in PEM."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


def write_private(file: Path, text: str) -> None:
    """Writes the file at once or not at all, readable by its owner only."""
    unfinished = file.with_name(file.name + ".unfinished")
    unfinished.unlink(missing_ok=True)
    with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as output:
        output.write(text)
    unfinished.rename(file)
