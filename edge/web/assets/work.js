// A worker that does the work of a challenge: finds the number behind which the SHA-256 of "<challenge>.<number>" begins
// with so many zero bits. Our own SHA-256, since that of the browser costs a promise for each hash, and is missing
// where the page was not loaded over HTTPS.

const PRIMES = [];
for (let candidate = 2; PRIMES.length < 64; candidate++) {
  if (PRIMES.every((prime) => candidate % prime)) PRIMES.push(candidate);
}
const fraction = (value) => Math.floor((value - Math.floor(value)) * 2 ** 32) >>> 0;
const K = Uint32Array.from(PRIMES, (prime) => fraction(Math.cbrt(prime)));
const START = Uint32Array.from(PRIMES.slice(0, 8), (prime) => fraction(Math.sqrt(prime)));
const w = new Uint32Array(64);

const right = (x, n) => (x >>> n) | (x << (32 - n));

/** Digests one block of 16 words into `state`. */
function compress(state, words, at) {
  for (let i = 0; i < 16; i++) w[i] = words[at + i];
  for (let i = 16; i < 64; i++) {
    const low = right(w[i - 15], 7) ^ right(w[i - 15], 18) ^ (w[i - 15] >>> 3);
    const high = right(w[i - 2], 17) ^ right(w[i - 2], 19) ^ (w[i - 2] >>> 10);
    w[i] = w[i - 16] + low + w[i - 7] + high;
  }
  let [a, b, c, d, e, f, g, h] = state;
  for (let i = 0; i < 64; i++) {
    const one = (h + (right(e, 6) ^ right(e, 11) ^ right(e, 25)) + ((e & f) ^ (~e & g)) + K[i] + w[i]) | 0;
    const two = ((right(a, 2) ^ right(a, 13) ^ right(a, 22)) + ((a & b) ^ (a & c) ^ (b & c))) | 0;
    h = g; g = f; f = e; e = (d + one) | 0; d = c; c = b; b = a; a = (one + two) | 0;
  }
  [a, b, c, d, e, f, g, h].forEach((word, i) => (state[i] += word));
}

/** The SHA-256 of an ASCII text, as eight words. */
export function sha256(text) {
  const words = new Uint32Array(((text.length + 8) >> 6) * 16 + 16);
  for (let i = 0; i < text.length; i++) words[i >> 2] |= text.charCodeAt(i) << (24 - (i & 3) * 8);
  words[text.length >> 2] |= 0x80 << (24 - (text.length & 3) * 8);
  words[words.length - 1] = text.length * 8;
  const state = START.slice();
  for (let at = 0; at < words.length; at += 16) compress(state, words, at);
  return state;
}

function zeroBits(digest) {
  const first = digest.findIndex((word) => word !== 0);
  return first < 0 ? 256 : first * 32 + Math.clz32(digest[first]);
}

/** The answer to a challenge. */
export function solve(challenge, difficulty) {
  for (let number = 0; ; number++) {
    const answer = `${challenge}.${number}`;
    if (zeroBits(sha256(answer)) >= difficulty) return answer;
  }
}

self.onmessage = ({ data }) => self.postMessage(solve(data.challenge, data.difficulty));
