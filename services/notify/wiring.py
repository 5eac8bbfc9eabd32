"""Constructs notify: the only place that does."""

from boxoffice.notify.v1 import notify_service_pb2_grpc as rpc

from services.common import grpc_server
from services.common.clock import SystemClock
from services.common.eventlog import open_event_log, replay, watch_lag
from services.common.grpc_channel import connect
from services.common.lifecycle import Lifecycle
from services.common.redis import open_redis
from services.common.tokens import TokenVerifier, jwks_from_auth
from services.notify.api import NotifyApi
from services.notify.channels.sns import open_sns
from services.notify.dispatch import Courier, Intake
from services.notify.domain import RetrySchedule
from services.notify.facts import TOPICS
from services.notify.messages import Messages
from services.notify.settings import NotifySettings
from services.notify.store import Deliveries, Devices
from services.notify.worker import GROUP, PushLoop, read_events


async def wire(lifecycle: Lifecycle, settings: NotifySettings) -> int:
    """Starts everything of one notify process; answers the bound port."""
    redis = await lifecycle.enter(open_redis(settings.redis_url))
    log = await lifecycle.enter(open_event_log(settings.eventlog_url))
    auth = await lifecycle.enter(connect(settings.auth_target))
    devices = Devices(redis)
    deliveries = Deliveries(redis, remember=settings.remember_deliveries, lease=settings.push_lease)
    sns = await lifecycle.enter(
        open_sns(
            devices,
            endpoint_url=settings.sns_endpoint_url,
            region=settings.sns_region,
            applications=settings.sns_applications,
            threads=settings.push_concurrency,
        )
    )
    courier = Courier(
        devices=devices,
        deliveries=deliveries,
        channel=sns,
        messages=Messages(settings.public_url),
        schedule=_schedule(settings),
        dead_letters=await lifecycle.enter(log.writer()),
        clock=SystemClock(),
    )
    push_loop = PushLoop(deliveries, courier, settings.push_concurrency)
    intake = Intake(devices, deliveries)

    async def redis_answers() -> None:
        await redis.ping()

    lifecycle.ready_when("redis", redis_answers)
    lifecycle.ready_when("eventlog", log.ping)
    lifecycle.background("push", push_loop.run)
    lifecycle.on_drain(push_loop.drain)
    lifecycle.background("events", lambda: read_events(log, intake, push_loop))
    lifecycle.background("lag", lambda: watch_lag(log, GROUP, TOPICS))
    registrations = [(rpc.add_NotifyServiceServicer_to_server, NotifyApi(devices))]
    return await grpc_server.serve(lifecycle, settings, registrations, TokenVerifier(jwks_from_auth(auth)))


def _schedule(settings: NotifySettings) -> RetrySchedule:
    return RetrySchedule(settings.push_first_pause, settings.push_longest_pause, settings.push_attempts)


async def replay_dead_letters(settings: NotifySettings) -> int:
    """Moves what could not be handled back to the topics of notify, whoever put it aside; answers how many records."""
    async with open_event_log(settings.eventlog_url) as log:
        return sum([await replay(log, topic) for topic in TOPICS])
