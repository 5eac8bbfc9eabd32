"""Runs the edge: python -m edge."""

from edge import app
from edge.settings import settings_for
from edge.transcode import contract
from services.common.lifecycle import Lifecycle, run
from services.common.settings import load


def main() -> None:
    """Reads the contract, then the settings that it asks for, and serves until a signal."""
    served = contract.load(contract.read_descriptors())
    settings = load(settings_for(app.backends_of(served)))

    async def wire(lifecycle: Lifecycle) -> None:
        await app.wire(lifecycle, settings, served)

    run("edge", settings, wire)


if __name__ == "__main__":
    main()
