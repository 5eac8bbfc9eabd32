"""Ways to reach a device. Each channel is one file; what it must do is said by `Channel`."""

from typing import Protocol

from services.notify.domain import Device, Message


class Channel(Protocol):
    """One way to tell a person something."""

    @property
    def name(self) -> str:
        """How metrics call it."""

    async def send(self, device: Device, message: Message) -> None:
        """Returns when the provider has taken the message.

        Raises:
            DeviceGone: the provider will never reach this device again.
            ProviderFailure: the message was not taken, or it is not known whether it was; trying again is right.
        """
