"""Settings are read once, checked before anything starts, and complain in readable lines."""

import subprocess
import sys

import pydantic
import pytest

from services.common.settings import Address, CommonSettings, load, split_address


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


@pytest.mark.parametrize("address", ["", ":80", "host", "host:", "host:x", "host:-1", "host:65536"])
def test_an_address_needs_host_and_port(address: str) -> None:
    with pytest.raises(ValueError, match="host:port"):
        split_address(address)


def test_an_ipv6_address_is_split_at_the_port() -> None:
    assert split_address("[::1]:80") == ("::1", 80)


def test_importing_settings_reads_nothing() -> None:
    code = "import services.common.settings, sys; sys.exit('redis' in sys.modules or 'grpc' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=30).returncode == 0
