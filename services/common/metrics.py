"""Every Prometheus metric of Boxoffice: name, kind, labels, meaning. No other module declares one.

Dashboards and alerts are tested against this list. Durations are seconds. Labels have few values by construction:
never a user, booking, or event id.
"""

from typing import Final

from prometheus_client import Counter, Gauge, Histogram, Info

# From a cached read (1 ms) to the longest deadline of a method (15 s); the targets of the design lie on boundaries.
_LATENCY: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 15.0)
_SIZES: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


def _begin_at_zero(metric: Counter | Gauge, *values: str) -> None:
    """Exposes each value of the label from the start: a panel reads 0 and not nothing, an alert sees the first one."""
    for value in values:
        metric.labels(value)


# --- every process -----------------------------------------------------------------------------------------------

# Which service this process is and what was built into it.
BUILD: Final = Info("boxoffice_build", "Service and version of this process")

# The product document's latency, and by its _count the TPS, of unary gRPC calls. Reason: "OK" or of the catalogue.
RPC_DURATION: Final = Histogram(
    "boxoffice_rpc_duration_seconds",
    "Time to answer a unary gRPC call, by method and reason",
    ("service", "method", "reason"),
    buckets=_LATENCY,
)
# Server streams, which last as long as someone watches: counted when they end, since their length says nothing.
RPC_STREAMS: Final = Counter(
    "boxoffice_rpc_streams_total", "gRPC server streams that ended, by reason", ("service", "method", "reason")
)
# Server streams that are being watched now.
RPC_STREAMS_OPEN: Final = Gauge("boxoffice_rpc_streams_open", "gRPC server streams now open", ("service", "method"))
# 1 when the last readiness check of a dependency passed, else 0.
DEPENDENCY_UP: Final = Gauge("boxoffice_dependency_up", "Whether a dependency answered its last check", ("dependency",))
# A background task failed and was started again. Should stay flat.
BACKGROUND_RESTARTS: Final = Counter(
    "boxoffice_background_restarts_total", "Background tasks started again after a failure", ("task",)
)
# How many calls travel together. A mean near 1 under load says that coalescing does not work.
COALESCED_BATCH_SIZE: Final = Histogram(
    "boxoffice_coalesced_batch_size", "Items in a coalesced batch", ("coalescer",), buckets=_SIZES
)
# Calls that were refused because too many were waiting for a batch.
COALESCER_REFUSED: Final = Counter(
    "boxoffice_coalescer_refused_total", "Items refused because the coalescer was full", ("coalescer",)
)
# Access tokens by what came of them: cached, verified, expired, refused.
TOKENS_VERIFIED: Final = Counter("boxoffice_tokens_verified_total", "Access tokens seen, by outcome", ("outcome",))

# --- event log and outbox ----------------------------------------------------------------------------------------

# Records that the log acknowledged.
EVENTLOG_APPENDED: Final = Counter(
    "boxoffice_eventlog_appended_total", "Records acknowledged by the event log", ("topic",)
)
# Time from append to acknowledgement.
EVENTLOG_APPEND_DURATION: Final = Histogram(
    "boxoffice_eventlog_append_duration_seconds", "Time to append to the event log", ("topic",), buckets=_LATENCY
)
# Appends that failed; a reservation behind one is released and answered 503.
EVENTLOG_APPEND_FAILURES: Final = Counter(
    "boxoffice_eventlog_append_failures_total", "Appends that the event log did not take", ("topic",)
)
# Records handled and committed by a consumer group.
EVENTLOG_CONSUMED: Final = Counter(
    "boxoffice_eventlog_consumed_total", "Records handled and committed", ("group", "topic")
)
# Batches whose handler failed and was tried again.
EVENTLOG_HANDLER_FAILURES: Final = Counter(
    "boxoffice_eventlog_handler_failures_total", "Failures of a handler of records", ("group",)
)
# Records that no handler could take and that went to the dead-letter topic.
EVENTLOG_DEAD: Final = Counter("boxoffice_eventlog_dead_total", "Records sent to a dead-letter topic", ("topic",))
# Records not yet committed by a consumer group.
EVENTLOG_LAG: Final = Gauge("boxoffice_eventlog_lag", "Records behind the end of the log", ("group", "topic"))
# Outbox rows that were published and deleted.
OUTBOX_PUBLISHED: Final = Counter("boxoffice_outbox_published_total", "Outbox rows published")
# Age of the oldest row that is still in the outbox; 0 when it is empty.
OUTBOX_AGE: Final = Gauge("boxoffice_outbox_oldest_age_seconds", "Age of the oldest unpublished outbox row")
# Transactions repeated after a deadlock or a lock time-out.
MYSQL_RETRIES: Final = Counter("boxoffice_mysql_retries_total", "Transactions repeated after a conflict")

# --- edge --------------------------------------------------------------------------------------------------------

# The product document's latency, and by its _count the TPS, as clients see them. Route is the template, never the URL.
HTTP_DURATION: Final = Histogram(
    "boxoffice_http_request_duration_seconds",
    "Time to answer an HTTP request, by route template, method and status",
    ("route", "method", "status"),
    buckets=_LATENCY,
)
# Requests being answered now, streams apart.
HTTP_IN_FLIGHT: Final = Gauge("boxoffice_http_requests_in_flight", "HTTP requests being answered")
# Server-sent-event streams open now.
HTTP_STREAMS_OPEN: Final = Gauge("boxoffice_http_streams_open", "Server-sent-event streams now open", ("route",))
# Answers that are not a success, by the `code` of the problem document.
HTTP_PROBLEMS: Final = Counter("boxoffice_http_problems_total", "Problem documents sent, by code", ("code",))
# Lines of events that this process follows, each by one stream of digests.
LINE_DIGESTS: Final = Gauge("boxoffice_line_digests", "Lines of which digests are followed")
# Age of the oldest digest from which places are told; beyond 5 s nothing is told from it. 0 when no line is followed;
# of a line that never had one, the time for which it has been followed.
LINE_DIGEST_AGE: Final = Gauge("boxoffice_line_digest_age_seconds", "Age of the oldest digest in use")
# From the arrival of a digest until the last of those who watch has been told.
LINE_LATENESS: Final = Histogram(
    "boxoffice_line_lateness_seconds", "Time from a digest to the last stream that it changed", buckets=_LATENCY
)
# Places that queue was asked for, by why no digest could tell them.
LINE_LOOKUPS: Final = Counter("boxoffice_line_lookups_total", "Places asked for one by one, by cause", ("cause",))
_begin_at_zero(LINE_LOOKUPS, "unknown", "lost", "own_call", "changed", "called", "missing", "inside")

# --- auth --------------------------------------------------------------------------------------------------------

# Sign-ups, logins and refreshes by outcome: ok, refused, reused (a spent refresh token came back).
AUTH_ATTEMPTS: Final = Counter("boxoffice_auth_attempts_total", "Credential checks, by outcome", ("kind", "outcome"))
# Work of argon2id by operation: hash, verify. Its rate times its mean is the share of a core that sign-ins take.
PASSWORD_DURATION: Final = Histogram(
    "boxoffice_auth_password_duration_seconds", "Time to hash or verify a password", ("operation",), buckets=_LATENCY
)

# --- queue -------------------------------------------------------------------------------------------------------

# Places taken, by outcome.
QUEUE_JOINS: Final = Counter("boxoffice_queue_joins_total", "Joins of a line, by outcome", ("outcome",))
_begin_at_zero(QUEUE_JOINS, "joined", "found", "restored")
# People called to claim their admission.
QUEUE_CALLED: Final = Counter("boxoffice_queue_called_total", "Places called")
# Calls that were taken up. Far below the calls: people do not hear of them in time.
QUEUE_CLAIMED: Final = Counter("boxoffice_queue_claimed_total", "Places claimed")
# Places by how they ended.
QUEUE_ENDED: Final = Counter("boxoffice_queue_ended_total", "Places that ended, by state", ("state",))
_begin_at_zero(QUEUE_ENDED, "done", "expired", "left")
# People in line, over all events of this process' admission loop.
QUEUE_WAITING: Final = Gauge("boxoffice_queue_waiting", "People in line")
# People who are READY or ADMITTED.
QUEUE_INSIDE: Final = Gauge("boxoffice_queue_inside", "People called or admitted")
# Time of one tick of the admission loop.
QUEUE_TICK_DURATION: Final = Histogram(
    "boxoffice_queue_tick_duration_seconds", "Time of one admission tick", buckets=_LATENCY
)
# Must read 0. People called before someone who joined earlier, or beyond the cap: judged from what each run of
# admission left behind. It only grows until the process ends, so that no scrape misses what a short moment broke.
QUEUE_JUMPERS: Final = Gauge("boxoffice_queue_jumpers", "People admitted out of order; must be 0")
# Times that a loop could not serve one event and went on with the rest. Should stay flat.
QUEUE_EVENT_FAILURES: Final = Counter(
    "boxoffice_queue_event_failures_total", "Failures of a loop that concern one event", ("task",)
)
_begin_at_zero(
    QUEUE_EVENT_FAILURES, "accuracy", "admission", "digest", "draw", "facts", "foresight", "promise", "watchers"
)
# Leases of events by how this process stands to them: held, other (another process ticks the event), unfenced (no
# majority of the lease nodes answers; the line is ticked all the same).
QUEUE_LEASES: Final = Gauge("boxoffice_queue_leases", "Leases of events, by standing of this process", ("standing",))
_begin_at_zero(QUEUE_LEASES, "held", "other", "unfenced")
# Ticks that the line refused because it has seen a newer holder. A few after a pause of a process; should stay flat.
QUEUE_FENCED: Final = Counter("boxoffice_queue_fenced_ticks_total", "Late ticks that a line refused")
# Share of their rates that the health of the shop takes from the lines: 0 is none, as in processes that have no lines.
QUEUE_SLOWDOWN: Final = Gauge("boxoffice_queue_slowdown", "Share of the rate that the shop's health takes away")
# 1 while the reason slows the lines.
QUEUE_SLOWED: Final = Gauge("boxoffice_queue_slowed", "Whether a reason slows the lines", ("reason",))
_begin_at_zero(QUEUE_SLOWED, "hold_latency", "event_log_lag", "payment_backlog", "no_answer")
# Calls per second that policy and health allow now, over all lines that this process ticks and that call people.
QUEUE_ALLOWED_RATE: Final = Gauge("boxoffice_queue_allowed_rate", "Calls per second that are allowed")
# Joins that were refused at the door, by what refused them: account, address (too many), challenge (not answered).
QUEUE_REFUSED: Final = Counter("boxoffice_queue_refused_total", "Joins refused at the door, by reason", ("by",))
_begin_at_zero(QUEUE_REFUSED, "account", "address", "challenge")
# Places that a loss of Redis did not take, by where they came back from: log (those who had been called), owner (those
# who waited, with the signed place that they carry).
QUEUE_RESTORED: Final = Counter(
    "boxoffice_queue_restored_total", "Places that came back after a loss of Redis, by source", ("source",)
)
_begin_at_zero(QUEUE_RESTORED, "log", "owner")
# Lines that were built, by outcome: new, restored (it had lived before: Redis was lost), failed (tried again).
QUEUE_REBUILDS: Final = Counter("boxoffice_queue_rebuilds_total", "Lines that were built, by outcome", ("outcome",))
_begin_at_zero(QUEUE_REBUILDS, "new", "restored", "failed")
# Time of reading one digest from Redis and concluding from it what people may expect.
QUEUE_DIGEST_DURATION: Final = Histogram(
    "boxoffice_queue_digest_duration_seconds", "Time of taking one digest", buckets=_LATENCY
)
# What people were told of their wait against what came, twice for each wait: early and late are outside of the range
# that should hold eight in ten. Waits below five seconds are not judged.
QUEUE_ETA_WAITS: Final = Counter("boxoffice_queue_eta_waits_total", "Forecasts that came true, by how", ("outcome",))
_begin_at_zero(QUEUE_ETA_WAITS, "early", "inside", "late")

# --- inventory ---------------------------------------------------------------------------------------------------

# Reservations by outcome: held, replayed, or the reason of the refusal.
RESERVATIONS: Final = Counter("boxoffice_reservations_total", "Reservations, by outcome", ("outcome",))
# Bookings by the state they reached.
BOOKINGS: Final = Counter("boxoffice_bookings_total", "Bookings that reached a state", ("state",))
# Time from the hold to its commit in MySQL.
BOOKING_DURABLE_DURATION: Final = Histogram(
    "boxoffice_booking_durable_duration_seconds", "Time from hold to durable booking", buckets=_LATENCY
)
# Bookings that the worker committed in one transaction.
WORKER_BATCH_SIZE: Final = Histogram(
    "boxoffice_worker_batch_size", "Bookings committed in one transaction", buckets=_SIZES
)
# Calls of a payment provider by outcome: approved, declined, timeout, error.
PAYMENTS: Final = Counter("boxoffice_payments_total", "Payment attempts, by outcome", ("provider", "outcome"))
# Must read 0. Tickets with more than one live booking.
OVERSOLD_TICKETS: Final = Gauge("boxoffice_oversold_tickets", "Tickets with two live bookings; must be 0")
# Must read 0. Tickets that are neither sold nor in a live booking, and yet not available again in time.
LEAKED_HOLDS: Final = Gauge("boxoffice_leaked_holds", "Seats held by nobody past their time; must be 0")
# Must read 0. Captured payments that are neither CONFIRMED nor refunded in time.
PAID_WITHOUT_TICKET: Final = Gauge("boxoffice_paid_without_ticket", "Payments without ticket or refund; must be 0")
# Must read 0. Bookings answered with 202 that have not reached a state in time.
UNDECIDED_BOOKINGS: Final = Gauge("boxoffice_undecided_bookings", "Accepted bookings without a state; must be 0")

# Requests for holds that travel in one pipeline.
HOLD_BATCH_SIZE: Final = Histogram("boxoffice_hold_batch_size", "Holds asked of Redis in one pipeline", buckets=_SIZES)
# Time of such a pipeline, with the rebuild of an event where one was needed.
HOLD_DURATION: Final = Histogram("boxoffice_hold_duration_seconds", "Time of one pipeline of holds", buckets=_LATENCY)
# Bitmaps read from Redis: at most two a second per event and process, and one more when a batch found all seats taken.
AVAILABILITY_READS: Final = Counter("boxoffice_availability_reads_total", "Bitmaps read from Redis")
# Events rebuilt from MySQL after Redis had lost them, or had never seen them.
REBUILDS: Final = Counter("boxoffice_rebuilds_total", "Events rebuilt in Redis from MySQL")

# --- notify ------------------------------------------------------------------------------------------------------

# The product document's notification success. Outcome: sent; failed (given up, in the dead-letter topic); gone (the
# device is no longer reachable or changed hands); stale (its moment passed before the provider could be reached).
NOTIFICATIONS: Final = Counter(
    "boxoffice_notifications_total", "Messages to people, by outcome", ("channel", "kind", "outcome")
)
# Time from the event to the provider's acceptance; its target is p99 < 2 s.
NOTIFICATION_DURATION: Final = Histogram(
    "boxoffice_notification_duration_seconds", "Time from event to provider", ("channel", "kind"), buckets=_LATENCY
)
# Attempts that the provider did not take and that are made again later.
NOTIFICATION_RETRIES: Final = Counter(
    "boxoffice_notification_retries_total", "Attempts that will be repeated", ("channel",)
)
# Messages that wait for a provider, in all replicas together. Grows while a provider is down.
NOTIFICATIONS_PENDING: Final = Gauge("boxoffice_notifications_pending", "Messages not yet taken by a provider")
