// From the accepted booking to the money: wait until the seats are ours, pay, wait for the card company.

import { call, callOnce, follow } from "../api.js";
import { announce, clock, countdown, h, show } from "../dom.js";
import { money, t } from "../i18n.js";
import { seatNames } from "./ticket.js";

const CARDS = ["approve", "decline", "late", "timeout"];

export async function payView({ state, go, signal, fail }) {
  let shown = null;

  const draw = ({ booking }) => {
    if (booking.state === "PENDING") return false;
    if (booking.state === "CONFIRMED") {
      go("ticket", { ...state, booking });
      return true;
    }
    if (booking.state !== "RESERVED") {
      ended(booking, state, go);
      return true;
    }
    const kind = booking.payment_state === "PROCESSING" ? "settling" : "form";
    if (kind !== shown) {
      shown = kind;
      if (kind === "settling") settling();
      else form({ booking, state, signal, fail, draw });
    }
    return false;
  };

  show(h("h1", { text: t("holding") }), h("p", { class: "spinner", "aria-hidden": "true" }));
  await follow(`/api/tickets/status/stream?booking_id=${encodeURIComponent(state.bookingId)}`, signal, draw);
}

function settling() {
  show(h("h1", { text: t("pay_title") }), h("p", { text: t("settling") }), h("p", { class: "spinner", "aria-hidden": "true" }));
  announce(t("settling"));
}

function ended(booking, state, go) {
  const { bookingId, ...rest } = state;
  show(
    h("h1", { text: t(booking.state) }),
    h("button", { type: "button", class: "primary", text: t("choose_again"), onclick: () => go("line", { event: rest.event }) }));
}

function form({ booking, state, signal, fail, draw }) {
  const time = h("strong", { role: "timer" });
  const buttons = () => document.querySelectorAll("main button");

  const act = async (path, body) => {
    buttons().forEach((button) => (button.disabled = true));
    try {
      draw(await callOnce("POST", path, { body: { booking_id: booking.booking_id, ...body } }));
    } catch (problem) {
      fail(problem);
    } finally {
      buttons().forEach((button) => (button.disabled = false));
    }
  };
  const pay = (event) => {
    event.preventDefault();
    act("/api/tickets/pay", { payment_method: `tok_${new FormData(event.target).get("card")}` });
  };

  show(
    h("p", { class: "muted", text: state.event.name }),
    h("h1", { text: t("pay_title") }),
    h("p", { text: t("pay_lead") }),
    h("p", { class: "place" }, h("span", { class: "label", text: t("time_left") }), time),
    h("ul", { class: "seats" }, seatNames(booking.ticket_ids, state.map).map((text) => h("li", { text }))),
    h("p", { class: "total" }, `${t("total")} `, h("strong", { text: money(booking.amount) })),
    h("form", { onsubmit: pay },
      h("fieldset", {}, h("legend", { text: t("card") }),
        CARDS.map((card, number) =>
          h("label", { class: "choice" },
            h("input", { type: "radio", name: "card", value: card, checked: number === 0 }), t(`card_${card}`)))),
      h("button", { class: "primary large", text: t("pay", money(booking.amount)) })),
    h("button", { type: "button", class: "quiet", text: t("cancel"), onclick: () => act("/api/tickets/cancel", {}) }));
  const stop = countdown(booking.expire_time, (seconds) => (time.textContent = clock(seconds)), () => {});
  signal.addEventListener("abort", stop);
}
