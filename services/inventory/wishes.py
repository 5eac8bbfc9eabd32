"""What someone wants to reserve, and what must be true of it before Redis is asked."""

from dataclasses import dataclass
from datetime import datetime

from services.common.errors import InvalidArgument
from services.common.keyring import AdmissionToken, ForgedToken, KeyRing
from services.inventory import domain, records
from services.inventory.catalog import Sale


@dataclass(frozen=True, slots=True)
class Wish:
    """These tickets, or the best `quantity` ones (of a section, unless it is "")."""

    user_id: int
    event_id: int
    ticket_ids: tuple[int, ...]
    quantity: int
    section: str
    idempotency_key: str
    admission_token: str
    traceparent: str

    @property
    def booking_id(self) -> str:
        """The booking that it becomes, or has become."""
        return domain.booking_id_for(self.user_id, self.event_id, self.idempotency_key)

    @property
    def request_hash(self) -> bytes:
        """Tells a repeat from another request with the same key."""
        return domain.hash_of_request(self.event_id, self.ticket_ids, self.quantity, self.section)

    @property
    def seat_indexes(self) -> tuple[int, ...]:
        """The named seats, ascending."""
        return tuple(sorted(map(domain.seat_of_ticket, self.ticket_ids)))


def check_admission(wish: Wish, keys: KeyRing) -> AdmissionToken:
    """What the wish's token proves: that queue let this account in to this event, until when is not looked at.

    Raises AdmissionRequired, AdmissionInvalid.
    """
    if not wish.admission_token:
        raise domain.AdmissionRequired
    try:
        token = AdmissionToken.decode(keys, wish.admission_token)
    except ForgedToken:
        raise domain.AdmissionInvalid from None
    if (token.user_id, token.event_id) != (wish.user_id, wish.event_id):
        raise domain.AdmissionInvalid
    return token


def check_shape(wish: Wish) -> None:
    """Raises InvalidArgument unless it is either 1 to 8 different tickets or a quantity of 1 to 8."""
    if bool(wish.ticket_ids) == bool(wish.quantity):
        raise InvalidArgument("ticket_ids", "exactly one of ticket_ids and best_available is needed")
    field = "ticket_ids" if wish.ticket_ids else "best_available.quantity"
    if not 1 <= (len(wish.ticket_ids) or wish.quantity) <= domain.MAX_TICKETS:
        raise InvalidArgument(field, f"1 to {domain.MAX_TICKETS} tickets can be reserved at once")
    if len(set(wish.ticket_ids)) != len(wish.ticket_ids):
        raise InvalidArgument(field, "a ticket is named twice")


def check_sale(wish: Wish, sale: Sale, admission: AdmissionToken, now: datetime) -> None:
    """Raises SaleNotOpen, SaleClosed, AdmissionInvalid (it has ended), InvalidArgument, TicketNotFound."""
    sale.event.check_on_sale(now)
    if admission.expire_time_ms <= records.to_ms(now):
        raise domain.AdmissionInvalid
    if wish.section and wish.section not in sale.seat_map.section_ids:
        raise InvalidArgument("best_available.section", "there is no such section")
    for ticket in wish.ticket_ids:
        if domain.event_of_ticket(ticket) != wish.event_id or not sale.seat_map.has(domain.seat_of_ticket(ticket)):
            raise domain.TicketNotFound
