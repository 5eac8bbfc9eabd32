"""Where devices and waiting deliveries are kept: in Redis, each in one slot of a cluster, so that scripts see it whole.

When Redis is lost, waiting messages are lost together with the devices that they were for; docs/decisions/0035.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path

from redis.asyncio import Redis

from services.common.lua import Args, Keys, Script
from services.notify.domain import Delivery, Device, DeviceToken, Language, Platform, Unacceptable, UserId

MAX_DEVICES = 20  # per account: more than anyone carries, few enough that nobody can use us to flood a provider

_LUA = Path(__file__).parent / "lua"
_REGISTER = Script.load(_LUA / "register_device.lua")
_UNREGISTER = Script.load(_LUA / "unregister_device.lua")
_ENQUEUE = Script.load(_LUA / "enqueue_delivery.lua")
_CLAIM = Script.load(_LUA / "claim_deliveries.lua")
_POSTPONE = Script.load(_LUA / "postpone_delivery.lua")
_FINISH = Script.load(_LUA / "finish_delivery.lua")

_DEVICES = b"notify:{devices}:by_token"
_ACCOUNTS = b"notify:{devices}:by_account"
_ENDPOINTS = b"notify:{devices}:endpoints"
_DEVICE_KEYS = {"devices": _DEVICES, "accounts": _ACCOUNTS, "endpoints": _ENDPOINTS}

_DUE = b"notify:{deliveries}:due"
_JOBS = b"notify:{deliveries}:jobs"
_ATTEMPTS = b"notify:{deliveries}:attempts"


class Devices:
    """The devices of everyone."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def register(self, device: Device) -> int:
        """Makes the device one of its account and of no other; answers how many the account has. Atomic.

        Raises:
            Unacceptable: the account has as many devices as it may.
        """
        arguments: Args = {
            "token": device.token,
            "user_id": device.user_id,
            "platform": device.platform,
            "language": device.language,
            "most": MAX_DEVICES,
        }
        registered, count = await _REGISTER.call(self._redis, keys=_DEVICE_KEYS, args=arguments)
        if not registered:
            raise Unacceptable("device_token", f"the account has {count} devices, which is all that it may have")
        return int(count)

    async def unregister(self, token: DeviceToken, user_id: UserId) -> None:
        """Forgets a device of this account. Idempotent; a device of another account stays. Atomic."""
        await _UNREGISTER.call(self._redis, keys=_DEVICE_KEYS, args={"token": token, "user_id": user_id})

    async def of_users(self, user_ids: Iterable[UserId]) -> Mapping[UserId, Sequence[DeviceToken]]:
        """The tokens of each account, in one round trip."""
        wanted = list(dict.fromkeys(user_ids))
        async with self._redis.pipeline(transaction=False) as pipeline:
            for user_id in wanted:
                # "/" is followed by "0": everything that begins with "user_id/" lies between the two.
                pipeline.zrangebylex(_ACCOUNTS, f"[{user_id}/", f"({user_id}0")
            found = await pipeline.execute()
        return {
            user_id: [DeviceToken(member.decode().partition("/")[2]) for member in members]
            for user_id, members in zip(wanted, found, strict=True)
        }

    async def by_token(self, token: DeviceToken) -> Device | None:
        """The device as it is registered now."""
        packed = await self._redis.hget(_DEVICES, token)
        if packed is None:
            return None
        user_id, platform, language = _text(packed).split(" ")
        return Device(token, UserId(int(user_id)), Platform(platform), Language(language))

    async def endpoint(self, token: DeviceToken) -> str | None:
        """The address that the push provider gave this device, if it was asked before."""
        endpoint = await self._redis.hget(_ENDPOINTS, token)
        return _text(endpoint) if endpoint else None

    async def remember_endpoint(self, token: DeviceToken, endpoint: str) -> None:
        """Keeps the provider's address of a device until the device is forgotten."""
        await self._redis.hset(_ENDPOINTS, token, endpoint)

    async def forget_endpoint(self, token: DeviceToken) -> None:
        """The provider no longer knows the address: ask anew next time."""
        await self._redis.hdel(_ENDPOINTS, token)


class Deliveries:
    """The deliveries that wait, shared by all replicas. Every change is one script, so a crash loses none."""

    def __init__(self, redis: Redis, *, remember: timedelta, lease: timedelta) -> None:
        self._redis = redis
        self._remember_ms = _milliseconds(remember)
        self._lease_ms = _milliseconds(lease)

    async def enqueue(self, deliveries: Sequence[Delivery]) -> int:
        """Queues those that were not queued before, in one round trip; answers how many. Raises what Redis raises."""
        calls: list[tuple[Keys, Args]] = [
            (
                {"seen": _seen(delivery.delivery_id), "due": _DUE, "jobs": _JOBS},
                {"delivery_id": delivery.delivery_id, "job": _pack(delivery), "remember_ms": self._remember_ms},
            )
            for delivery in deliveries
        ]
        queued = 0
        for outcome in await _ENQUEUE.call_many(self._redis, calls):
            if isinstance(outcome, Exception):
                raise outcome
            queued += outcome
        return queued

    async def claim(self, most: int) -> tuple[int, list[Delivery]]:
        """The size of the queue, and up to `most` due deliveries, for the length of the lease."""
        keys = {"due": _DUE, "jobs": _JOBS, "attempts": _ATTEMPTS}
        pending, *claimed = await _CLAIM.call(self._redis, keys=keys, args={"most": most, "lease_ms": self._lease_ms})
        return pending, [_unpack(delivery_id.decode(), job, attempt) for delivery_id, job, attempt in claimed]

    async def postpone(self, delivery: Delivery, pause: timedelta) -> None:
        """Gives a claimed delivery back, to be due after a pause."""
        arguments: Args = {"delivery_id": delivery.delivery_id, "pause_ms": _milliseconds(pause)}
        await _POSTPONE.call(self._redis, keys={"due": _DUE}, args=arguments)

    async def finish(self, delivery: Delivery, *, repeatable: bool = False) -> None:
        """Ends a delivery. Repeatable: the same fact, read from a dead-letter topic, is delivered again."""
        keys = {"seen": _seen(delivery.delivery_id), "due": _DUE, "jobs": _JOBS, "attempts": _ATTEMPTS}
        arguments: Args = {"delivery_id": delivery.delivery_id, "repeatable": int(repeatable)}
        await _FINISH.call(self._redis, keys=keys, args=arguments)


def _text(reply: bytes | str) -> str:
    """The client answers bytes; its types allow for both."""
    return reply.decode() if isinstance(reply, bytes) else reply


def _seen(delivery_id: str) -> bytes:
    return f"notify:{{deliveries}}:seen:{delivery_id}".encode()


def _pack(delivery: Delivery) -> bytes:
    header = f"{delivery.topic}\0{delivery.token}\0{delivery.traceparent}\0"
    return header.encode() + delivery.source


def _unpack(delivery_id: str, job: bytes, attempt: int) -> Delivery:
    topic, token, traceparent, source = job.split(b"\0", 3)
    return Delivery(delivery_id, topic.decode(), DeviceToken(token.decode()), source, traceparent.decode(), attempt)


def _milliseconds(duration: timedelta) -> int:
    return duration // timedelta(milliseconds=1)
