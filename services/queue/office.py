"""What operators do with a line: read how it is run, change it, and let people into priority lanes."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from services.common.tokens import KeyRing
from services.queue.catalog import EventCatalog
from services.queue.line.domain import LanesInvalid, Policy
from services.queue.line.store import LineStore
from services.queue.proofs.lane_pass import LanePass
from services.queue.restore.book import LineBook
from services.queue.waiting_room import Rebuilder

# Every change of a policy; operators answer for what they did in the middle of a sale.
_audit = logging.getLogger("boxoffice.audit")


class Office:
    """The lines of all events, as operators run them. What they set outlives a loss of Redis."""

    def __init__(
        self, store: LineStore, catalog: EventCatalog, rebuilder: Rebuilder, book: LineBook, place_keys: KeyRing
    ) -> None:
        self._store = store
        self._catalog = catalog
        self._rebuilder = rebuilder
        self._book = book
        self._place_keys = place_keys

    async def policy(self, event_id: int) -> Policy:
        """How the line is run. Raises EventNotFound, and what keeps the line from being built."""
        await self._catalog.sale(event_id)
        await self._rebuilder.ensure(event_id)
        return await self._store.policy(event_id)

    async def update_policy(self, event_id: int, operator_id: int, changes: Mapping[str, Any]) -> Policy:
        """Changes attributes of the policy and leaves an audit line; answers when the event log knows of it.

        Raises EventNotFound, PolicyOutOfRange, LanesInvalid, EventLogUnavailable (it may rule already; repeat it).
        """
        current = await self.policy(event_id)
        if not changes:
            return current
        wanted = replace(current, **changes)
        before, after, version = await self._store.set_policy(event_id, wanted, changes.keys())
        fields = {"event_id": event_id, "user_id": operator_id, "before": _told(before), "after": _told(after)}
        _audit.info("queue policy changed", extra={"fields": fields})
        await self._book.runs(event_id, after, version)
        return after

    async def issue_passes(self, event_id: int, operator_id: int, lane: int, users: Sequence[int]) -> list[str]:
        """Passes for a priority lane, in the order of `users`. Raises EventNotFound, LanesInvalid."""
        in_use = {each.number for each in (await self.policy(event_id)).lanes}
        if lane == 0 or lane not in in_use:
            raise LanesInvalid("there is no such priority lane")
        fields = {"event_id": event_id, "user_id": operator_id, "lane": lane, "passes": len(users)}
        _audit.info("lane passes issued", extra={"fields": fields})
        return [LanePass(user_id, event_id, lane).encode(self._place_keys) for user_id in users]


def _told(policy: Policy) -> dict[str, object]:
    return {
        "mode": policy.mode.value,
        "rate_per_second": policy.rate_per_second,
        "inside_cap": policy.inside_cap,
        "claim_window_seconds": policy.claim_window.total_seconds(),
        "admission_seconds": policy.admission.total_seconds(),
        "lanes": {lane.number: [lane.name, lane.weight] for lane in policy.lanes},
    }
