"""Settings of the edge: environment → a frozen object. Which backends there are is read from the contract."""

from collections.abc import Collection, Mapping
from typing import Annotated

from pydantic import AfterValidator, Field, create_model

from edge.client_address import Network, parse_networks
from services.common.settings import Address, CommonSettings


def _check_networks(text: str) -> str:
    parse_networks(text)
    return text


Networks = Annotated[str, AfterValidator(_check_networks)]


class EdgeSettings(CommonSettings):
    """What the edge can be told, apart from its targets."""

    # Where REST is served.
    http_listen: Address = "127.0.0.1:8080"
    # Origins whose pages may use the API, separated by commas: "https://shop.example". Ours need no entry.
    cors_origins: str = ""
    # Networks of the proxies in front of the edge, separated by commas: "10.1.0.0/16, 127.0.0.6". Only these are
    # believed about whom they ask for (X-Forwarded-For). None: the address of a connection is the client's.
    trusted_proxies: Networks = ""

    @property
    def allowed_origins(self) -> frozenset[str]:
        """`cors_origins`, taken apart."""
        return frozenset(filter(None, (origin.strip() for origin in self.cors_origins.split(","))))

    @property
    def proxies(self) -> tuple[Network, ...]:
        """`trusted_proxies`, taken apart."""
        return parse_networks(self.trusted_proxies)

    def targets(self, parts: Collection[str]) -> Mapping[str, str]:
        """Where each part is reached. Only for settings made by `settings_for` the same parts."""
        return {part: getattr(self, _field(part)) for part in parts}


def settings_for(parts: Collection[str]) -> type[EdgeSettings]:
    """Settings that also ask for the target of each part: BOXOFFICE_INVENTORY_TARGET for "inventory"."""
    target = Annotated[str, Field(min_length=1)]
    fields = {_field(part): (target, ...) for part in sorted(parts)}
    return create_model("Settings", __base__=EdgeSettings, **fields)  # type: ignore[call-overload, no-any-return] # fields are made here


def _field(part: str) -> str:
    return f"{part}_target"
