// What a person carries: the proof of a place, which outlives this page and the line itself, and a pass for a lane.

import { account } from "./api.js";

const placeKey = (eventId) => `boxoffice.place.${account()?.user_id}.${eventId}`;
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
