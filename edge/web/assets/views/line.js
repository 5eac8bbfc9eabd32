// The line: a place that moves by itself, until it is this person's turn.

import { call, follow } from "../api.js";
import { announce, clock, countdown, h, show } from "../dom.js";
import { count, t } from "../i18n.js";

export async function lineView({ state, go, signal, fail }) {
  const line = `/api/events/${state.event.event_id}/queue`;
  history.replaceState(null, "", `/?event=${state.event.event_id}`);
  let shown = null;

  const claim = async () => {
    try {
      const admission = await call("POST", `${line}/claim`, { body: {} });
      await go("seats", { ...state, admission });
    } catch (problem) {
      fail(problem);
    }
  };
  const leave = async () => {
    await call("DELETE", `${line}/me`).catch(fail);
    await go("events");
  };

  const draw = (place) => {
    const kind = kindOf(place);
    if (kind === "inside") return claim();
    if (kind !== shown) {
      shown = kind;
      SCREENS[kind]({ place, state, go, claim, leave, signal });
    }
    if (kind === "waiting") update(place);
    return kind === "over" || kind === "missed";
  };

  let place;
  try {
    ({ place } = await call("POST", line, { body: {}, signal }));
  } catch (problem) {
    if (problem.code !== "SOLD_OUT" && problem.code !== "SALE_CLOSED") throw problem;
    place = { state: "LEFT", sale_state: problem.code === "SOLD_OUT" ? "SOLD_OUT" : "CLOSED" };
  }
  if (draw(place) === true || signal.aborted) return;
  await follow(`${line}/stream`, signal, (message) => draw(message.place) === true);
}

function kindOf(place) {
  if (place.state === "ADMITTED") return "inside";
  if (place.state === "READY") return "called";
  if (place.sale_state === "SOLD_OUT" || place.sale_state === "CLOSED") return "over";
  return place.state === "WAITING" ? "waiting" : "missed";
}

const SCREENS = {
  waiting: ({ leave, state }) =>
    show(
      h("p", { class: "muted", text: state.event.name }),
      h("h1", { text: t("line_title") }),
      h("p", { class: "place" }, h("span", { class: "label", text: t("position") }), h("strong", { id: "position" })),
      h("dl", {},
        ...["ahead", "waiting", "wait_range", "seats_left"].map((name) =>
          h("div", {}, h("dt", { text: t(name) }), h("dd", { id: name, text: "–" })))),
      h("p", { id: "note", class: "muted" }),
      h("p", { text: t("line_lead") }),
      h("button", { type: "button", class: "quiet", text: t("leave"), onclick: leave })),

  called: ({ place, claim, signal }) => {
    const left = h("strong", { role: "timer" });
    show(
      h("h1", { text: t("your_turn") }),
      h("p", { text: t("claim_lead") }),
      h("p", { class: "place" }, h("span", { class: "label", text: t("time_left") }), left),
      h("button", { type: "button", class: "primary large", text: t("book_now"), onclick: claim }));
    announce(t("your_turn"));
    const stop = countdown(place.claim_expire_time, (seconds) => (left.textContent = clock(seconds)), () => {});
    signal.addEventListener("abort", stop);
  },

  over: ({ place, go }) =>
    show(
      h("h1", { text: t(place.sale_state === "SOLD_OUT" ? "sold_out" : "closed") }),
      h("p", { text: t("sold_out_lead") }),
      h("button", { type: "button", class: "primary", text: t("back"), onclick: () => go("events") })),

  missed: ({ state, go }) =>
    show(
      h("h1", { text: t("missed") }),
      h("button", { type: "button", class: "primary", text: t("join_again"), onclick: () => go("line", state) })),
};

let announcedAt = Infinity;

function update(place) {
  const set = (id, text) => (document.getElementById(id).textContent = text);
  set("position", count(place.position));
  set("ahead", `${count(place.ahead)} ${t("people")}`.trim());
  set("waiting", `${count(place.total_waiting)} ${t("people")}`.trim());
  set("wait_range", waitText(place));
  set("seats_left", place.seats_left === undefined ? "–" : count(place.seats_left));
  set("note", { SCHEDULED: t("not_open_yet"), HELD: t("held") }[place.sale_state] ?? "");
  // Read aloud when the line has halved, not at every step.
  if (place.position <= announcedAt / 2) {
    announcedAt = place.position;
    announce(`${t("position")} ${count(place.position)}`);
  }
}

function waitText({ eta_p50_seconds: half, eta_p90_seconds: most }) {
  if (most < 60) return t("soon");
  return t("minutes", Math.max(1, Math.round(half / 60)), Math.ceil(most / 60));
}
