// What a person carries: the proof of a place, which outlives this page and the line itself, a pass for a lane, and what
// was promised of the draw.

import { account } from "./api.js";

const placeKey = (eventId) => `boxoffice.place.${account()?.user_id}.${eventId}`;
const promiseKey = (eventId) => `boxoffice.commitment.${eventId}`;
const passKey = (eventId) => `boxoffice.lane_pass.${eventId}`;

/** The proof of this account's place in the line of an event, or null. */
export function keptPlace(eventId) {
  return localStorage.getItem(placeKey(eventId));
}

/** Keeps the proof; null forgets it. */
export function keepPlace(eventId, signedPlace) {
  if (signedPlace) localStorage.setItem(placeKey(eventId), signedPlace);
  else localStorage.removeItem(placeKey(eventId));
}

/** The commitment of an event's draw as this browser saw it first, before the opening; or null. */
export function keptCommitment(eventId) {
  return localStorage.getItem(promiseKey(eventId));
}

/** Keeps the first one for ever: another one later is what it is kept for. */
export function keepCommitment(eventId, commitment) {
  if (!keptCommitment(eventId)) localStorage.setItem(promiseKey(eventId), commitment);
}

/** The pass that brought the person here, until it was used. */
export function lanePass(eventId) {
  return sessionStorage.getItem(passKey(eventId));
}

/** Takes the pass out of the address of the page, so that nobody copies it with a link; it waits for the join. */
export function takeLanePass() {
  const link = new URLSearchParams(location.search);
  const pass = link.get("lane_pass");
  if (pass === null) return;
  if (pass && link.get("event")) sessionStorage.setItem(passKey(link.get("event")), pass);
  link.delete("lane_pass");
  history.replaceState(null, "", link.size ? `/?${link}` : "/");
}

/** The pass was used, or opens nothing. */
export function dropLanePass(eventId) {
  sessionStorage.removeItem(passKey(eventId));
}
