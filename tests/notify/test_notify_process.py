"""notify as it is started by people, beside auth and Kafka: from signing in to the push."""

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from deploy.local.site import rsa_key
from services.common.eventlog import open_event_log
from services.common.eventlog.topics import QUEUE_EVENTS
from services.notify.domain import Device, DeviceToken, Language, Platform, UserId
from tests.notify.conftest import Pushed
from tests.notify.facts_of import called
from tests.support import eventually

ROOT = Path(__file__).parents[2]
SOON = timedelta(seconds=40)


@asynccontextmanager
async def _process(module: str, environment: Mapping[str, str], log: Path) -> AsyncIterator[int]:
    """Yields the port; afterwards the process has stopped in good order."""
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", module, cwd=ROOT, env=environment, stdout=output, stderr=output
        )
    try:
        yield await eventually(lambda: _started(log), SOON)
    finally:
        process.send_signal(signal.SIGTERM)
        status = await process.wait()
    assert status == 0, _text(log)


def _text(log: Path) -> str:
    return log.read_text()


def _started(log: Path) -> int:
    written = _text(log).rpartition("\n")[0]  # the last line may be half written
    entries = [json.loads(line) for line in written.splitlines()]
    return next((int(entry["grpc_port"]) for entry in entries if entry.get("message") == "started"), 0)


async def _grpcurl(port: int, method: str, request: Mapping[str, str], token: str = "") -> Any:
    process = await asyncio.create_subprocess_exec(
        str(Path(sys.executable).with_name("grpcurl")),
        *("-plaintext", "-H", f"authorization: Bearer {token}", "-d", json.dumps(request)),
        *(f"127.0.0.1:{port}", f"boxoffice.{method}"),
        stdout=PIPE,
        stderr=PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return json.loads(out)


async def test_from_signing_in_to_the_push(
    mysql_url_factory: Callable[[str], str],
    redis_url: str,
    kafka_url: str,
    sns_url: str,
    pushed: Pushed,
    tmp_path: Path,
) -> None:
    key_file = tmp_path / "signing-key.pem"
    key_file.write_text(rsa_key())
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT / "generated"),
        "BOXOFFICE_MYSQL_URL": mysql_url_factory("notify_process"),
        "BOXOFFICE_REDIS_URL": redis_url,
        "BOXOFFICE_EVENTLOG_URL": kafka_url,
        "BOXOFFICE_SNS_ENDPOINT_URL": sns_url,
        "BOXOFFICE_SIGNING_KEY_FILE": str(key_file),
        "BOXOFFICE_DRAIN_SECONDS": "2",
    }
    device_token = DeviceToken(f"token-{tmp_path.parent.name}-{os.getpid()}")
    log = tmp_path / "notify.log"
    async with _process("services.auth", environment, tmp_path / "auth.log") as auth_port:
        environment["BOXOFFICE_AUTH_TARGET"] = f"127.0.0.1:{auth_port}"
        async with _process("services.notify", environment, log) as port:
            credentials = {"email": "buyer@example.com", "password": "a secret password"}
            account = await _grpcurl(auth_port, "auth.v1.AuthService/SignUp", credentials)
            access_token = account["tokens"]["access_token"]
            request = {"device_token": device_token, "platform": "PLATFORM_ANDROID", "language": "LANGUAGE_EN"}
            answer = await _grpcurl(port, "notify.v1.NotifyService/RegisterDevice", request, access_token)
            assert answer == {"device_count": 1}
            user_id = UserId(int(account["account"]["user_id"]))
            async with open_event_log(kafka_url) as event_log, event_log.writer() as writer:
                await writer.append(QUEUE_EVENTS, "42", called("process-q1", user_id))
            device = Device(device_token, user_id, Platform.ANDROID, Language.EN)
            [message] = await eventually(lambda: pushed(device), SOON)
    assert "It is your turn" in message["GCM"]
    for secret in (device_token, access_token):
        assert secret not in _text(log)
