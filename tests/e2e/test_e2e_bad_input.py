"""Bad input at the front door of the running system: a problem with a stable code, and nothing half done."""

import base64
import json
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.e2e.shop import Person, Shop, new_key

RESERVE, PAY, CANCEL = "/api/tickets/reserve", "/api/tickets/pay", "/api/tickets/cancel"


@dataclass(frozen=True)
class Case:
    """A request that must be refused."""

    name: str
    method: str
    path: str
    status: int
    code: str
    body: Any = None
    data: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)
    signed_in: bool = True


JSON = {"Content-Type": "application/json"}
KEY = {"Idempotency-Key": "a-key-of-a-test"}
ONE_SEAT = {"event_id": 1, "ticket_ids": [1 << 20]}

CASES = [
    Case("malformed JSON", "POST", "/api/auth/signup", 400, "MALFORMED_JSON", data=b'{"email": ', headers=JSON),
    Case("no UTF-8", "POST", "/api/auth/signup", 400, "MALFORMED_JSON", data=b'{"email": "\xff"}', headers=JSON),
    Case("not an object", "POST", "/api/auth/signup", 400, "INVALID_ARGUMENT", body=[1, 2]),
    Case("unknown field", "POST", "/api/auth/login", 400, "INVALID_ARGUMENT", body={"email": "a@b.c", "pass": "x"}),
    Case("wrong type", "POST", "/api/auth/login", 400, "INVALID_ARGUMENT", body={"email": 1, "password": "x"}),
    Case("missing field", "POST", "/api/auth/login", 400, "INVALID_ARGUMENT", body={"email": "a@b.c"}),
    Case(
        "short password", "POST", "/api/auth/signup", 400, "INVALID_ARGUMENT", body={"email": "a@b.c", "password": "x"}
    ),
    Case(
        "huge body",
        "POST",
        "/api/auth/signup",
        413,
        "BODY_TOO_LARGE",
        data=b'{"email":"' + b"a" * 100_000 + b'"}',
        headers=JSON,
    ),
    Case(
        "form body",
        "POST",
        "/api/auth/login",
        415,
        "UNSUPPORTED_MEDIA_TYPE",
        data=b"email=a",
        headers={"Content-Type": "application/x-www-form-urlencoded"},
    ),
    Case("unknown path", "GET", "/api/nothing", 404, "ROUTE_NOT_FOUND"),
    Case("unknown method", "DELETE", "/api/events", 405, "METHOD_NOT_ALLOWED"),
    Case("unknown query", "GET", "/api/events?colour=red", 400, "INVALID_ARGUMENT"),
    Case("unknown event", "GET", "/api/events/999999", 404, "EVENT_NOT_FOUND"),
    Case("event id no number", "GET", "/api/events/abc", 400, "INVALID_ARGUMENT"),
    Case("event id too large", "GET", f"/api/events/{2**60}", 400, "INVALID_ARGUMENT"),
    Case("queue of unknown event", "POST", "/api/events/999999/queue", 404, "EVENT_NOT_FOUND", body={}),
    Case("no token", "GET", "/api/auth/me", 401, "UNAUTHENTICATED", signed_in=False),
    Case(
        "token no JWT",
        "GET",
        "/api/auth/me",
        401,
        "UNAUTHENTICATED",
        signed_in=False,
        headers={"Authorization": "Bearer x"},
    ),
    Case(
        "wrong password",
        "POST",
        "/api/auth/login",
        401,
        "BAD_CREDENTIALS",
        body={"email": "no@body.example", "password": "0123456789"},
    ),
    Case("operator only", "GET", "/api/events/1/queue/policy", 403, "PERMISSION_DENIED"),
    Case("reserve without key", "POST", RESERVE, 400, "IDEMPOTENCY_KEY_REQUIRED", body=ONE_SEAT),
    Case(
        "pay without key", "POST", PAY, 400, "IDEMPOTENCY_KEY_REQUIRED", body={"booking_id": "x", "payment_method": "y"}
    ),
    Case("cancel without key", "POST", CANCEL, 400, "IDEMPOTENCY_KEY_REQUIRED", body={"booking_id": "x"}),
    Case("reserve without admission", "POST", RESERVE, 403, "ADMISSION_REQUIRED", body=ONE_SEAT, headers=KEY),
    Case(
        "reserve with forged admission",
        "POST",
        RESERVE,
        403,
        "ADMISSION_INVALID",
        body=ONE_SEAT,
        headers={**KEY, "X-Admission-Token": "k.AAAA"},
    ),
    Case("unknown booking", "GET", "/api/tickets/status?booking_id=1-AAAA", 404, "BOOKING_NOT_FOUND"),
    Case(
        "pay unknown booking",
        "POST",
        PAY,
        404,
        "BOOKING_NOT_FOUND",
        body={"booking_id": "1-AAAA", "payment_method": "tok_approve"},
        headers=KEY,
    ),
    Case(
        "cancel unknown booking", "POST", CANCEL, 404, "BOOKING_NOT_FOUND", body={"booking_id": "1-AAAA"}, headers=KEY
    ),
]


@pytest.fixture
async def person(shop: Shop) -> Person:
    return await shop.sign_up()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_bad_input_is_refused_with_a_stable_code(shop: Shop, person: Person, case: Case) -> None:
    answer = await shop.call(
        case.method,
        case.path,
        person=person if case.signed_in else None,
        headers=case.headers,
        json_body=case.body,
        data=case.data,
    )
    assert (answer.status, answer.code) == (case.status, case.code), answer.body


async def test_expired_and_forged_access_tokens(shop: Shop, person: Person) -> None:
    header, payload, signature = person.token.split(".")
    claims = json.loads(base64.urlsafe_b64decode(payload + "=="))
    for change in ({"sub": "1"}, {"exp": claims["exp"] + 3600}, {"roles": ["operator"]}):
        forged = base64.urlsafe_b64encode(json.dumps(claims | change).encode()).rstrip(b"=").decode()
        impostor = Person(person.user_id, f"{header}.{forged}.{signature}")
        answer = await shop.call("GET", "/api/auth/me", person=impostor)
        assert (answer.status, answer.code) == (401, "UNAUTHENTICATED")
    assert (await shop.call("GET", "/api/auth/me", person=person)).status == 200


async def test_admission_is_for_one_person_and_one_event(shop: Shop, person: Person) -> None:
    event_id, elsewhere = await shop.seed(), await shop.seed()
    admission = await shop.admit(person, event_id)
    thief = await shop.sign_up()
    for who, event in ((thief, event_id), (person, elsewhere)):
        body = {"event_id": event, "best_available": {"quantity": 1}}
        answer = await shop.call("POST", RESERVE, person=who, headers={**new_key(), **admission}, json_body=body)
        assert (answer.status, answer.code) == (403, "ADMISSION_INVALID")
    assert await shop.seats_left(event_id) == await shop.seats_left(elsewhere) == 40


async def test_one_bad_seat_holds_none(shop: Shop, person: Person) -> None:
    event_id = await shop.seed()
    admission = await shop.admit(person, event_id)
    for ticket_ids, code in (
        ([event_id << 20, event_id << 20 | 40], "TICKET_NOT_FOUND"),
        ([event_id << 20, (event_id + 1) << 20], "TICKET_NOT_FOUND"),
        ([event_id << 20 | seat for seat in range(8)], "TICKET_LIMIT"),
        ([event_id << 20, event_id << 20], "INVALID_ARGUMENT"),
        ([], "INVALID_ARGUMENT"),
    ):
        body = {"event_id": event_id, "ticket_ids": ticket_ids}
        answer = await shop.call("POST", RESERVE, person=person, headers={**new_key(), **admission}, json_body=body)
        assert answer.code == code, answer.body
    assert await shop.seats_left(event_id) == 40


async def test_a_key_with_another_request_is_refused_and_holds_nothing(shop: Shop, person: Person) -> None:
    event_id = await shop.seed()
    headers = {**new_key(), **await shop.admit(person, event_id)}
    first = await shop.call(
        "POST",
        RESERVE,
        person=person,
        headers=headers,
        json_body={"event_id": event_id, "ticket_ids": [event_id << 20]},
    )
    again = await shop.call(
        "POST",
        RESERVE,
        person=person,
        headers=headers,
        json_body={"event_id": event_id, "ticket_ids": [event_id << 20]},
    )
    other = await shop.call(
        "POST",
        RESERVE,
        person=person,
        headers=headers,
        json_body={"event_id": event_id, "ticket_ids": [event_id << 20 | 1]},
    )
    assert first.status == again.status == 202
    assert again.body["booking_id"] == first.body["booking_id"]
    assert (first.headers.get("Idempotency-Replayed"), again.headers["Idempotency-Replayed"]) == (None, "true")
    assert (other.status, other.code) == (422, "IDEMPOTENCY_KEY_REUSED")
    assert await shop.has_left(event_id, 39)


async def test_a_booking_belongs_to_its_buyer(shop: Shop, person: Person) -> None:
    event_id = await shop.seed()
    booking = await shop.reserve(person, event_id, await shop.admit(person, event_id))
    thief = await shop.sign_up()
    booking_id = booking["booking_id"]
    attempts = [
        await shop.call("GET", f"/api/tickets/status?booking_id={booking_id}", person=thief),
        await shop.call("GET", f"/api/tickets/status/stream?booking_id={booking_id}", person=thief),
        await shop.call(
            "POST",
            PAY,
            person=thief,
            headers=new_key(),
            json_body={"booking_id": booking_id, "payment_method": "tok_approve"},
        ),
        await shop.call("POST", CANCEL, person=thief, headers=new_key(), json_body={"booking_id": booking_id}),
    ]
    assert {(a.status, a.code) for a in attempts} == {(404, "BOOKING_NOT_FOUND")}
    assert await shop.state(person, booking_id) == "RESERVED"


async def test_a_declined_card_leaves_the_seats_and_a_cancelled_booking_gives_them_back(
    shop: Shop, person: Person
) -> None:
    event_id = await shop.seed()
    booking = await shop.reserve(person, event_id, await shop.admit(person, event_id), quantity=2)
    pay = {"booking_id": booking["booking_id"], "payment_method": "tok_decline"}
    key = new_key()
    for _ in range(2):
        declined = await shop.call("POST", PAY, person=person, headers=key, json_body=pay)
        assert (declined.status, declined.code) == (402, "PAYMENT_DECLINED")
    reused = await shop.call("POST", PAY, person=person, headers=key, json_body=pay | {"payment_method": "tok_approve"})
    assert (reused.status, reused.code) == (422, "IDEMPOTENCY_KEY_REUSED")
    assert await shop.state(person, booking["booking_id"]) == "RESERVED"
    body = {"booking_id": booking["booking_id"]}
    await shop.ok("POST", CANCEL, person=person, headers=new_key(), json_body=body)
    assert await shop.state(person, booking["booking_id"]) == "CANCELLED"
    paid = await shop.call("POST", PAY, person=person, headers=new_key(), json_body=pay)
    assert (paid.status, paid.code) == (409, "BOOKING_NOT_PAYABLE")
