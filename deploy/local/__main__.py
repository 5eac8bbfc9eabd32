"""`python -m deploy.local up|down|status|setup|googleapis`: the embedded stack for a person at a terminal.

`STACK` names the stack (default `main`), so that a second one can run beside it; `EVENTS` is `kafka` or `redis`.
"""

import argparse
import json
import os
import re
import sys
from collections.abc import Callable, Mapping

from deploy.local import packages, seeding
from deploy.local.packages import PackageError, say
from deploy.local.paths import STACKS
from deploy.local.site import EventLogKind
from deploy.local.stack import Stack, StackError, choose_events


def _name() -> str:
    name = os.environ.get("STACK") or "main"
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", name):
        raise StackError(f"STACK={name}: a name has small letters, digits and dashes only")
    return name


def up() -> None:
    """Starts the stack and leaves it running; prints its URLs and a login."""
    stack = Stack(_name(), events=_events_of_stack())
    stack.up()
    login = seeding.seed_once(stack)
    urls = stack.urls()
    print(f"\nBoxoffice runs (stack {stack.name}, event log: {stack.site.events}).\n")
    print(f"  Buy a ticket   {urls['edge']}/")
    print(f"  Explore REST   {urls['edge']}/docs")
    print(f"  Operator       {login.email}   password: {login.password}")
    print(f"  Logs           {stack.site.log('edge').parent}\n")
    print("`make status` shows every process, `make down` ends them.")


def _events_of_stack() -> EventLogKind:
    """A stack keeps the event log that it began with, since records may wait there."""
    asked = os.environ.get("EVENTS")
    file = STACKS / _name() / "events"
    if not file.exists():
        chosen = choose_events(asked)
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file.write_text(chosen)
        return chosen
    kept: EventLogKind = "redis" if file.read_text() == "redis" else "kafka"
    if asked not in (None, "", kept):
        raise PackageError(f"stack {_name()} began with EVENTS={kept}; `make purge` deletes it, STACK=… names another")
    return kept


def down() -> None:
    """Ends every process of the stack and keeps its data."""
    if not (STACKS / _name()).is_dir():
        say(f"{_name()}: there is no such stack")
        return
    Stack(_name()).down()
    say(f"{_name()}: everything ended; data and logs stay in {STACKS / _name()}")


def purge() -> None:
    """Ends the stack and deletes its data, logs and secrets."""
    if (STACKS / _name()).is_dir():
        Stack(_name()).remove()
    say(f"{_name()}: deleted")


def status() -> None:
    """Prints every process of every stack; exits with status 1 when one of this stack has died."""
    described = {file.parent.name: json.loads(file.read_text()) for file in STACKS.glob("*/stack.json")}
    if not described:
        say("nothing runs; `make up` starts a stack")
    dead = [name for stack, text in described.items() for name in _print_status(stack, text) if stack == _name()]
    if dead:
        sys.exit(f"boxoffice: died: {', '.join(dead)}")


def _print_status(stack_name: str, text: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Prints one stack and returns the names of what has died."""
    stack = Stack(stack_name)
    print(f"stack {stack_name} (event log: {text['events']})")
    running = {name: stack.running(name) for name in text["processes"]}
    for name, process in running.items():
        state = f"pid {process.pid}" if process else "DEAD"
        print(f"  {name:<18}{state:<14}{_without_password(text['urls'][name]):<34}{stack.site.log(name)}")
    return [name for name, process in running.items() if process is None]


def _without_password(url: str) -> str:
    scheme, separator, rest = url.rpartition("://")
    return scheme + separator + rest.rpartition("@")[2]


def setup() -> None:
    """Downloads the servers, unless they are there."""
    packages.valkey_server()
    packages.mariadb()
    if choose_events(os.environ.get("EVENTS")) == "kafka":
        packages.kafka()
    say("the servers are there")


def setup_tests() -> None:
    """Downloads the servers and what only tests use: a browser with fonts, and Prometheus."""
    setup()
    for names in (packages.BROWSER, packages.PROMETHEUS):
        packages.debian_packages(names)


COMMANDS: dict[str, Callable[[], object]] = {
    "up": up,
    "down": down,
    "purge": purge,
    "status": status,
    "setup": setup,
    "setup-tests": setup_tests,
    "googleapis": packages.google_protos,
}


def main() -> None:
    """Runs the command named on the command line; failures are told in plain words."""
    parser = argparse.ArgumentParser(prog="python -m deploy.local", description="The embedded stack.")
    parser.add_argument("command", choices=COMMANDS)
    try:
        COMMANDS[parser.parse_args().command]()
    except (PackageError, StackError, seeding.SeedError) as error:
        sys.exit(f"boxoffice: {error}")
    except KeyboardInterrupt:
        sys.exit("boxoffice: interrupted")


if __name__ == "__main__":
    main()
