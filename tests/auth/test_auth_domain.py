import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.auth.domain import RefreshToken, SessionEnded, Unacceptable, new_password, normalise_email


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ("  Kim.Minji@Example.COM ", "kim.minji@example.com"),
        ("a+tag@sub.example.co.kr", "a+tag@sub.example.co.kr"),
        ("buyer@한국.kr", "buyer@xn--3e0b707e.kr"),
        ("ｂｕｙｅｒ@example.com", "buyer@example.com"),
    ],
)
def test_one_address_has_one_spelling(written: str, kept: str) -> None:
    assert normalise_email(written) == kept
    assert normalise_email(kept) == kept


@pytest.mark.parametrize(
    "text",
    [
        "",
        "@",
        "nobody",
        "nobody@",
        "@example.com",
        "a@localhost",
        "a@1.2.3.4",
        "a b@example.com",
        "a..b@example.com",
        "a@exa_mple.com",
        "a@-x.com",
        "a@b@example.com",
        "김민지@example.com",
        "a\r\nBcc: all@example.com",
        "x" * 65 + "@example.com",
        "x@" + ".".join(["y" * 60] * 5) + ".com",
    ],
)
def test_what_is_not_an_address_is_refused(text: str) -> None:
    with pytest.raises(Unacceptable) as refused:
        normalise_email(text)
    assert refused.value.metadata == {"field": "email"}


# What people write around an "@": mostly an address, with a stray character here and there.
_PART = st.text(st.sampled_from(f"{string.ascii_letters}{string.digits}.-+_한국ｂ "), min_size=1, max_size=70)
_DOMAIN = st.builds(".".join, st.lists(st.text("abz09-한국Ｂ", min_size=1, max_size=64), min_size=1, max_size=6))
_ALMOST_ADDRESSES = st.builds("{}@{}".format, _PART, _DOMAIN)


def test_any_text_is_an_address_or_is_refused() -> None:
    outcomes: set[str] = set()

    @settings(deadline=None, max_examples=300, derandomize=True)  # the machine may be busy
    @given(_ALMOST_ADDRESSES | st.text(max_size=300))
    def check(text: str) -> None:
        try:
            address = normalise_email(text)
        except Unacceptable:
            outcomes.add("refused")
            return
        outcomes.add("taken")
        assert address.isascii()
        assert len(address) <= 254
        assert normalise_email(address) == address

    check()
    assert outcomes == {"refused", "taken"}


@pytest.mark.parametrize(("length", "accepted"), [(9, False), (10, True), (128, True), (129, False)])
def test_passwords_have_10_to_128_characters(length: int, accepted: bool) -> None:
    if accepted:
        assert len(new_password("가" * length)) == length
        return
    with pytest.raises(Unacceptable) as refused:
        new_password("가" * length)
    assert refused.value.metadata == {"field": "password"}


def test_a_password_is_the_same_from_every_keyboard() -> None:
    composed, decomposed = "비밀번호입니다요네네", "비밀번호입니다요네네"
    assert new_password(decomposed) == new_password(composed)


_BASE64URL = f"{string.ascii_letters}{string.digits}-_"


@settings(deadline=None, max_examples=60)  # the machine may be busy
@given(st.text(_BASE64URL, min_size=64, max_size=64))
def test_a_refresh_token_has_one_spelling(text: str) -> None:
    assert RefreshToken.decode(text).encode() == text


@settings(deadline=None, max_examples=60)  # the machine may be busy
@given(st.text(max_size=80) | st.text(_BASE64URL, max_size=63) | st.text(_BASE64URL, min_size=65, max_size=80))
def test_no_made_up_refresh_token_is_read(text: str) -> None:
    with pytest.raises(SessionEnded):
        RefreshToken.decode(text)


@pytest.mark.parametrize("stray", ["+", "/", "=", " ", "\n", "가"])
@pytest.mark.parametrize("position", [0, 31, 63])
def test_a_refresh_token_with_another_character_is_refused(stray: str, position: int) -> None:
    text = RefreshToken.first().encode()
    with pytest.raises(SessionEnded):
        RefreshToken.decode(text[:position] + stray + text[position + 1 :])


def test_rotation_keeps_the_session_and_changes_the_secret() -> None:
    first = RefreshToken.first()
    following = RefreshToken.decode(first.encode()).rotated()
    assert following.session_id == first.session_id
    assert following.digest != first.digest
