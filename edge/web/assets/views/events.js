// What is on sale.

import { call } from "../api.js";
import { h, show } from "../dom.js";
import { count, money, t, when } from "../i18n.js";

export async function eventsView({ enter, signal }) {
  history.replaceState(null, "", "/");
  const { events } = await call("GET", "/api/events", { signal });
  show(
    h("h1", { text: t("events") }),
    events.length ? h("ul", { class: "cards" }, events.map((event) => card(event, enter))) : h("p", { text: t("no_events") }),
  );
}

function card(event, enter) {
  const price = event.price_from ? `${money(event.price_from)} ${t("from_price")}` : "";
  return h("li", {},
    h("h2", { text: event.name }),
    h("p", { text: `${event.venue} · ${when(event.start_time)}` }),
    h("p", { class: "muted", text: `${t("opens_at")} ${when(event.sale_open_time)} · ${count(event.seats_total)} ${t("seats")} · ${price}` }),
    h("button", { type: "button", class: "primary", text: t("choose"), onclick: () => enter(event) }),
  );
}
