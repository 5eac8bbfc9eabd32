"""Commands for operators, beside the service."""

import argparse
import sys
from pathlib import Path

from services.auth.domain import Role, UserId, new_password, normalise_email
from services.auth.settings import AccountSettings
from services.auth.store import MIGRATIONS
from services.auth.wiring import open_passwords, registration
from services.common.migrations import migrate
from services.common.mysql import open_database


def parser() -> argparse.ArgumentParser:
    """The command line of `python -m services.auth`."""
    top = argparse.ArgumentParser(prog="python -m services.auth", description="Accounts and sessions of Boxoffice.")
    commands = top.add_subparsers(dest="command", metavar="command")
    create = commands.add_parser(
        "create-user",
        help="make an account, or give an existing one this password and these roles; prints its id",
    )
    create.add_argument("--email", required=True)
    create.add_argument("--role", required=True, action="append", type=Role, choices=list(Role), help="repeatable")
    create.add_argument("--password-file", type=Path, help="without it the password is read from standard input")
    return top


async def create_user(settings: AccountSettings, arguments: argparse.Namespace) -> UserId:
    """Makes or changes an account; the same call again changes nothing. Raises Unacceptable."""
    email = normalise_email(arguments.email)
    password = new_password(_read_password(arguments.password_file))
    passwords = open_passwords(settings)
    try:
        async with open_database(settings.mysql_url) as database:
            await migrate(database, MIGRATIONS)
            return await registration(database, passwords).ensure(email, password, frozenset(arguments.role))
    finally:
        await passwords.close()


def _read_password(file: Path | None) -> str:
    """The first line, so that neither the list of processes nor a shell's history ever shows a password."""
    text = file.read_text(encoding="utf-8") if file else sys.stdin.readline()
    return text.partition("\n")[0].removesuffix("\r")
