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

/** Tells screen readers something that the eye sees change by itself. Use at thresholds, not every second. */
export function announce(message) {
  document.getElementById("announcer").textContent = message;
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

/** 75 → "1:15". */
export function clock(seconds) {
  return `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}`;
}
