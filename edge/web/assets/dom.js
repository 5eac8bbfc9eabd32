// The few things that the pages need from the DOM.

import { serverNow } from "./api.js";

/**
 * Makes an element. Properties that start with "on" are listeners, "text" is its text, the rest are attributes
 * (false and null leave an attribute out).
 */
export function h(name, properties = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (value === false || value === null || value === undefined) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key === "text") element.textContent = value;
    else element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

/** Shows a view in place of the last one and moves the focus to its heading, so that screen readers follow. */
export function show(...content) {
  const main = document.getElementById("main");
  main.replaceChildren(...content);
  const heading = main.querySelector("h1");
  if (heading) {
    heading.tabIndex = -1;
    heading.focus({ preventScroll: true });
  }
  window.scrollTo(0, 0);
}

const ANNOUNCE_EVERY_MS = 10_000;
let announcedAt = -Infinity;
let latest = null;
let later = null;

/** Tells screen readers something that the eye sees change by itself, at once: a turn, an outcome. */
export function announce(message) {
  clearTimeout(later);
  later = latest = null;
  announcedAt = performance.now();
  document.getElementById("announcer").textContent = message;
}

/** The same for what moves all the time: nobody is spoken to more often than every ten seconds. The latest counts. */
export function announceCalmly(message) {
  latest = message;
  const pause = announcedAt + ANNOUNCE_EVERY_MS - performance.now();
  if (later === null) later = setTimeout(() => announce(latest), Math.max(0, pause));
}

/** Calls `tick(seconds left)` each second until `time`, then `done()`. Answers a function that stops it. */
export function countdown(time, tick, done) {
  const step = () => {
    const left = Math.max(0, Math.ceil((new Date(time) - serverNow()) / 1000));
    tick(left);
    if (left === 0) {
      clearInterval(timer);
      done();
    }
  };
  const timer = setInterval(step, 1000);
  step();
  return () => clearInterval(timer);
}

/** 75 → "1:15", 3675 → "1:01:15". */
export function clock(seconds) {
  const two = (number) => String(number).padStart(2, "0");
  const [hours, minutes] = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60];
  return hours ? `${hours}:${two(minutes)}:${two(seconds % 60)}` : `${minutes}:${two(seconds % 60)}`;
}
