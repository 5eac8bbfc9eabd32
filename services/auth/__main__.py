"""`python -m services.auth` runs the service; `python -m services.auth create-user …` makes an account."""

import asyncio
import sys

from services.auth.commands import create_user, parser
from services.auth.domain import Unacceptable
from services.auth.settings import AccountSettings, AuthSettings
from services.auth.wiring import wire
from services.common import lifecycle
from services.common.settings import load


def main() -> None:
    """Does what the command line says."""
    arguments = parser().parse_args()
    if arguments.command == "create-user":
        try:
            user_id = asyncio.run(create_user(load(AccountSettings), arguments))
        except Unacceptable as error:
            sys.exit(str(error))
        sys.stdout.write(f"{user_id}\n")
        return
    settings = load(AuthSettings)

    async def start(process: lifecycle.Lifecycle) -> None:
        await wire(process, settings)

    lifecycle.run("auth", settings, start)


if __name__ == "__main__":
    main()
