"""auth as it is started by people: a process with an environment, spoken to from outside."""

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path

import pytest

from services.auth.domain import EmailAddress, Role, UserId
from services.auth.store import Accounts
from services.common.mysql import open_database
from tests.support import eventually

ROOT = Path(__file__).parents[2]


@pytest.fixture
def environment(mysql_url_factory: Callable[[str], str], redis_url: str, key_file: Path) -> Mapping[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT / "generated"),
        "BOXOFFICE_MYSQL_URL": mysql_url_factory("auth_process"),
        "BOXOFFICE_REDIS_URL": redis_url,
        "BOXOFFICE_SIGNING_KEY_FILE": str(key_file),
        "BOXOFFICE_DRAIN_SECONDS": "2",
    }


async def _run(environment: Mapping[str, str], *arguments: str, stdin: str = "") -> tuple[int | None, str, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "services.auth",
        *arguments,
        cwd=ROOT,
        env=environment,
        stdin=PIPE,
        stdout=PIPE,
        stderr=PIPE,
    )
    out, err = await process.communicate(stdin.encode())
    return process.returncode, out.decode(), err.decode()


async def test_create_user_makes_an_account_once_and_changes_it_after(
    environment: Mapping[str, str], tmp_path: Path
) -> None:
    password_file = tmp_path / "password"
    password_file.write_text("operator password\n")
    operator = ("create-user", "--email", "Ops@example.com", "--role", "operator")
    first = await _run(environment, *operator, "--password-file", str(password_file))
    again = await _run(environment, *operator, stdin="operator password\n")
    more = await _run(environment, *operator, "--role", "organizer", stdin="another password\n")
    assert first[0] == 0, first[2]
    assert first[1] == again[1] == more[1]
    async with open_database(environment["BOXOFFICE_MYSQL_URL"]) as database:
        account = await Accounts(database).by_email(EmailAddress("ops@example.com"))
    assert account is not None
    assert account.user_id == UserId(int(first[1]))
    assert account.roles == {Role.OPERATOR, Role.ORGANIZER}
    assert account.password_version == 2


async def test_create_user_says_what_is_wrong(environment: Mapping[str, str]) -> None:
    operator = ("create-user", "--email", "ops@example.com", "--role", "operator")
    status, out, err = await _run(environment, *operator, stdin="short\n")
    assert (status, out) == (1, "")
    assert "10 to 128 characters" in err
    assert "short" not in err
    lacking = {name: value for name, value in environment.items() if name != "BOXOFFICE_MYSQL_URL"}
    status, _, err = await _run(lacking, *operator, stdin="operator password\n")
    assert status == 2
    assert "BOXOFFICE_MYSQL_URL" in err


async def _grpcurl(port: int, method: str, request: Mapping[str, str]) -> dict[str, dict[str, str]]:
    process = await asyncio.create_subprocess_exec(
        str(Path(sys.executable).with_name("grpcurl")),
        *("-plaintext", "-d", json.dumps(request), f"127.0.0.1:{port}", f"boxoffice.auth.v1.AuthService/{method}"),
        stdout=PIPE,
        stderr=PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    answer: dict[str, dict[str, str]] = json.loads(out)
    return answer


async def test_the_process_serves_signs_in_and_stops(environment: Mapping[str, str], tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "services.auth", cwd=ROOT, env=environment, stdout=output, stderr=output
        )
    try:
        port = await eventually(lambda: _started(log), timedelta(seconds=30))
        request = {"email": "buyer@example.com", "password": "a secret password"}
        made = await _grpcurl(port, "SignUp", request)
        signed_in = await _grpcurl(port, "Login", request)
        assert signed_in["account"]["user_id"] == made["account"]["user_id"]
        token = {"refresh_token": signed_in["tokens"]["refresh_token"]}
        assert (await _grpcurl(port, "Refresh", token))["tokens"]["access_token"]
    finally:
        process.send_signal(signal.SIGTERM)
        status = await process.wait()
    assert status == 0
    for secret in ("a secret password", token["refresh_token"], signed_in["tokens"]["access_token"]):
        assert secret not in log.read_text()


def _started(log: Path) -> int:
    written = log.read_text().rpartition("\n")[0]  # the last line may be half written
    for line in written.splitlines():
        entry = json.loads(line)
        if entry.get("message") == "started":
            return int(entry["grpc_port"])
    return 0
