// The seats: the best ones by a number, or one's own choice on the map. Both need nothing but a keyboard.

import { call, callOnce } from "../api.js";
import { clock, countdown, h, show } from "../dom.js";
import { count, money, t } from "../i18n.js";

const REFRESH_MS = 2000;
const INDEX_BITS = 2 ** 20; // ticket_id = event_id * 2^20 + index; numbers, since ids pass 32 bits

export async function seatsView({ state, go, signal, fail }) {
  const base = `/api/events/${state.event.event_id}`;
  const [{ seat_map: map }, availability] = await Promise.all([
    call("GET", `${base}/seatmap`, { signal }), call("GET", `${base}/availability`, { signal }),
  ]);
  const limit = state.event.tickets_per_person;
  const chosen = new Set();
  let taken = bits(availability.taken);

  const reserve = async (what) => {
    try {
      const body = { event_id: state.event.event_id, ...what };
      const headers = { "X-Admission-Token": state.admission.admission_token };
      const reservation = await callOnce("POST", "/api/tickets/reserve", { body, headers });
      await go("pay", { ...state, bookingId: reservation.booking_id, map });
    } catch (problem) {
      if (problem.code === "ADMISSION_INVALID") return go("line", { event: state.event });
      chosen.clear();
      await refresh();
      fail(problem);
    }
  };

  const hold = h("button", { type: "button", class: "primary large", disabled: true, text: t("hold_seats", 0),
    onclick: () => reserve({ ticket_ids: [...chosen].sort((a, b) => a - b).map((i) => state.event.event_id * INDEX_BITS + i) }) });
  const seatButtons = new Map();
  const plan = h("div", { class: "plan" });
  const left = h("strong", { text: count(availability.seats_left) });

  const mark = () => {
    for (const [index, button] of seatButtons) {
      const isTaken = taken(index) && !chosen.has(index);
      button.disabled = isTaken;
      button.setAttribute("aria-pressed", chosen.has(index));
      button.setAttribute("aria-label", `${button.dataset.name}, ${t(isTaken ? "taken" : chosen.has(index) ? "chosen" : "free")}`);
    }
    hold.disabled = chosen.size === 0;
    hold.textContent = t("hold_seats", chosen.size);
  };
  const toggle = (index) => {
    if (chosen.has(index)) chosen.delete(index);
    else if (chosen.size < limit) chosen.add(index);
    else fail({ code: "TICKET_LIMIT", message: t("too_many", limit) });
    mark();
  };
  const refresh = async () => {
    const now = await call("GET", `${base}/availability`, { signal });
    taken = bits(now.taken);
    left.textContent = count(now.seats_left);
    mark();
  };
  const drawSection = (id) => {
    seatButtons.clear();
    plan.replaceChildren(...sectionPlan(map.sections.find((section) => section.section_id === id), seatButtons, toggle));
    mark();
  };

  const seated = map.sections.filter((section) => section.rows?.length);
  const time = h("strong", { role: "timer" });
  show(
    h("p", { class: "muted", text: state.event.name }),
    h("h1", { text: t("seats_title") }),
    h("p", { class: "facts" }, `${t("admission_left")} `, time, ` · ${t("seats_left")} `, left),
    bestForm(map, limit, reserve),
    seated.length ? h("section", {},
      h("h2", { text: t("on_map") }),
      h("label", {}, t("section"),
        h("select", { onchange: (event) => drawSection(event.target.value) }, seated.map((section) => option(section, map)))),
      h("p", { class: "stage", "aria-hidden": "true", text: t("stage") }),
      plan, hold) : null,
  );
  if (seated.length) drawSection(seated[0].section_id);

  const stop = countdown(state.admission.admission_expire_time, (seconds) => (time.textContent = clock(seconds)),
    () => go("line", { event: state.event }));
  const timer = setInterval(() => refresh().catch(() => {}), REFRESH_MS);
  signal.addEventListener("abort", () => { stop(); clearInterval(timer); });
}

/** Base64 bitmap → whether the seat of an index is taken (first bit of the first byte = index 0). */
function bits(base64) {
  const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
  return (index) => Boolean((bytes[index >> 3] ?? 0) & (0x80 >> (index & 7)));
}

function option(section, map) {
  const tier = map.price_tiers.find((each) => each.price_tier_id === section.price_tier_id);
  return h("option", { value: section.section_id, text: `${section.name} · ${money(tier.price)}` });
}

function bestForm(map, limit, reserve) {
  const submit = (event) => {
    event.preventDefault();
    const form = new FormData(event.target);
    const wanted = { quantity: Number(form.get("quantity")) };
    if (form.get("section")) wanted.section = form.get("section");
    reserve({ best_available: wanted });
  };
  const numbers = Array.from({ length: limit }, (_, i) => h("option", { value: i + 1, text: String(i + 1), selected: i === 1 }));
  return h("form", { class: "best", onsubmit: submit },
    h("h2", { text: t("best") }),
    h("label", {}, t("quantity"), h("select", { name: "quantity" }, numbers)),
    h("label", {}, t("section"),
      h("select", { name: "section" }, h("option", { value: "", text: t("any_section") }), map.sections.map((s) => option(s, map)))),
    h("button", { class: "primary", text: t("find") }));
}

function sectionPlan(section, seatButtons, toggle) {
  return section.rows.map((row) => {
    const seats = Array.from({ length: row.seat_count }, (_, offset) => {
      const index = row.first_index + offset;
      const accessible = row.accessible_indexes?.includes(index);
      const name = `${t("seat", section.name, row.name, offset + 1)}${accessible ? " ♿" : ""}`;
      const button = h("button", { type: "button", class: accessible ? "seat accessible" : "seat", "data-name": name, title: name,
        onclick: () => toggle(index) });
      seatButtons.set(index, button);
      return button;
    });
    return h("div", { class: "row", role: "group", "aria-label": t("row", row.name) },
      h("span", { class: "row-name", "aria-hidden": "true", text: row.name }), seats);
  });
}
