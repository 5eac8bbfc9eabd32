"""What can go wrong with the database, in our own words; `mysql.py` is the door to them."""

from collections.abc import Iterator
from contextlib import contextmanager

import pymysql

_CONFLICTS = frozenset({1205, 1213})  # lock wait time-out, deadlock
_DUPLICATE = 1062
# Of the errors that the driver calls operational, those that pass without anybody changing a statement or the schema:
# the server is away, full, stopping, or has cut us off. An unknown column is "operational" too, and never passes.
_AWAY = frozenset(
    {
        *(1021, 1037, 1041, 1114, 1135),  # out of disk, memory, threads, or room in a table
        *(1040, 1129, 1203, 1226),  # too many connections; we are blocked, or beyond our share of them
        *(1042, 1043, 1045),  # connecting was refused; a password that is being changed is refused like a wrong one
        *(1053, 1152, 1317, 1927, 3169, 4031),  # shutting down; our connection or statement was ended
        *(1158, 1159, 1160, 1161),  # packets were lost
        *(1290, 1836),  # read-only: a replica that is about to take over, or has just ceased to be the primary
        *range(2000, 2100),  # told by the driver: cannot connect, lost the connection
    }
)


class DatabaseUnavailable(Exception):
    """The database did not answer, or refused for now. If it happened at commit, the outcome is unknown."""

    reason = "UNAVAILABLE"


class TransactionConflict(Exception):
    """Another transaction was in the way (deadlock or lock time-out); this one was rolled back and can be repeated."""

    reason = "UNAVAILABLE"


class DuplicateKey(Exception):
    """A row with this unique key exists already."""


@contextmanager
def mapped() -> Iterator[None]:
    """Driver errors in the words of this module; mistakes in SQL or schema stay what they are."""
    try:
        yield
    except pymysql.err.IntegrityError as error:
        if error.args[0] == _DUPLICATE:
            raise DuplicateKey(error.args[1]) from error
        raise
    except pymysql.err.OperationalError as error:
        if error.args[0] in _CONFLICTS:
            raise TransactionConflict("another transaction was in the way") from error
        if error.args[0] in _AWAY:
            raise DatabaseUnavailable("the database does not answer") from error
        raise
    except (pymysql.err.InterfaceError, OSError, EOFError) as error:  # TimeoutError is an OSError
        raise DatabaseUnavailable("the database does not answer") from error
