// Answers what the line asks of newcomers while bots are about.

/** Answers a challenge beside the page, which stays alive meanwhile. Throws a kind that this page does not know. */
export function answer({ challenge, kind, difficulty }, signal) {
  if (kind !== "proof_of_work") throw new Error(`a challenge of an unknown kind: ${kind}`);
  const worker = new Worker("/assets/work.js", { type: "module" });
  return new Promise((found, failed) => {
    worker.onmessage = ({ data }) => found(data);
    worker.onerror = (event) => failed(new Error(event.message));
    signal.addEventListener("abort", () => failed(signal.reason));
    worker.postMessage({ challenge, difficulty: Number(difficulty) });
  }).finally(() => worker.terminate());
}
