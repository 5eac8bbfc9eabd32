// The REST API as the pages use it. Everything here could be done with curl.

const TOKENS = "boxoffice.tokens";

/** An RFC 9457 problem; `code` is stable, from the catalogue of reasons. */
export class Problem extends Error {
  constructor(status, body) {
    super(body.detail || body.title || String(status));
    this.status = status;
    // The mesh gateway refuses an expired token by itself, with 401 and no problem document.
    this.code = body.code || (status === 401 ? "TOKEN_EXPIRED" : "UNAVAILABLE");
    this.traceId = body.trace_id;
    this.metadata = body.metadata ?? {};
    this.retryAfterMs = body.retry_after_ms ?? 1000;
  }
}

function stored() {
  return JSON.parse(localStorage.getItem(TOKENS) || "null");
}

/** Keeps who is signed in; null signs out. */
export function keepSession(session) {
  if (session) localStorage.setItem(TOKENS, JSON.stringify(session));
  else localStorage.removeItem(TOKENS);
  document.dispatchEvent(new Event("session"));
}

/** The signed-in account, or null. */
export function account() {
  return stored()?.account ?? null;
}

let renewing = null;

/** Renews the tokens; calls that fail together share one renewal, since a refresh token works once. */
function renew() {
  renewing ??= (async () => {
    const session = stored();
    const spent = JSON.stringify({ refresh_token: session.tokens.refresh_token });
    const headers = { "Content-Type": "application/json" };
    const response = await reach("/api/auth/refresh", { method: "POST", headers, body: spent });
    const body = await response.json().catch(() => ({}));
    if (!response.ok) {
      // Only a refusal ends the session; a server that is away for a moment does not.
      if (response.status === 401) keepSession(null);
      throw new Problem(response.status, body);
    }
    keepSession({ ...session, tokens: body.tokens });
  })().finally(() => (renewing = null));
  return renewing;
}

/** fetch, with a connection that fails told as a problem like every other, and the server's clock noted. */
async function reach(path, options) {
  try {
    const response = await fetch(path, options);
    const date = Date.parse(response.headers.get("Date") ?? "");
    if (date) clockOffset = date - Date.now();
    return response;
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, { code: "UNAVAILABLE" });
  }
}

let clockOffset = 0;

/** Now on the server's clock, in milliseconds: a phone whose clock is off must not lose its seats to a countdown. */
export function serverNow() {
  return Date.now() + clockOffset;
}

async function send(method, path, { body, headers = {}, signal } = {}) {
  const session = stored();
  const all = { ...headers };
  if (session) all.Authorization = `Bearer ${session.tokens.access_token}`;
  if (body !== undefined) all["Content-Type"] = "application/json";
  const response = await reach(path, { method, headers: all, body: body && JSON.stringify(body), signal });
  if (response.ok) return response;
  throw new Problem(response.status, await response.json().catch(() => ({})));
}

async function sendRenewing(method, path, options) {
  try {
    return await send(method, path, options);
  } catch (problem) {
    if (problem.code !== "TOKEN_EXPIRED" || !stored()) throw problem;
    await renew();
    return await send(method, path, options);
  }
}

/** Sends one request and answers its JSON. Throws Problem. */
export async function call(method, path, options) {
  const response = await sendRenewing(method, path, options);
  return response.status === 204 || response.status === 304 ? null : await response.json();
}

const RETRY_PAUSES_MS = [300, 1000, 3000];

/**
 * Sends a request that must take effect once. The key is made once and every repeat carries it, so that a lost answer
 * costs nothing. Only what says "not available" is repeated.
 */
export async function callOnce(method, path, options = {}) {
  const headers = { "Idempotency-Key": crypto.randomUUID(), ...options.headers };
  for (const pause of [...RETRY_PAUSES_MS, null]) {
    try {
      return await call(method, path, { ...options, headers });
    } catch (problem) {
      const again = ["UNAVAILABLE", "DEADLINE_EXCEEDED", "IDEMPOTENCY_IN_PROGRESS"].includes(problem.code);
      if (!again || pause === null) throw problem;
      await sleep(pause);
    }
  }
}

/** Waits; an abort of the signal ends it at once, as an AbortError. */
export function sleep(ms, signal) {
  return new Promise((wake, failed) => {
    signal?.throwIfAborted();
    const timer = setTimeout(wake, ms);
    signal?.addEventListener("abort", () => { clearTimeout(timer); failed(signal.reason); });
  });
}

/**
 * Follows a stream of server-sent events. EventSource cannot send an Authorization header, so the stream is read by
 * hand. Reconnects until `signal` aborts or the server ends the stream after a final state, which `onEvent` tells by
 * answering true. Throws the problems that are ours to solve (4xx), such as PLACE_NOT_FOUND after a loss of the line.
 */
export async function follow(path, signal, onEvent) {
  while (!signal.aborted) {
    try {
      const response = await sendRenewing("GET", path, { headers: { Accept: "text/event-stream" }, signal });
      if (await read(response.body.getReader(), onEvent)) return;
    } catch (problem) {
      if (problem.name === "AbortError") return;
      if (problem.status >= 400 && problem.status < 500) throw problem;
    }
    await sleep(1000 + Math.random() * 1000);
  }
}

async function read(reader, onEvent) {
  const decoder = new TextDecoder();
  let buffer = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return false;
    buffer += decoder.decode(value, { stream: true });
    const events = buffer.split("\n\n");
    buffer = events.pop();
    for (const event of events) {
      const data = event.split("\n").filter((line) => line.startsWith("data:")).map((line) => line.slice(5)).join("");
      if (!data) continue;
      const told = JSON.parse(data);
      if (event.split("\n").includes("event: problem")) throw new Problem(told.status, told);
      if (onEvent(told)) {
        await reader.cancel();
        return true;
      }
    }
  }
}
