import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from redis.asyncio import Redis

from services.notify import store as store_module
from services.notify.domain import Delivery, Device, DeviceToken, Language, Platform, Unacceptable, UserId
from services.notify.store import MAX_DEVICES, Deliveries, Devices
from tests.support import eventually, without_guard

NewDevice = Callable[..., Device]


async def _owners(devices: Devices, token: DeviceToken, candidates: list[UserId]) -> list[UserId]:
    tokens = await devices.of_users(candidates)
    return [user_id for user_id in candidates if token in tokens[user_id]]


async def test_registering_again_renews_and_unregistering_forgets(devices: Devices, new_device: NewDevice) -> None:
    device = new_device()
    assert await devices.register(device) == 1
    assert await devices.register(replace(device, language=Language.EN)) == 1
    assert await devices.by_token(device.token) == replace(device, language=Language.EN)
    assert await devices.register(replace(new_device(), user_id=device.user_id)) == 2
    for _ in range(2):
        await devices.unregister(device.token, device.user_id)
    assert await devices.by_token(device.token) is None
    assert len((await devices.of_users([device.user_id]))[device.user_id]) == 1


async def test_accounts_whose_ids_begin_alike_are_kept_apart(devices: Devices, new_device: NewDevice) -> None:
    users = [UserId(number) for number in (1, 12, 120, 2)]
    made = {user_id: replace(new_device(), user_id=user_id) for user_id in users}
    for device in made.values():
        assert await devices.register(device) == 1
    assert await devices.of_users(users) == {user_id: [made[user_id].token] for user_id in users}


async def test_a_token_moves_between_accounts(devices: Devices, new_device: NewDevice) -> None:
    first = new_device()
    second = replace(first, user_id=new_device().user_id)
    await devices.register(first)
    assert await devices.register(second) == 1
    assert await _owners(devices, first.token, [first.user_id, second.user_id]) == [second.user_id]
    await devices.unregister(first.token, first.user_id)  # no longer theirs to forget
    assert await devices.by_token(first.token) == second


async def _owners_after_a_race(devices: Devices, device: Device) -> list[UserId]:
    """Who has the token after twenty accounts have registered it at the same time."""
    rivals = [replace(device, user_id=UserId(1000 + number)) for number in range(20)]
    await asyncio.gather(*(devices.register(rival) for rival in rivals))
    return await _owners(devices, device.token, [rival.user_id for rival in rivals])


async def test_of_concurrent_owners_exactly_one_has_the_token(devices: Devices, new_device: NewDevice) -> None:
    device = new_device()
    for _ in range(3):
        owners = await _owners_after_a_race(devices, device)
        known = await devices.by_token(device.token)
        assert known is not None
        assert owners == [known.user_id]


async def test_control_without_taking_it_from_the_owner_before_several_have_the_token(
    devices: Devices, new_device: NewDevice, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    guard = "redis.call('ZREM', accounts, owner .. '/' .. token)"
    without_guard(monkeypatch, tmp_path, store_module, "_REGISTER", guard)

    assert len(await _owners_after_a_race(devices, new_device())) > 1


async def test_the_provider_address_stays_with_the_token_until_the_platform_changes(
    devices: Devices, new_device: NewDevice
) -> None:
    device = new_device()
    await devices.register(device)
    await devices.remember_endpoint(device.token, "arn:1")
    await devices.register(replace(device, user_id=new_device().user_id))
    assert await devices.endpoint(device.token) == "arn:1"
    await devices.register(replace(device, platform=Platform.IOS))
    assert await devices.endpoint(device.token) is None


async def test_an_account_has_a_bounded_number_of_devices(devices: Devices, new_device: NewDevice) -> None:
    owner = new_device().user_id
    mine = [replace(new_device(), user_id=owner) for _ in range(MAX_DEVICES)]
    for device in mine:
        await devices.register(device)
    with pytest.raises(Unacceptable):
        await devices.register(replace(new_device(), user_id=owner))
    assert await devices.register(mine[0]) == MAX_DEVICES


async def _claimed(deliveries: Deliveries) -> list[Delivery]:
    return (await deliveries.claim(100))[1]


def _delivery(number: int) -> Delivery:
    return Delivery(f"fact{number}/device", "queue.events", DeviceToken("token"), b"a\0b" + bytes([number]), "")


async def _queued_of_ten_times(deliveries: Deliveries, batch: list[Delivery]) -> int:
    return sum(await asyncio.gather(*(deliveries.enqueue(batch) for _ in range(10))))


async def test_a_delivery_is_queued_once_however_often_its_fact_arrives(deliveries: Deliveries) -> None:
    batch = [_delivery(number) for number in range(5)]
    assert await _queued_of_ten_times(deliveries, batch) == 5
    pending, claimed = await deliveries.claim(100)
    assert pending == 5
    assert sorted(claimed, key=lambda each: each.delivery_id) == [replace(each, attempt=1) for each in batch]
    for delivery in claimed:
        await deliveries.finish(delivery)
    assert await deliveries.enqueue(batch) == 0
    assert await deliveries.claim(100) == (0, [])


async def test_control_without_the_condition_a_fact_that_arrives_again_is_queued_again(
    deliveries: Deliveries, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    without_guard(monkeypatch, tmp_path, store_module, "_ENQUEUE", "'NX', ")

    assert await _queued_of_ten_times(deliveries, [_delivery(number) for number in range(5)]) > 5


async def _claimed_by_many(deliveries: Deliveries) -> list[str]:
    """What twenty replicas that claim at the same time get of a hundred deliveries."""
    await deliveries.enqueue([_delivery(number) for number in range(100)])
    claims = await asyncio.gather(*(deliveries.claim(7) for _ in range(20)))
    return [delivery.delivery_id for _, batch in claims for delivery in batch]


async def test_two_replicas_never_claim_the_same(deliveries: Deliveries) -> None:
    claimed = await _claimed_by_many(deliveries)
    assert len(claimed) == len(set(claimed)) == 100


async def test_control_without_the_lease_replicas_claim_the_same(
    deliveries: Deliveries, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    guard = "redis.call('ZADD', due, now_ms + lease_ms, delivery_id)"
    without_guard(monkeypatch, tmp_path, store_module, "_CLAIM", guard)

    claimed = await _claimed_by_many(deliveries)
    assert len(claimed) > len(set(claimed))


async def test_what_a_dead_replica_had_claimed_is_claimed_again(redis: Redis) -> None:
    deliveries = Deliveries(redis, remember=timedelta(hours=1), lease=timedelta(milliseconds=50))
    await deliveries.enqueue([_delivery(1)])
    _, [first] = await deliveries.claim(1)

    [second] = await eventually(lambda: _claimed(deliveries))
    assert (first.attempt, second.attempt) == (1, 2)


async def test_a_postponed_delivery_is_due_after_its_pause_and_a_finished_one_never(deliveries: Deliveries) -> None:
    await deliveries.enqueue([_delivery(1), _delivery(2)])
    _, [one, other] = await deliveries.claim(2)
    await deliveries.postpone(one, timedelta(milliseconds=50))
    await deliveries.finish(other)
    await deliveries.postpone(other, timedelta(0))

    again = await eventually(lambda: _claimed(deliveries))
    assert [delivery.delivery_id for delivery in again] == [one.delivery_id]
