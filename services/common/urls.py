"""URLs of servers, checked as a whole. No error repeats one: it may hold a password, and end in a log."""

import re
from typing import Final
from urllib.parse import urlsplit

_USER: Final = r"(?:[^/?#]*@)?"
_HOST: Final = r"(?:\[[0-9A-Fa-f:.]+\]|[\w.-]+)(?::\d{1,5})?"
_REDIS: Final = re.compile(rf"rediss?://{_USER}{_HOST}(?:/\d*)?(?:\?.*)?")
_MYSQL: Final = re.compile(rf"mysql://{_USER}{_HOST}/[^/?#]+")
_KAFKA: Final = re.compile(rf"kafka://{_HOST}(?:,{_HOST})*")
_ESCAPE: Final = 'where "/", "?" and "#" in a password are spelled %2F, %3F and %23'


def check_redis_url(url: str) -> str:
    """The URL, if it is one of a Redis server. Raises ValueError, without the URL."""
    if not (_REDIS.fullmatch(url) and _can_be_split(url)):
        raise ValueError(f"a Redis URL looks like redis://[user:password@]host:port/number, {_ESCAPE}")
    return url


def check_mysql_url(url: str) -> str:
    """The URL, if it is one of a database. Raises ValueError, without the URL."""
    if not (_MYSQL.fullmatch(url) and _can_be_split(url)):
        raise ValueError(f"a database URL looks like mysql://user:password@host:port/database, {_ESCAPE}")
    return url


def check_event_log_url(url: str) -> str:
    """The URL, if it is one of an event log. Raises ValueError, without the URL."""
    if _KAFKA.fullmatch(url):
        return url
    try:
        return check_redis_url(url)
    except ValueError as error:
        raise ValueError(f"an event log URL looks like kafka://host:port[,host:port], or {error}") from None


def _can_be_split(url: str) -> bool:
    # The standard library quotes what it refuses.
    try:
        return urlsplit(url).port != 0
    except ValueError:
        return False
