"""The embedded stack starts, tells and ends exactly its own processes."""

import asyncio
import json
import os
import re
import signal
import stat
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import redis

from deploy.local import packages, ports, processes
from deploy.local.asynchronous import LocalStack
from deploy.local.packages import PackageError
from deploy.local.paths import ROOT, STACKS
from deploy.local.processes import Running
from deploy.local.readiness import NotReady
from deploy.local.servers import SERVERS, VALKEY
from deploy.local.services import SERVICES
from deploy.local.site import ProcessSpec, Site
from deploy.local.stack import Stack, StackError, choose_events, remove_dead_sessions, session_name

MakeStack = Callable[..., Stack]


@pytest.fixture
def make_stack() -> Iterator[MakeStack]:
    """Makes stacks that belong to this session, so that even an interrupted run leaves nothing for long."""
    made: list[Stack] = []

    def make(label: str, *specs: ProcessSpec) -> Stack:
        made.append(Stack(session_name(f"test-{label}"), specs=specs or [VALKEY]))
        return made[-1]

    yield make
    for stack in made:
        stack.remove()


def script(name: str, code: str, after: tuple[str, ...] = ()) -> ProcessSpec:
    """A process that runs Python code and is ready once it has printed something."""

    def ready(site: Site) -> None:
        if not site.log(name).stat().st_size:
            raise NotReady("it printed nothing yet")

    return ProcessSpec(name, lambda _: [sys.executable, "-uc", code], ready, after=after)


def never(_site: Site) -> None:
    raise NotReady("it will never be")


def pid(stack: Stack, name: str) -> int:
    process = stack.running(name)
    assert process, f"{name} does not run"
    return process.pid


def run_python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def cli(command: str, stack: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "deploy.local", command],
        cwd=ROOT,
        env={**os.environ, "STACK": stack},
        capture_output=True,
        text=True,
        check=False,
    )


def test_up_returns_when_servers_answer_and_describes_them(make_stack: MakeStack) -> None:
    stack = make_stack("answers")
    stack.up()
    with redis.Redis.from_url(stack.url("valkey")) as client:
        assert client.ping()
        assert client.config_get("appendfsync")["appendfsync"] == "everysec"
    described = json.loads((stack.site.folder / "stack.json").read_text())
    assert described["processes"]["valkey"]["pid"] == pid(stack, "valkey")
    assert described["urls"]["valkey"] == stack.url("valkey")


def test_a_second_stack_runs_beside_and_down_ends_only_its_own(make_stack: MakeStack) -> None:
    first, second = make_stack("first"), make_stack("second")
    first.up()
    second.up()
    assert first.url("valkey") != second.url("valkey")
    survivor = pid(second, "valkey")
    first.down()
    assert first.running("valkey") is None
    assert pid(second, "valkey") == survivor
    with redis.Redis.from_url(second.url("valkey")) as client:
        assert client.ping()


def test_up_leaves_alone_what_runs(make_stack: MakeStack) -> None:
    stack = make_stack("twice")
    stack.up()
    before = pid(stack, "valkey")
    stack.up()
    assert pid(stack, "valkey") == before


def test_down_finds_what_a_dead_supervisor_left(make_stack: MakeStack) -> None:
    stack = make_stack("orphans")
    code = f"""
        import os
        from deploy.local.servers import VALKEY
        from deploy.local.stack import Stack
        Stack({stack.name!r}, specs=[VALKEY]).up()
        os._exit(0)
    """
    run_python(code)
    orphan = stack.running("valkey")
    assert orphan
    stack.down()
    assert not orphan.alive


def test_down_finds_what_has_no_pid_file_and_left_its_group(make_stack: MakeStack) -> None:
    grandchild = "import subprocess, sys; print(subprocess.Popen(['sleep', '600'], start_new_session=True).pid)"
    stack = make_stack("strays", script("parent", f"{grandchild}; import time; time.sleep(600)"))
    stack.up()
    stray = processes.marked(stack.site.folder)
    assert len(stray) == 2
    stack.site.pid_file("parent").unlink()
    stack.down()
    assert not any(process.alive for process in stray)


def test_a_reused_pid_is_not_taken_for_ours(make_stack: MakeStack) -> None:
    stack = make_stack("reused")
    with subprocess.Popen(["sleep", "600"]) as stranger:
        started = processes.start_time(stranger.pid)
        assert started is not None
        stack.site.pid_file("valkey").parent.mkdir()
        stack.site.pid_file("valkey").write_text(json.dumps({"pid": stranger.pid, "started": started - 1, "log": ""}))
        stack.down()
        assert stranger.poll() is None
        # The control: with the true start time it is taken for ours, and ended.
        stack.site.pid_file("valkey").write_text(json.dumps({"pid": stranger.pid, "started": started, "log": ""}))
        stack.down()
        assert stranger.wait(timeout=5) == -signal.SIGTERM


def test_a_process_that_dies_while_starting_is_named_with_its_last_words(make_stack: MakeStack) -> None:
    dying = ProcessSpec(
        "dying",
        lambda _: [sys.executable, "-c", "import sys; sys.exit('the disk is full')"],
        never,
        after=("valkey",),
    )
    stack = make_stack("dies", VALKEY, dying)
    with pytest.raises(StackError, match=r"dying ended while starting with status 1(.|\n)*the disk is full"):
        stack.up()
    assert stack.running("valkey") is None
    assert not processes.marked(stack.site.folder)


def test_a_process_that_dies_right_after_its_start_is_reported(make_stack: MakeStack) -> None:
    short = script("short", "print('bye'); import time; time.sleep(0.3)")
    long = script("long", "import time; time.sleep(1.5); print('up'); time.sleep(600)", after=("short",))
    with pytest.raises(StackError, match=r"short ended right after it had started(.|\n)*bye"):
        make_stack("brief", short, long).up()


def test_a_failure_leaves_what_ran_before(make_stack: MakeStack) -> None:
    stack = make_stack("keeps", VALKEY, script("dying", "raise SystemExit(1)"))
    stack.up(["valkey"])
    with pytest.raises(StackError):
        stack.up(["dying"])
    assert stack.running("valkey")


def test_status_reports_a_killed_server() -> None:
    name = session_name("test-status")
    stack = Stack(name, specs=[VALKEY])
    try:
        stack.up()
        assert cli("status", name).returncode == 0
        stack.kill("valkey")
        told = cli("status", name)
    finally:
        stack.remove()
    assert told.returncode == 1
    assert "died: valkey" in told.stderr
    assert re.search(r"valkey +DEAD", told.stdout)


def test_a_killed_server_comes_back_at_its_address_with_its_data(make_stack: MakeStack) -> None:
    stack = make_stack("crash")
    stack.up()
    url = stack.url("valkey")
    with redis.Redis.from_url(url) as client:
        client.set("seat", "taken")
    stack.kill("valkey")
    with redis.Redis.from_url(url) as client, pytest.raises(redis.ConnectionError):
        client.ping()
    stack.start("valkey")
    assert stack.url("valkey") == url
    with redis.Redis.from_url(url) as client:
        assert client.get("seat") == b"taken"


def claim_many(stacks: list[Path]) -> list[int]:
    with ThreadPoolExecutor(max_workers=16) as pool:
        return list(pool.map(ports.claim, stacks * 20))


@pytest.fixture
def narrow_ports(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Path]:
    """Two stacks that fight for few ports, with claims of their own."""
    monkeypatch.setattr(ports, "_FIRST", 31_900)
    monkeypatch.setattr(ports, "_CLAIMS", tmp_path / "claims")
    stacks = [tmp_path / "one", tmp_path / "two"]
    for stack in stacks:
        stack.mkdir()
    return stacks


def test_two_stacks_never_get_the_same_port(narrow_ports: list[Path]) -> None:
    claimed = claim_many(narrow_ports)
    assert len(set(claimed)) == len(claimed) == 40


def test_control_without_claims_ports_collide(narrow_ports: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "_unclaimed", lambda _file: True)
    claimed = claim_many(narrow_ports)
    assert len(set(claimed)) < len(claimed)


def test_ports_of_a_deleted_stack_are_free_again_and_taken_ones_are_never_given(
    narrow_ports: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = narrow_ports
    monkeypatch.setattr(ports, "_LAST", 31_901)
    only = ports.claim(first)
    with pytest.raises(OSError, match="no free port"):
        ports.claim(second)
    first.rmdir()
    assert ports.claim(second) == only
    ports.release(second)
    monkeypatch.setattr(ports, "is_free", lambda _port: False)
    with pytest.raises(OSError, match="no free port"):
        ports.claim(second)


def test_stacks_of_dead_sessions_are_deleted_and_those_of_the_living_stay(make_stack: MakeStack) -> None:
    alive = make_stack("living")
    alive.up()
    code = """
        import os
        from deploy.local.servers import VALKEY
        from deploy.local.stack import Stack, session_name
        stack = Stack(session_name("test-living-dead"), specs=[VALKEY])
        stack.up()
        print(stack.name, stack.running("valkey").pid, flush=True)
        os._exit(0)
    """
    name, orphan = run_python(code).split()
    started = processes.start_time(int(orphan))
    assert started is not None
    remove_dead_sessions("test-living")
    assert not Running(int(orphan), started, "").alive
    assert not (STACKS / name).exists()
    assert alive.running("valkey")


def test_secrets_are_for_their_owner_only_and_stay_the_same(make_stack: MakeStack) -> None:
    stack = make_stack("secrets", *SERVERS, *SERVICES)
    site = stack.site
    environments = {spec.name: spec.environment(site) for spec in SERVICES}
    again = {spec.name: spec.environment(site) for spec in SERVICES}
    assert environments == again
    secrets = list((site.folder / "secrets").iterdir())
    assert {file.name for file in secrets} == {
        "admission-keys",
        "draw-secret",
        "mysql-password",
        "place-keys",
        "receipt-keys",
        "signing-key.pem",
    }
    assert {stat.S_IMODE(file.stat().st_mode) for file in secrets} == {0o600}
    assert stat.S_IMODE(site.folder.stat().st_mode) == 0o700


def test_a_secret_reaches_only_the_processes_that_need_it(make_stack: MakeStack) -> None:
    site = make_stack("needs").site
    holders = {
        variable: {spec.name for spec in SERVICES if variable in spec.environment(site)}
        for variable in (
            "BOXOFFICE_ADMISSION_KEYS",
            "BOXOFFICE_DRAW_SECRET",
            "BOXOFFICE_PLACE_KEYS",
            "BOXOFFICE_RECEIPT_KEYS",
            "BOXOFFICE_SIGNING_KEY_FILE",
        )
    }
    assert holders == {
        "BOXOFFICE_ADMISSION_KEYS": {"queue", "inventory", "inventory-worker"},
        "BOXOFFICE_DRAW_SECRET": {"queue"},
        "BOXOFFICE_PLACE_KEYS": {"queue"},
        "BOXOFFICE_RECEIPT_KEYS": {"queue"},
        "BOXOFFICE_SIGNING_KEY_FILE": {"auth"},
    }


def test_every_process_comes_after_ones_that_exist() -> None:
    specs = [*SERVERS, *SERVICES]
    for position, spec in enumerate(specs):
        assert set(spec.after) <= {earlier.name for earlier in specs[:position]}, spec.name


NO_JAVA = "Java is not installed"


@pytest.mark.parametrize(
    ("asked", "ci", "missing", "chosen"),
    [
        (None, "", None, "kafka"),
        ("", "", None, "kafka"),
        ("redis", "true", None, "redis"),
        (None, "", NO_JAVA, "redis"),
    ],
)
def test_kafka_is_the_event_log_unless_it_cannot_run(
    monkeypatch: pytest.MonkeyPatch, asked: str | None, ci: str, missing: str | None, chosen: str
) -> None:
    monkeypatch.setenv("CI", ci)
    monkeypatch.setattr(packages, "kafka_missing", lambda: missing)
    assert choose_events(asked) == chosen


@pytest.mark.parametrize(("asked", "ci"), [(None, "true"), ("kafka", ""), ("nats", "")])
def test_nothing_stands_in_where_kafka_was_asked_for_and_in_ci(
    monkeypatch: pytest.MonkeyPatch, asked: str | None, ci: str
) -> None:
    monkeypatch.setenv("CI", ci)
    monkeypatch.setattr(packages, "kafka_missing", lambda: NO_JAVA)
    with pytest.raises(PackageError, match=r"cannot run: Java is not installed|EVENTS is kafka or redis"):
        choose_events(asked)


def test_taking_redis_streams_instead_is_said_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CI", "")
    monkeypatch.setattr(packages, "kafka_missing", lambda: NO_JAVA)
    choose_events(None)
    assert capsys.readouterr().err == "boxoffice: takes Redis Streams as the event log: Java is not installed\n"


async def test_the_stack_for_asyncio_ends_and_deletes_itself() -> None:
    async with LocalStack(session_name("test-async"), specs=[VALKEY]) as stack:
        process = stack.stack.running("valkey")
        await stack.kill("valkey")
        await stack.start("valkey")
    assert process
    assert not processes.marked(stack.stack.site.folder)
    assert not stack.stack.site.folder.exists()


async def test_a_cancelled_start_leaves_nothing() -> None:
    never_ready = replace(script("slow", "import time; time.sleep(600)"), after=("valkey",))
    stack = LocalStack(session_name("test-cancelled"), specs=[VALKEY, never_ready])
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1), stack:
            pytest.fail("it cannot have become ready")
    assert not processes.marked(stack.stack.site.folder)
    assert not stack.stack.site.folder.exists()


def test_without_apt_it_is_said_what_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(packages, "PACKAGES", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PackageError, match="apt-get and dpkg are needed to fetch chromium"):
        packages.debian_packages(["chromium"])
    with pytest.raises(PackageError, match="MariaDB is missing"):
        packages.mariadb()
    with pytest.raises(PackageError, match="Java is not installed"):
        packages.kafka()


def test_make_help_shows_every_target_that_is_meant_for_people() -> None:
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for target in ("demo", "up", "down", "status", "test", "lint", "proto", "bench", "setup", "lock"):
        assert re.search(rf"^  make {target} +\S", shown, re.MULTILINE), target
    declared = set(re.findall(r"^\.PHONY: (\S+)$", (ROOT / "Makefile").read_text(), re.MULTILINE))
    listed = set(re.findall(r"^  make (\S+)", shown, re.MULTILINE))
    assert declared - listed == {"servers"}
