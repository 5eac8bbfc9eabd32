"""How fast the lines of this process may go, for whoever watches from outside."""

import asyncio

from services.common import metrics
from services.queue.admission.loop import AdmissionLoop
from services.queue.admission.pace import Pace
from services.queue.line.domain import Policy
from services.queue.line.store import LineStore


async def report_allowed_rate(store: LineStore, loop: AdmissionLoop, pace: Pace) -> None:
    """Tells the metric what policy and health allow in the lines that this process ticks. Call it once a second."""
    policies = await asyncio.gather(*map(store.policy, loop.calling), return_exceptions=True)
    rates = [each.rate_per_second for each in policies if isinstance(each, Policy)]  # a damaged one is told by the loop
    metrics.QUEUE_ALLOWED_RATE.set(sum(rates) * pace.factor)
