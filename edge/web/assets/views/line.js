// The line: a place that moves by itself, until it is this person's turn. What is shown is in line-screens.js.

import { call, follow, serverNow, sleep } from "../api.js";
import { answer } from "../challenge.js";
import { dropLanePass, keepPlace, keptPlace, lanePass } from "../places.js";
import { SCREENS, showBusy, update } from "./line-screens.js";

// After a loss of the line everybody comes back at once; nobody's order depends on who is first.
const COME_BACK_WITHIN_MS = 3000;

export async function lineView({ state, go, signal, fail }) {
  const { event_id: eventId } = state.event;
  const line = `/api/events/${eventId}/queue`;
  history.replaceState(null, "", `/?event=${eventId}`);
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
    keepPlace(eventId, null);
    await call("DELETE", `${line}/me`).catch(fail);
    await go("events");
  };
  const rejoin = () => go("line", state);

  /** Shows a place; answers true after the last word about it. */
  const draw = (place) => {
    const kind = kindOf(place);
    if (kind === "inside") {
      claim();
      return true;
    }
    if (kind !== shown) {
      shown = kind;
      SCREENS[kind]({ place, state, line, go, claim, leave, rejoin, signal, fail });
    }
    update(kind, place);
    return kind === "over" || kind === "ended";
  };

  const busy = (why) => {
    shown = null;
    showBusy({ ...why, state, signal });
  };
  const enter = async () => {
    const { place, regret } = await join(line, eventId, signal, busy);
    const over = signal.aborted || draw(place);
    if (regret) fail(regret);
    return over;
  };

  if (await enter()) return;
  while (!signal.aborted) {
    try {
      return await follow(`${line}/stream`, signal, (message) => draw(message.place));
    } catch (problem) {
      if (problem.code !== "PLACE_NOT_FOUND") throw problem;
      // The line was lost. The proof brings us back to our place in it.
      await sleep(500 + Math.random() * COME_BACK_WITHIN_MS, signal);
      if (await enter()) return;
    }
  }
}

/**
 * Takes a place, finds it, or brings it back. Works off what stands in between: a challenge, a crowd, a proof or a pass
 * that is good no more. `busy` shows why it takes a while. Answers the place, and what the person should know about it.
 */
async function join(line, eventId, signal, busy) {
  const attempt = { eventId, signal, busy, answer: null, regret: null };
  for (;;) {
    const [place, pass] = [keptPlace(eventId), lanePass(eventId)];
    const body = {
      ...(place && { signed_place: place }),
      ...(pass && { lane_pass: pass }),
      ...(attempt.answer && { challenge_response: attempt.answer }),
    };
    try {
      const joined = await call("POST", line, { body, signal });
      keepPlace(eventId, joined.signed_place);
      dropLanePass(eventId);
      return { place: joined.place, regret: attempt.regret };
    } catch (problem) {
      const over = { SOLD_OUT: "SOLD_OUT", SALE_CLOSED: "CLOSED" }[problem.code];
      if (over) return { place: { state: "LEFT", sale_state: over } };
      await overcome(problem, attempt);
    }
  }
}

/** Makes the next try possible, or throws what a person has to solve. */
async function overcome(problem, attempt) {
  const { eventId, signal, busy } = attempt;
  if (problem.code === "CHALLENGE_REQUIRED") {
    busy({ kind: "proving" });
    attempt.answer = await answer(problem.metadata, signal);
  } else if (problem.code === "RATE_LIMITED") {
    const pause = problem.retryAfterMs * (1 + Math.random() / 2);
    busy({ kind: "crowded", until: serverNow() + pause });
    await sleep(pause, signal);
  } else if (problem.code === "PLACE_INVALID" && keptPlace(eventId)) {
    keepPlace(eventId, null);
  } else if (problem.code === "LANE_PASS_INVALID" && lanePass(eventId)) {
    dropLanePass(eventId);
    // The general lane is open to everybody; why it is not the other one must be told.
    attempt.regret = problem;
  } else {
    throw problem;
  }
}

function kindOf(place) {
  if (place.state === "ADMITTED") return "inside";
  if (place.state === "READY") return "called";
  if (place.sale_state === "SOLD_OUT" || place.sale_state === "CLOSED") return "over";
  if (place.state !== "WAITING") return "ended";
  if (place.call_again_time) return "again";
  if (place.in_draw) return place.sale_state === "DRAWING" ? "drawing" : "draw";
  return "waiting";
}
