"""What counts as an answer to a proof of work, and what does not."""

from datetime import UTC, datetime, timedelta

from services.common.keyring import KeyRing
from services.queue.challenge import ProofOfWork, leading_zero_bits
from tests.support import FakeClock

EVENT, USER, BITS = 7, 1, 10
KEYS = KeyRing({"p1": b"p" * 32})
CLOCK = FakeClock(datetime(2026, 8, 1, tzinfo=UTC))


def _work(bits: int = BITS, keys: KeyRing = KEYS, clock: FakeClock = CLOCK) -> ProofOfWork:
    return ProofOfWork(keys, bits, clock)


def _answer(challenge: str, least: int = BITS, below: int = 257) -> str:
    """The first number whose hash has at least so many zero bits, and fewer than the other."""
    return next(
        answer for number in range(1_000_000) if least <= leading_zero_bits(answer := f"{challenge}.{number}") < below
    )


def _text(work: ProofOfWork, event_id: int = EVENT, user_id: int = USER) -> str:
    return work.text(event_id, user_id)["challenge"]


async def test_an_answer_is_good_for_its_account_and_event_and_no_other() -> None:
    work = _work()
    answer = _answer(_text(work))
    assert await work.passes(EVENT, USER, answer)
    assert not await work.passes(EVENT, USER + 1, answer)
    assert not await work.passes(EVENT + 1, USER, answer)


async def test_too_little_work_is_not_enough() -> None:
    work = _work()
    assert not await work.passes(EVENT, USER, _answer(_text(work), least=BITS - 2, below=BITS))
    # Answered while less was asked, and brought after the difficulty was raised.
    assert not await work.passes(EVENT, USER, _answer(_text(_work(BITS - 2)), least=BITS))


async def test_a_challenge_ends() -> None:
    clock = FakeClock(datetime(2026, 8, 1, tzinfo=UTC))
    work = _work(clock=clock)
    answer = _answer(_text(work))
    clock.advance(timedelta(minutes=4, seconds=59))
    assert await work.passes(EVENT, USER, answer)
    clock.advance(timedelta(seconds=1))
    assert not await work.passes(EVENT, USER, answer)


async def test_what_we_did_not_ask_is_no_challenge() -> None:
    work = _work()
    forged = _work(keys=KeyRing({"p1": b"x" * 32}))
    assert not await work.passes(EVENT, USER, _answer(_text(forged)))
    # Signed by us, and something else.
    assert not await work.passes(EVENT, USER, _answer(KEYS.sign(b"place2" + b"\0" * 25)))
    good = _answer(_text(work))
    for spoilt in ("", "1", ".1", good + "x", good + ".", "." + good, good.replace(".", ".1", 1), "a" * 1_000_000):
        assert not await work.passes(EVENT, USER, spoilt)


def test_zero_bits_are_counted_from_the_front() -> None:
    # SHA-256 of "" begins with e3, of "a" with ca; "6" is 0xe7…; the digest of b"3" begins with 4e.
    assert leading_zero_bits("") == 0
    assert leading_zero_bits("3") == 1
