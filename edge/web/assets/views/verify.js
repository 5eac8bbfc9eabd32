// How anybody can check that the draw was fair: what was promised, what came of it, and the person's own number.

import { account, call } from "../api.js";
import { h } from "../dom.js";
import { count, t, when } from "../i18n.js";
import { keepCommitment, keptCommitment } from "../places.js";

const SCORE_BITS = 50;

/** A part of the page that opens to tell it; asked for only then. `line` is the path of the line, `place` the person's. */
export function verification({ line, place, open = false }) {
  const body = h("div", {});
  const details = h("details", { class: "verify" }, h("summary", { text: t("verify") }), body);
  let asked = false;
  details.addEventListener("toggle", () => {
    if (!details.open || asked) return;
    asked = true;
    tell(body, line, place).catch(() => {
      asked = false;
      body.replaceChildren(h("p", { text: t("other_error") }));
    });
  });
  details.open = open;
  return details;
}

async function tell(body, line, place) {
  const draw = await call("GET", `${line}/draw`);
  const held = draw.state === "HELD";
  if (held && !draw.entrant_count) {
    body.replaceChildren(h("p", { text: t("verify_none") }));
    return;
  }
  const drawn = held && place.score > 0 && place.score < 2 ** SCORE_BITS;
  if (draw.state === "OPEN") keepCommitment(place.event_id, draw.commitment);
  const kept = keptCommitment(place.event_id);
  const checks = held ? await check(draw, drawn ? place.score : null) : [];
  const broken = kept !== null && kept !== draw.commitment;
  if (broken) checks.unshift("verify_broken");
  else if (held) checks.push(kept ? "verify_kept" : "verify_unkept");
  body.replaceChildren(
    h("p", { text: t(held ? "verify_held" : "verify_open") }),
    held && !drawn ? h("p", { text: t("verify_late") }) : "",
    h("dl", { class: "proofs" },
      fact("commitment", draw.commitment),
      broken ? fact("kept_commitment", kept) : null,
      held ? ["seed", "list_digest", "draw_key"].map((name) => fact(name, draw[name])) : null,
      drawn ? fact("own_number", count(place.score)) : null,
      held ? fact("closed_at", when(draw.close_time)) : null,
      fact("entrants", count(draw.entrant_count))),
    ...checks.map((name) => h("p", { text: t(name) })),
    h("p", { class: "links" },
      h("button", { type: "button", class: "quiet", text: t("receipt"), onclick: (event) => download(event.target, line) }),
      held ? h("a", { href: `${line}/draw/entrants`, target: "_blank", text: t("entrant_list") }) : null,
      h("a", { href: "/docs#GetDraw", target: "_blank", text: t("verify_docs") })));
}

function fact(name, value) {
  return h("div", {}, h("dt", { text: t(name) }), h("dd", {}, h("code", { text: value })));
}

async function download(button, line) {
  button.disabled = true;
  try {
    const { receipt } = await call("GET", `${line}/me/receipt`);
    const link = h("a", { href: URL.createObjectURL(new Blob([receipt], { type: "text/plain" })), download: "receipt.jws" });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  } catch {
    button.textContent = t("other_error");
  } finally {
    button.disabled = false;
  }
}

const bytes = (hex) => Uint8Array.from(hex.match(/../g) ?? [], (pair) => parseInt(pair, 16));
const hex = (buffer) => Array.from(new Uint8Array(buffer), (byte) => byte.toString(16).padStart(2, "0")).join("");

async function hmac(key, message) {
  const algorithm = { name: "HMAC", hash: "SHA-256" };
  return crypto.subtle.sign(algorithm, await crypto.subtle.importKey("raw", bytes(key), algorithm, false, ["sign"]), message);
}

/** What this browser found true of a draw, and of the number that it gave to this account; null where it gave none. */
async function check(draw, score) {
  // Pages that were not loaded over HTTPS have no cryptography.
  if (!crypto.subtle) return ["verify_unchecked"];
  const promised = hex(await crypto.subtle.digest("SHA-256", bytes(draw.seed))) === draw.commitment;
  const follows = hex(await hmac(draw.seed, bytes(draw.list_digest))) === draw.draw_key;
  if (!promised || !follows) return ["verify_wrong"];
  if (score === null) return ["verify_checked"];
  return ["verify_checked", score === (await ownNumber(draw)) ? "verify_mine" : "verify_not_mine"];
}

/** The number that the draw gives to this account; it orders the line, smallest first. */
async function ownNumber(draw) {
  const digest = hex(await hmac(draw.draw_key, new TextEncoder().encode(String(account().user_id))));
  return Number(BigInt(`0x${digest.slice(0, 16)}`) >> BigInt(64 - SCORE_BITS));
}
