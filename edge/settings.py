"""Settings of the edge: environment → a frozen object. Which backends there are is read from the contract."""

from collections.abc import Collection, Mapping
from typing import Annotated

from pydantic import Field, create_model

from services.common.settings import Address, CommonSettings


class EdgeSettings(CommonSettings):
    """What the edge can be told, apart from its targets."""

    # Where REST is served.
    http_listen: Address = "127.0.0.1:8080"
    # Origins whose pages may use the API, separated by commas: "https://shop.example". Ours need no entry.
    cors_origins: str = ""

    @property
    def allowed_origins(self) -> frozenset[str]:
        """`cors_origins`, taken apart."""
        return frozenset(filter(None, (origin.strip() for origin in self.cors_origins.split(","))))

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
