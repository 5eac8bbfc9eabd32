"""`python -m services.inventory` serves the API, `… worker` runs the worker, `… seed` puts an event on sale."""

import argparse
import asyncio
import sys

from services.common import lifecycle
from services.common.settings import load
from services.inventory import seed
from services.inventory.settings import InventorySettings, SeedSettings
from services.inventory.wiring import wire_api, wire_worker


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m services.inventory", description=__doc__)
    commands = parser.add_subparsers(dest="command")
    commands.add_parser("worker", help="make reservations durable, expire, complete, relay")
    seed.add_arguments(commands.add_parser("seed", help="put an event on sale and print its id"))
    return parser


def main() -> None:
    """Does what the command line says."""
    arguments = _parser().parse_args()
    if arguments.command == "seed":
        event_id = asyncio.run(seed.seed(load(SeedSettings), arguments))
        sys.stdout.write(f"{event_id}\n")
        return
    settings = load(InventorySettings)
    name, wire = ("inventory-worker", wire_worker) if arguments.command else ("inventory", wire_api)

    async def start(process: lifecycle.Lifecycle) -> None:
        await wire(process, settings)

    lifecycle.run(name, settings, start)


if __name__ == "__main__":
    main()
