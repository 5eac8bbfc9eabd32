"""`python -m services.queue` runs the service."""

from services.common import lifecycle
from services.common.settings import load
from services.queue.settings import QueueSettings
from services.queue.wiring import wire


def main() -> None:
    """Runs until it is told to stop."""
    settings = load(QueueSettings)

    async def start(process: lifecycle.Lifecycle) -> None:
        await wire(process, settings)

    lifecycle.run("queue", settings, start)


if __name__ == "__main__":
    main()
