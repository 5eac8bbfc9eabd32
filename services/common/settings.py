"""Settings: environment variables → a frozen object, checked before anything starts.

Services subclass `CommonSettings` and add what they use, under names that begin with `BOXOFFICE_`.
"""

import sys
from typing import Annotated, Literal, TypeVar

from pydantic import AfterValidator, Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from services.common import urls

_MAX_PORT = 65535


def split_address(address: str) -> tuple[str, int]:
    """Host and port of "host:port"; an IPv6 host is written in brackets. Raises ValueError."""
    host, separator, port = address.rpartition(":")
    if not separator or not host or not port.isdecimal() or int(port) > _MAX_PORT:
        raise ValueError("must be host:port, for example 127.0.0.1:8080")
    return host.strip("[]"), int(port)


def _check_address(address: str) -> str:
    split_address(address)
    return address


# "host:port"; port 0 lets the system choose.
Address = Annotated[str, AfterValidator(_check_address)]
# URLs of servers. They may hold passwords, and are never shown.
RedisUrl = Annotated[str, Field(repr=False), AfterValidator(urls.check_redis_url)]
MysqlUrl = Annotated[str, Field(repr=False), AfterValidator(urls.check_mysql_url)]
EventLogUrl = Annotated[str, Field(repr=False), AfterValidator(urls.check_event_log_url)]


class CommonSettings(BaseSettings):
    """What every process can be told. An empty variable counts as absent."""

    model_config = SettingsConfigDict(
        env_prefix="BOXOFFICE_",
        frozen=True,
        env_ignore_empty=True,
        extra="ignore",
        # Values may be secrets; what is wrong with them is told without them.
        hide_input_in_errors=True,
    )

    # Where gRPC is served.
    grpc_listen: Address = "127.0.0.1:0"
    # Where Prometheus reads.
    metrics_listen: Address = "127.0.0.1:0"
    # DEBUG tells what libraries do; INFO tells what changes; requests that succeed are never logged.
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    # OTLP over HTTP, for example http://collector:4318. Absent: nothing is traced.
    otlp_endpoint: str | None = None
    # Share of requests that are traced. 1 % is what tracing may cost: a recorded span is about as dear as an RPC.
    trace_ratio: Annotated[float, Field(ge=0, le=1)] = 0.01
    # How long calls in flight may take to end after SIGTERM; below Kubernetes' 30 s until SIGKILL.
    drain_seconds: Annotated[float, Field(ge=0, le=300)] = 10.0


SettingsT = TypeVar("SettingsT", bound=CommonSettings)


def load(cls: type[SettingsT]) -> SettingsT:
    """Reads settings from the environment. Prints one line per wrong variable and exits with status 2."""
    try:
        return cls()
    except ValidationError as error:
        for problem in error.errors(include_url=False, include_input=False):
            sys.stderr.write(f"{_variable(cls, problem['loc'])}: {problem['msg']}\n")
        raise SystemExit(2) from None


def _variable(cls: type[CommonSettings], location: tuple[int | str, ...]) -> str:
    prefix = cls.model_config.get("env_prefix", "")
    name = ".".join(str(part) for part in location)
    # A field with an alias is located by the alias, which is the variable's own name.
    return name if name.upper().startswith(prefix) else f"{prefix}{name}".upper()
