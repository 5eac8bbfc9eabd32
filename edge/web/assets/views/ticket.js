// The end that people came for.

import { h, show } from "../dom.js";
import { money, t, when } from "../i18n.js";

const INDEX_BITS = 2 ** 20;

/** Names of tickets for people: "Floor, row 3, seat 12". */
export function seatNames(ticketIds, map) {
  return ticketIds.map((id) => seatName(id % INDEX_BITS, map));
}

function seatName(index, map) {
  const section = map.sections.findLast((each) => each.first_index <= index);
  if (section.standing_capacity) return `${section.name} · ${t("standing")}`;
  const row = section.rows.findLast((each) => each.first_index <= index);
  return t("seat", section.name, row.name, index - row.first_index + 1);
}

export function ticketView({ state, go }) {
  const { booking, event, map } = state;
  show(
    h("h1", { text: t("ticket_title") }),
    h("article", { class: "ticket" },
      h("h2", { text: event.name }),
      h("p", { text: `${event.venue} · ${when(event.start_time)}` }),
      h("ul", { class: "seats" }, seatNames(booking.ticket_ids, map).map((text) => h("li", { text }))),
      h("p", { class: "total" }, `${t("total")} `, h("strong", { text: money(booking.amount) })),
      h("p", { class: "muted" }, `${t("booking_number")} `, h("code", { text: booking.booking_id }))),
    h("p", { text: t("ticket_lead") }),
    h("button", { type: "button", class: "quiet", text: t("back"), onclick: () => go("events") }));
}
