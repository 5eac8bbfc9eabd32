"""`python -m services.queue` runs the service.

`… replay-dead-letters` gives it again what had been put aside; `… verify-draw` needs no service at all.
"""

import argparse
import asyncio
import sys

from services.queue.draw import verify_command


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m services.queue", description=__doc__)
    commands = parser.add_subparsers(dest="command")
    commands.add_parser("replay-dead-letters", help="move records that were put aside back to their topics")
    verify = commands.add_parser("verify-draw", help="verify the draw of an event, and a receipt, as anyone can")
    verify_command.add_arguments(verify)
    return parser


def main() -> None:
    """Does what the command line says; the service runs until it is told to stop."""
    arguments = _parser().parse_args()
    if arguments.command == "verify-draw":
        sys.exit(verify_command.run(arguments))
    _serve(arguments)


def _serve(arguments: argparse.Namespace) -> None:
    # Imported late: who verifies a draw has neither our environment nor our packages.
    from services.common import lifecycle
    from services.common.settings import load
    from services.queue.settings import QueueSettings
    from services.queue.wiring import replay_dead_letters, wire

    settings = load(QueueSettings)
    if arguments.command == "replay-dead-letters":
        moved = asyncio.run(replay_dead_letters(settings))
        sys.stdout.write(f"{moved} records moved\n")
        return

    async def start(process: lifecycle.Lifecycle) -> None:
        await wire(process, settings)

    lifecycle.run("queue", settings, start)


if __name__ == "__main__":
    main()
