"""`python -m services.notify` runs the service."""

from services.common import lifecycle
from services.common.settings import load
from services.notify.settings import NotifySettings
from services.notify.wiring import wire


def main() -> None:
    """Runs until it is told to stop."""
    settings = load(NotifySettings)

    async def start(process: lifecycle.Lifecycle) -> None:
        await wire(process, settings)

    lifecycle.run("notify", settings, start)


if __name__ == "__main__":
    main()
