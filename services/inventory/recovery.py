"""What brings everything to its end that stopped half-way. Each loop may run in any number of processes at once."""

import asyncio
import logging
from collections.abc import Callable
from datetime import timedelta
from typing import Final

from services.inventory.domain import Booking, PaymentState
from services.inventory.ledger import Ledger, Payment
from services.inventory.payments.flow import PROVIDER_TIMEOUT, Settle
from services.inventory.payments.gateway import Gateway, ProviderUnavailable

SWEEP_EVERY: Final = timedelta(seconds=1)
SWEEP_MOST: Final = 200
COMPLETE_AFTER: Final = timedelta(seconds=10)
"""Longer than the provider's time-out: whoever made the intent has gone by then."""
COMPLETE_EVERY: Final = timedelta(seconds=1)
RECONCILE_EVERY: Final = timedelta(seconds=10)
RECONCILE_ALL_EVERY: Final = timedelta(minutes=5)
_PAUSE: Final = timedelta(milliseconds=50)
"""Between pages, so that a large event does not keep bookings waiting in the same process."""
_RECONCILE_OVERLAP: Final = timedelta(seconds=5)
_EVERYTHING: Final = timedelta(hours=24)
"""As long as Redis keeps the records of ended bookings."""

Nudge = Callable[[], None]
"""Says that the outbox has rows: `Relay.nudge`."""

_log = logging.getLogger(__name__)


class Sweeper:
    """Expires bookings that were not paid in time: their tickets are available within a second or so."""

    def __init__(self, ledger: Ledger, settle: Settle, nudge: Nudge) -> None:
        self._ledger = ledger
        self._settle = settle
        self._nudge = nudge

    async def run(self) -> None:
        """Sweeps until cancelled."""
        while True:
            if await self.run_once() < SWEEP_MOST:
                await asyncio.sleep(SWEEP_EVERY.total_seconds())

    async def run_once(self) -> int:
        """Expires one batch; returns how many. If Redis cannot be told the reconciler does it later."""
        expired = await self._ledger.expire_due(SWEEP_MOST)
        if expired:
            self._nudge()
            await self._settle(expired)
        return len(expired)


class Completer:
    """Brings payments to their end: what the provider captured becomes a ticket, or goes back exactly once.

    A payment without a charge is cancelled at the provider before it is written off, so that no charge can come later.
    """

    def __init__(
        self, ledger: Ledger, gateway: Gateway, settle: Settle, nudge: Nudge, *, after: timedelta = COMPLETE_AFTER
    ) -> None:
        self._ledger = ledger
        self._gateway = gateway
        self._settle = settle
        self._nudge = nudge
        self._after = after

    async def run(self) -> None:
        """Completes until cancelled."""
        while True:
            if not await self.run_once():
                await asyncio.sleep(COMPLETE_EVERY.total_seconds())

    async def run_once(self) -> int:
        """Takes the payments that are due and completes them; returns how many. One that fails comes again later."""
        payments = await self._ledger.claim_unfinished(self._after)
        results = await asyncio.gather(*(self._complete(payment) for payment in payments), return_exceptions=True)
        for payment, result in zip(payments, results, strict=True):
            if isinstance(result, BaseException):
                self._report(payment, result)
        return len(payments)

    async def _complete(self, payment: Payment) -> None:
        if payment.state == "REFUND_DUE":
            await self._refund(payment)
            return
        booking = await self._close(payment)
        await self._tell(booking)
        # A payment that was closed and is not at its end has money to give back.
        if booking.payment_state is PaymentState.PROCESSING:
            await self._refund(payment)

    async def _close(self, payment: Payment) -> Booking:
        async with asyncio.timeout(PROVIDER_TIMEOUT.total_seconds()):
            found = await self._gateway.lookup(payment.provider_key)
            outcome = found or await self._gateway.cancel(payment.provider_key)
        return await self._ledger.close_payment(payment, outcome)

    async def _refund(self, payment: Payment) -> None:
        async with asyncio.timeout(PROVIDER_TIMEOUT.total_seconds()):
            await self._gateway.refund(payment.provider_key)
        await self._tell(await self._ledger.close_refund(payment))

    async def _tell(self, booking: Booking) -> None:
        self._nudge()
        await self._settle([booking])

    @staticmethod
    def _report(payment: Payment, error: BaseException) -> None:
        fields = {"payment_id": payment.payment_id, "error": type(error).__name__}
        expected = isinstance(error, ProviderUnavailable | TimeoutError)
        _log.warning("payment not completed yet", extra={"fields": fields}, exc_info=None if expected else error)


class Reconciler:
    """Tells Redis again what changed lately, in case a process died between its commit and telling.

    Redis takes a repeat as nothing, and something old as nothing either, so that nobody has to know what was missed.
    Redis itself may forget its last seconds (a failover, an old file) without anybody noticing: therefore everything
    is told again now and then.
    """

    def __init__(self, ledger: Ledger, settle: Settle) -> None:
        self._ledger = ledger
        self._settle = settle
        self._told_at: float | None = None

    async def run(self) -> None:
        """Reconciles until cancelled: everything at first, then what has changed since the last time."""
        while True:
            await self.run_once()
            await asyncio.sleep(RECONCILE_EVERY.total_seconds())

    async def run_once(self) -> int:
        """Tells Redis what changed since the last call that succeeded; returns how many bookings those were."""
        began = asyncio.get_running_loop().time()
        told = sum([await self._tell_event(event_id) for event_id in await self._ledger.open_events()])
        self._told_at = began
        return told

    async def _tell_event(self, event_id: int) -> int:
        told, last = 0, None
        while changed := await self._ledger.changed_bookings(event_id, self._since(), last):
            await self._settle(changed)
            told, last = told + len(changed), changed[-1]
        return told

    def _since(self) -> timedelta:
        """For each page anew: the pages of a large sale take longer than the overlap."""
        if self._told_at is None:
            return _EVERYTHING
        return timedelta(seconds=asyncio.get_running_loop().time() - self._told_at) + _RECONCILE_OVERLAP

    async def run_all(self) -> None:
        """Goes through everything, every few minutes, until cancelled."""
        while True:
            await asyncio.sleep(RECONCILE_ALL_EVERY.total_seconds())
            await self.run_all_once()

    async def run_all_once(self) -> int:
        """Tells Redis of every booking that it should know, page by page; returns how many those were."""
        return sum([await self._whole_event(event_id) for event_id in await self._ledger.open_events()])

    async def _whole_event(self, event_id: int) -> int:
        told, last = 0, ""
        while page := await self._ledger.page_of_event(event_id, last, ended_within=_EVERYTHING):
            await self._settle(page)
            told, last = told + len(page), page[-1].booking_id
            await asyncio.sleep(_PAUSE.total_seconds())
        return told
