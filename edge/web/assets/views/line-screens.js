// What the line shows, one screen for each thing that a person may have to know; numbers in them move by `update`.

import { announce, announceCalmly, clock, countdown, h, show } from "../dom.js";
import { count, t, time, when } from "../i18n.js";
import { laneText, oddsText, waitText } from "../words.js";
import { verification } from "./verify.js";

const eventName = ({ event }) => h("p", { class: "muted", text: event.name });
const leaveButton = (leave) => h("button", { type: "button", class: "quiet", text: t("leave"), onclick: leave });
const facts = (...names) =>
  h("dl", {}, names.map((name) => h("div", {}, h("dt", { text: t(name) }), h("dd", { id: name, text: "–" }))));
const spinner = () => h("p", { class: "spinner", "aria-hidden": "true" });
const note = () => h("p", { id: "note", class: "note", hidden: true });
const big = (label, content) => h("p", { class: "place" }, h("span", { class: "label", text: t(label) }), content);

/** Counts down to a moment in an element, while this screen is shown. */
function counting(moment, signal) {
  const left = h("strong", { role: "timer" });
  const stop = countdown(moment, (seconds) => (left.textContent = clock(seconds)), () => {});
  signal.addEventListener("abort", stop);
  return left;
}

export const SCREENS = {
  draw: ({ place, state, line, leave, signal }) => {
    show(
      eventName(state),
      h("h1", { text: t("draw_title") }),
      big("entrants", h("strong", { id: "entrants" })),
      h("dl", {},
        h("div", {}, h("dt", { text: t("opens_at") }), h("dd", { text: when(state.event.sale_open_time) })),
        h("div", {}, h("dt", { text: t("opens_in") }), h("dd", {}, counting(state.event.sale_open_time, signal)))),
      note(),
      h("p", { text: t("draw_lead") }),
      h("p", { text: t("line_lead") }),
      verification({ line, place, open: true }),
      leaveButton(leave));
    announce(t("draw_title"));
  },

  drawing: ({ place, state, line, leave }) => {
    show(eventName(state), h("h1", { text: t("drawing_title") }), spinner(), h("p", { text: t("drawing_lead") }),
      note(), verification({ line, place }), leaveButton(leave));
    announce(t("drawing_title"));
  },

  waiting: ({ place, state, line, leave }) =>
    show(
      eventName(state),
      h("h1", { text: t("line_title") }),
      h("p", { class: "place" },
        h("span", { class: "label", text: t("position") }), h("strong", { id: "position" }),
        h("span", { id: "lane", class: "lane", hidden: true })),
      note(),
      facts("ahead", "waiting", "wait_range", "seats_left"),
      h("p", { id: "odds", class: "note", hidden: true }),
      h("p", { text: t("line_lead") }),
      verification({ line, place }),
      leaveButton(leave)),

  again: ({ place, state, rejoin, leave, signal }) => {
    show(
      eventName(state),
      h("h1", { text: t("again_title") }),
      h("p", { text: t("again_lead", time(place.call_again_time)) }),
      big("again_in", counting(place.call_again_time, signal)),
      note(),
      h("button", { type: "button", class: "primary large", text: t("call_me_now"), onclick: rejoin }),
      leaveButton(leave));
    announce(t("again_title"));
  },

  called: ({ place, state, claim, signal }) => {
    show(
      eventName(state),
      h("h1", { text: t("your_turn") }),
      h("p", { text: t("claim_lead") }),
      big("time_left", counting(place.claim_expire_time, signal)),
      h("button", { type: "button", class: "primary large", text: t("book_now"), onclick: claim }));
    announce(t("your_turn"));
  },

  over: ({ place, state, go }) => {
    const title = t(place.sale_state === "SOLD_OUT" ? "sold_out" : "closed");
    show(
      eventName(state),
      h("h1", { text: title }),
      h("p", { text: t(place.sale_state === "SOLD_OUT" ? "sold_out_lead" : "closed_lead") }),
      h("button", { type: "button", class: "primary", text: t("back"), onclick: () => go("events") }));
    announce(title);
  },

  ended: ({ place, state, go, rejoin }) => {
    const title = t({ DONE: "done", LEFT: "left" }[place.state] ?? "missed");
    show(
      eventName(state),
      h("h1", { text: title }),
      h("p", { text: t("join_again_lead") }),
      h("button", { type: "button", class: "primary", text: t("join_again"), onclick: rejoin }),
      h("button", { type: "button", class: "quiet", text: t("back"), onclick: () => go("events") }));
    announce(title);
  },
};

/** Shows why joining takes a while. */
export function showBusy({ kind, until, state, signal }) {
  const timer = kind === "crowded" ? big("retry_in", counting(until, signal)) : spinner();
  show(eventName(state), h("h1", { text: t(kind) }), h("p", { text: t(`${kind}_lead`) }), timer);
  announce(t(kind));
}

const NOTES = { SCHEDULED: "not_open_yet", HELD: "held", RESTORING: "restoring", DRAWING: "not_open_yet" };
// How long these last cannot be foreseen, and is not in the range.
const PAUSES = new Set(["HELD", "RESTORING"]);
let spokenNote = "";
let spokenPosition = Infinity;

/** Moves the numbers of a screen. */
export function update(kind, place) {
  const total = people(place.total_waiting);
  if (kind === "draw") set("entrants", total);
  if (kind === "waiting") {
    set("position", place.position ? count(place.position) : "–");
    set("ahead", people(place.ahead));
    set("waiting", total);
    set("wait_range", PAUSES.has(place.sale_state) ? t("after_pause", waitText(place)) : waitText(place));
    set("seats_left", place.seats_left === undefined ? "–" : count(place.seats_left));
    reveal("lane", laneText(place));
    reveal("odds", oddsText(place));
    speakPosition(place);
  }
  document.title = kind === "waiting" ? `${count(place.position)} · Boxoffice` : kind === "called" ? `★ ${t("your_turn")}` : "Boxoffice";
  showNote(kind, place);
}

function showNote(kind, place) {
  // Before the draw the screen itself says that the sale is not open.
  const name = kind === "draw" && place.sale_state === "SCHEDULED" ? undefined : NOTES[place.sale_state];
  const text = name && kind !== "drawing" ? t(name) : "";
  if (document.getElementById("note")) reveal("note", text);
  if (text && text !== spokenNote) announce(text);
  spokenNote = text;
}

/** Read aloud when the line has halved, and each of the last places; not every step. */
function speakPosition({ position, eta_p90_seconds: most, eta_p10_seconds: least }) {
  if (position > spokenPosition / 2 && position > 10 && position <= spokenPosition) return;
  if (position === spokenPosition) return;
  spokenPosition = position;
  const wait = waitText({ eta_p10_seconds: least, eta_p90_seconds: most });
  announceCalmly(`${t("position")} ${count(position)}, ${t("wait_range")} ${wait}`);
}

const people = (number) => `${count(number)} ${t("people")}`.trim();
const set = (id, text) => (document.getElementById(id).textContent = text);

function reveal(id, text) {
  const element = document.getElementById(id);
  element.hidden = !text;
  if (text && element.textContent !== text) element.textContent = text;
}
