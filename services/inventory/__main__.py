"""`python -m services.inventory` serves the API, `… worker` runs the worker, `… seed` puts an event on sale.

`… audit` compares MySQL, Redis and payments; `… replay-dead-letters` gives the worker what it had put aside.
"""

import argparse
import asyncio
import sys
from collections.abc import Awaitable, Callable

from services.common import lifecycle
from services.common.settings import load
from services.inventory import audit_command, seed
from services.inventory.settings import AuditSettings, InventorySettings, SeedSettings
from services.inventory.wiring import replay_dead_letters, wire_api, wire_worker


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m services.inventory", description=__doc__)
    commands = parser.add_subparsers(dest="command")
    commands.add_parser("worker", help="make reservations durable, expire, complete, relay")
    seed.add_arguments(commands.add_parser("seed", help="put an event on sale and print its id"))
    audit_command.add_arguments(
        commands.add_parser("audit", help="print what must not be; exit status 1 if anything is")
    )
    commands.add_parser("replay-dead-letters", help="move commands that were put aside back to their topic")
    return parser


def main() -> None:
    """Does what the command line says."""
    arguments = _parser().parse_args()
    match arguments.command:
        case "seed":
            event_id = asyncio.run(seed.seed(load(SeedSettings), arguments))
            sys.stdout.write(f"{event_id}\n")
        case "audit":
            sys.exit(audit_command.main_audit(load(AuditSettings), arguments))
        case "replay-dead-letters":
            moved = asyncio.run(replay_dead_letters(load(InventorySettings)))
            sys.stdout.write(f"{moved} records moved\n")
        case "worker":
            _serve("inventory-worker", wire_worker)
        case _:
            _serve("inventory", wire_api)


def _serve(name: str, wire: Callable[[lifecycle.Lifecycle, InventorySettings], Awaitable[int]]) -> None:
    settings = load(InventorySettings)

    async def start(process: lifecycle.Lifecycle) -> None:
        await wire(process, settings)

    lifecycle.run(name, settings, start)


if __name__ == "__main__":
    main()
