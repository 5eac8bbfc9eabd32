"""Settings are read once, checked before anything starts, and complain in readable lines."""

import subprocess
import sys
import traceback

import pydantic
import pytest

from services.common.eventlog import open_event_log
from services.common.redis import open_redis
from services.common.settings import (
    Address,
    CommonSettings,
    EventLogUrl,
    MysqlUrl,
    RedisUrl,
    load,
    split_address,
)


class ShopSettings(CommonSettings):
    http_listen: Address
    admission_keys: str


def test_defaults_are_enough_for_a_process_without_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BOXOFFICE_OTLP_ENDPOINT", "")
    settings = load(CommonSettings)
    assert (settings.grpc_listen, settings.otlp_endpoint, settings.drain_seconds) == ("127.0.0.1:0", None, 10.0)


def test_settings_come_from_the_environment_and_do_not_change(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BOXOFFICE_HTTP_LISTEN", "0.0.0.0:8080")
    monkeypatch.setenv("BOXOFFICE_ADMISSION_KEYS", "k:v")
    monkeypatch.setenv("BOXOFFICE_TRACE_RATIO", "0.5")
    settings = load(ShopSettings)
    assert (settings.http_listen, settings.trace_ratio) == ("0.0.0.0:8080", 0.5)
    with pytest.raises(pydantic.ValidationError):
        settings.trace_ratio = 1.0


def test_each_wrong_variable_is_one_line_and_its_value_is_not_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BOXOFFICE_HTTP_LISTEN", "hunter2")
    monkeypatch.setenv("BOXOFFICE_TRACE_RATIO", "7")
    with pytest.raises(SystemExit) as caught:
        load(ShopSettings)
    assert caught.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert sorted(line.split(":")[0] for line in lines) == [
        "BOXOFFICE_ADMISSION_KEYS",
        "BOXOFFICE_HTTP_LISTEN",
        "BOXOFFICE_TRACE_RATIO",
    ]
    assert "hunter2" not in "".join(lines)


class UrlSettings(CommonSettings):
    redis_url: RedisUrl
    mysql_url: MysqlUrl
    eventlog_url: EventLogUrl


GOOD_URLS = {
    "BOXOFFICE_REDIS_URL": "rediss://:hunter%2F2@[::1]:6379/5?ssl_cert_reqs=none",
    "BOXOFFICE_MYSQL_URL": "mysql://shop:hunter2@db_1.internal/boxoffice_auth",
    "BOXOFFICE_EVENTLOG_URL": "kafka://kafka-0.kafka:9092,kafka-1.kafka:9092",
}


def test_urls_are_taken_and_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, url in GOOD_URLS.items():
        monkeypatch.setenv(name, url)
    settings = load(UrlSettings)
    assert [settings.redis_url, settings.mysql_url, settings.eventlog_url] == list(GOOD_URLS.values())
    assert "hunter" not in repr(settings)
    monkeypatch.setenv("BOXOFFICE_EVENTLOG_URL", GOOD_URLS["BOXOFFICE_REDIS_URL"])
    assert load(UrlSettings).eventlog_url == GOOD_URLS["BOXOFFICE_REDIS_URL"]


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("BOXOFFICE_REDIS_URL", "redis://:hunter/2@redis:6379/0"),
        ("BOXOFFICE_REDIS_URL", "redis://:1234/hunter@redis:6379/0"),
        ("BOXOFFICE_REDIS_URL", "redis://:hunter@redis:6379/zero"),
        ("BOXOFFICE_REDIS_URL", "redis://:hunter@redis:99999/0"),
        ("BOXOFFICE_REDIS_URL", "hunter"),
        ("BOXOFFICE_MYSQL_URL", "mysql://shop:hunter/2@db:3306/shop"),
        ("BOXOFFICE_MYSQL_URL", "mysql://shop:hunter℀@db:3306/shop"),
        ("BOXOFFICE_MYSQL_URL", "mysql://shop:hunter@db:3306"),
        ("BOXOFFICE_EVENTLOG_URL", "redis://:hunter/2@redis:6379/0"),
        ("BOXOFFICE_EVENTLOG_URL", "kafka://shop:hunter@kafka:9092"),
        ("BOXOFFICE_EVENTLOG_URL", "amqp://shop:hunter@rabbit"),
    ],
)
def test_a_wrong_url_is_one_line_that_does_not_repeat_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, url: str
) -> None:
    for variable, value in (GOOD_URLS | {name: url}).items():
        monkeypatch.setenv(variable, value)
    with pytest.raises(SystemExit) as caught:
        load(UrlSettings)
    assert caught.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{name}: ")
    assert "hunter" not in line


@pytest.mark.parametrize("url", ["redis://:hunter/2@redis:6379/0", "redis://hunter℀@redis"])
async def test_opening_a_wrong_url_does_not_repeat_it_either(url: str) -> None:
    for context in (open_redis(url), open_event_log(url)):
        with pytest.raises(ValueError, match="looks like") as told:
            await context.__aenter__()
        assert "hunter" not in "".join(traceback.format_exception(told.value, limit=0))


@pytest.mark.parametrize("address", ["", ":80", "host", "host:", "host:x", "host:-1", "host:65536"])
def test_an_address_needs_host_and_port(address: str) -> None:
    with pytest.raises(ValueError, match="host:port"):
        split_address(address)


def test_an_ipv6_address_is_split_at_the_port() -> None:
    assert split_address("[::1]:80") == ("::1", 80)


def test_importing_settings_reads_nothing() -> None:
    code = "import services.common.settings, sys; sys.exit('redis' in sys.modules or 'grpc' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=30).returncode == 0
