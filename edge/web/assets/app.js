// Which view is shown: the steps of one purchase, in order. A deep link (/?event=42) enters where the person stands.

import { account, call, keepSession } from "./api.js";
import { announce, h, show } from "./dom.js";
import { currentLanguage, problemText, switchLanguage, t } from "./i18n.js";
import { takeLanePass } from "./places.js";
import { accountView } from "./views/account.js";
import { eventsView } from "./views/events.js";
import { lineView } from "./views/line.js";
import { payView } from "./views/pay.js";
import { seatsView } from "./views/seats.js";
import { ticketView } from "./views/ticket.js";

const STEPS = ["event", "line", "seats", "pay", "ticket"];
const VIEWS = { events: eventsView, account: accountView, line: lineView, seats: seatsView, pay: payView, ticket: ticketView };
const STEP_OF = { events: "event", account: "line", line: "line", seats: "seats", pay: "pay", ticket: "ticket" };

let current = { view: "events", state: {} };
let leaving = new AbortController();

/** Goes to a view. Its signal aborts when the person goes on, which ends streams and timers. */
async function go(view, state = {}) {
  leaving.abort();
  leaving = new AbortController();
  current = { view, state };
  document.title = "Boxoffice";
  renderFrame();
  try {
    await VIEWS[view]({ state, go, enter, signal: leaving.signal, fail });
  } catch (problem) {
    fail(problem);
  }
}

/** Shows a problem above the view; what the person has typed or chosen stays. */
function fail(problem) {
  if (problem.name === "AbortError") return;
  if (!problem.code) throw problem;
  if (problem.status === 401 && current.view !== "account") {
    keepSession(null);
    go("account", current.state);
    return;
  }
  document.querySelector(".problem")?.remove();
  const text = problemText(problem);
  const note = h("p", { class: "problem", role: "alert", text });
  const main = document.getElementById("main");
  if (main.childElementCount) main.prepend(note);
  else show(h("h1", { text: t("other_error") }), note);
}

function renderFrame() {
  document.documentElement.lang = currentLanguage();
  document.querySelectorAll("[data-text]").forEach((element) => (element.textContent = t(element.dataset.text)));
  document.getElementById("language").textContent = t("other_language");
  document.getElementById("who").textContent = account()?.email ?? "";
  document.getElementById("sign-out").hidden = !account();
  document.getElementById("progress").setAttribute("aria-label", t("progress"));
  const at = STEPS.indexOf(STEP_OF[current.view]);
  document.getElementById("steps").replaceChildren(
    ...STEPS.map((step, number) =>
      h("li", { class: number < at ? "past" : null, "aria-current": number === at ? "step" : null, text: t(`step_${step}`) })),
  );
}

/** Where a person stands with an event: in line, inside, or not yet there. */
async function enter(event) {
  if (!account()) return go("account", { event });
  return go("line", { event });
}

document.getElementById("language").addEventListener("click", () => {
  switchLanguage();
  go(current.view, current.state);
  announce(t("events"));
});
document.getElementById("sign-out").addEventListener("click", async () => {
  await call("POST", "/api/auth/logout", { body: {} }).catch(() => {});
  keepSession(null);
  go("events");
});
document.addEventListener("session", renderFrame);

/** Follows the link of a message: to a booking when it names one, else to the event, where the person stands. */
async function enterFromLink(eventId, bookingId) {
  const { event } = await call("GET", `/api/events/${eventId}`);
  if (!bookingId || !account()) return enter(event);
  const [{ seat_map: map }, { booking }] = await Promise.all([
    call("GET", `/api/events/${eventId}/seatmap`),
    call("GET", `/api/tickets/status?booking_id=${encodeURIComponent(bookingId)}`),
  ]);
  return booking.state === "CONFIRMED" ? go("ticket", { event, map, booking }) : go("pay", { event, map, bookingId });
}

takeLanePass();
const link = new URLSearchParams(location.search);
if (/^\d+$/.test(link.get("event") ?? "")) {
  enterFromLink(link.get("event"), link.get("booking")).catch(() => go("events"));
} else {
  go("events");
}
