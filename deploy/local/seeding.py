"""Gives a new stack something to look at: an event on sale, one with a draw, and an account that may do everything."""

import secrets
import subprocess
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from deploy.local.paths import ROOT
from deploy.local.site import write_private
from deploy.local.stack import Stack

OPERATOR = "operator@boxoffice.example"
_HALL = "theatre"
# Long enough to find the page and join the draw, short enough to wait for it.
_OPENS_IN_SECONDS = 300


class SeedError(Exception):
    """A command of a service failed; the text is what it printed."""


@dataclass(frozen=True)
class Login:
    """An account of this stack only."""

    email: str
    password: str


def run_command(stack: Stack, process: str, arguments: Sequence[str], accepted: Collection[int] = (0,)) -> str:
    """Runs a service's own command (`create-user …`, `seed …`) as that process would run, and returns what it prints.

    Raises:
        SeedError: the command ended with a status that is not accepted.
    """
    spec = stack.specs[process]
    done = subprocess.run(
        [*spec.command(stack.site), *arguments],
        cwd=ROOT,
        env=spec.environment(stack.site),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode not in accepted:
        raise SeedError(f"{process} {' '.join(arguments)} ended with status {done.returncode}:\n{done.stderr.strip()}")
    return done.stdout


def create_operator(stack: Stack) -> Login:
    """Makes the stack's operator account, or finds it made; its password is a secret of the stack's folder."""
    password_file = stack.site.secret("operator-password", lambda: secrets.token_urlsafe(12))
    roles = ["--role", "operator", "--role", "organizer", "--role", "buyer"]
    arguments = ["create-user", "--email", OPERATOR, "--password-file", str(password_file), *roles]
    run_command(stack, "auth", arguments)
    return Login(OPERATOR, password_file.read_text())


def seed_once(stack: Stack) -> Login:
    """Makes the operator and, in a new stack, an event on sale and one that opens later, after a draw.

    A stack that was seeded before is left as it is.
    """
    login = create_operator(stack)
    seeded = stack.site.folder / "seeded"
    if not seeded.exists():
        on_sale = run_command(stack, "inventory", ["seed", "--hall", _HALL])
        later = ["--name", "Boxoffice Draw Night", "--opens-in", str(_OPENS_IN_SECONDS)]
        write_private(seeded, on_sale + run_command(stack, "inventory", ["seed", "--hall", _HALL, *later]))
    return login
