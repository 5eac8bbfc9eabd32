"""What a payment provider must be able to do. Everything is idempotent by a key of ours: a repeat has no second effect.

A call that fails or does not return says nothing about the money. `lookup` and `cancel` find out.
"""

from typing import Protocol

from services.inventory.domain import Money
from services.inventory.ledger import Outcome


class ProviderUnavailable(Exception):
    """The provider could not be asked, or its answer was lost. The charge may have been made or not."""


class Gateway(Protocol):
    """A payment provider."""

    @property
    def name(self) -> str:
        """What payments of this provider are marked with."""

    def check_method(self, method: str) -> None:
        """Raises InvalidArgument for what cannot be a payment method of this provider."""

    async def charge(self, key: str, amount: Money, method: str) -> Outcome:
        """Takes the money or declines. A repeat answers the first outcome. May take for ever: set a time-out.

        Raises ProviderUnavailable.
        """

    async def lookup(self, key: str) -> Outcome | None:
        """What the charge came to; None if the provider has not made it (yet). Raises ProviderUnavailable."""

    async def cancel(self, key: str) -> Outcome:
        """Makes sure that the key is never charged later; answers CAPTURED if it was charged before.

        Atomic at the provider: between this and a charge that is still on its way exactly one wins.
        Raises ProviderUnavailable.
        """

    async def refund(self, key: str) -> None:
        """Gives the whole amount of a captured charge back, once. Raises ProviderUnavailable."""
