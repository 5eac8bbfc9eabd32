"""The dummy provider: scripted cards, and a book of its own, kept as a remote provider would keep it.

It shares nothing with the ledger but the server: it writes in transactions of its own, and finishes what it was asked
even when the asker has gone.
"""

import asyncio
from collections.abc import Coroutine
from datetime import timedelta
from typing import Any, Final, TypeVar

from services.common.errors import InvalidArgument
from services.common.mysql import Database, DatabaseUnavailable, TransactionConflict
from services.inventory.domain import Money
from services.inventory.ledger import Outcome
from services.inventory.ledger.rows import to_decimal
from services.inventory.payments.gateway import ProviderUnavailable

T = TypeVar("T")

METHODS: Final = ("tok_approve", "tok_decline", "tok_timeout", "tok_late")
LATE_BY: Final = timedelta(seconds=20)
"""Later than any time-out of ours."""

_ENTER = """
    INSERT INTO dummy_charges (provider_key, amount, currency, state, create_time)
    VALUES (%s, %s, %s, %s, UTC_TIMESTAMP(6)) ON DUPLICATE KEY UPDATE provider_key = provider_key
"""
_OUTCOMES = {
    "CAPTURED": Outcome.CAPTURED,
    "REFUNDED": Outcome.CAPTURED,
    "DECLINED": Outcome.DECLINED,
    "VOIDED": Outcome.DECLINED,
}


async def _never() -> Outcome:
    silence: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
    return await silence


class DummyGateway:
    """A `Gateway` without money.

    Args:
        db: where its book `dummy_charges` is.
        late_by: how long after the charge the answer to `tok_late` comes.
    """

    name = "dummy"

    def __init__(self, db: Database, *, late_by: timedelta = LATE_BY) -> None:
        self._db = db
        self._late_by = late_by.total_seconds()
        self._running: set[asyncio.Task[Any]] = set()

    def check_method(self, method: str) -> None:
        """Raises InvalidArgument unless the method is one of METHODS."""
        if method not in METHODS:
            raise InvalidArgument("payment_method", f"The dummy provider takes {', '.join(METHODS)}.")

    async def charge(self, key: str, amount: Money, method: str) -> Outcome:
        """See `Gateway`. What the card says: approve, decline, never answer, or charge and answer too late."""
        match method:
            case "tok_decline":
                return await self._to_its_end(self._enter(key, amount, "DECLINED"))
            case "tok_timeout":
                return await _never()
            case "tok_late":
                return await self._to_its_end(self._charge_late(key, amount))
        return await self._to_its_end(self._enter(key, amount, "CAPTURED"))

    async def lookup(self, key: str) -> Outcome | None:
        """See `Gateway`."""
        state = await self._guarded(self._state(key))
        return _OUTCOMES[state] if state else None

    async def cancel(self, key: str) -> Outcome:
        """See `Gateway`: a voided entry takes the place that a later charge would need."""
        return await self._to_its_end(self._enter(key, Money(0), "VOIDED"))

    async def refund(self, key: str) -> None:
        """See `Gateway`."""
        await self._to_its_end(self._refund(key))

    async def aclose(self) -> None:
        """Ends what is still running: the provider goes down with its process."""
        running = list(self._running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def _charge_late(self, key: str, amount: Money) -> Outcome:
        outcome = await self._enter(key, amount, "CAPTURED")
        await asyncio.sleep(self._late_by)
        return outcome

    async def _enter(self, key: str, amount: Money, state: str) -> Outcome:
        """Writes the entry unless the key has one; what is in the book then is the outcome."""
        async with self._db.transaction() as tx:
            await tx.execute(_ENTER, (key, to_decimal(amount), amount.currency, state))
            row = await tx.fetch_one("SELECT state FROM dummy_charges WHERE provider_key = %s", (key,))
        assert row is not None
        return _OUTCOMES[row[0]]

    async def _state(self, key: str) -> str | None:
        async with self._db.transaction() as tx:
            row = await tx.fetch_one("SELECT state FROM dummy_charges WHERE provider_key = %s", (key,))
        return row[0] if row else None

    async def _refund(self, key: str) -> None:
        async with self._db.transaction() as tx:
            await tx.execute(
                "UPDATE dummy_charges SET state = 'REFUNDED', refunds = refunds + 1 "
                "WHERE provider_key = %s AND state = 'CAPTURED'",
                (key,),
            )

    async def _to_its_end(self, work: Coroutine[Any, Any, T]) -> T:
        task = asyncio.create_task(self._guarded(work))
        self._running.add(task)
        task.add_done_callback(self._forget)
        return await asyncio.shield(task)

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        # The asker may be gone: an error that nobody takes is not worth a warning, because the book is the truth.
        if not task.cancelled():
            task.exception()

    @staticmethod
    async def _guarded(work: Coroutine[Any, Any, T]) -> T:
        try:
            return await work
        except (DatabaseUnavailable, TransactionConflict) as error:
            raise ProviderUnavailable("the provider does not answer") from error
