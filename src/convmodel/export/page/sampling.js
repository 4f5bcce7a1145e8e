// Choosing the next token, as transformers does it: temperature, then top-k, then top-p.

/** Returns the index of the largest number, of equal ones the first. */
export function largest(numbers) {
  let best = 0;
  for (let place = 1; place < numbers.length; place += 1) if (numbers[place] > numbers[best]) best = place;
  return best;
}

/**
 * Chooses a token: the most probable one at temperature 0, else a random one.
 * @param {Float32Array} logits
 * @param {{temperature: number, topP: number, topK: number}} sampling a top-k of 0 keeps all tokens
 * @param {() => number} random numbers from 0 to 1
 */
export function choose(logits, { temperature, topP, topK }, random = Math.random) {
  const best = largest(logits);
  if (temperature === 0) return best;
  const weights = new Float64Array(logits.length);
  for (let id = 0; id < logits.length; id += 1) weights[id] = Math.exp((logits[id] - logits[best]) / temperature);
  const least = leastKept(weights, topP, topK);
  let left = random() * sumFrom(weights, least);
  for (let id = 0; id < weights.length; id += 1) {
    if (weights[id] < least) continue;
    left -= weights[id];
    if (left < 0) return id;
  }
  return best; // only after rounding errors
}

/** Returns the smallest weight that is kept: the rare tokens that together have at most 1 - top-p are left out. */
function leastKept(weights, topP, topK) {
  const sorted = weights.slice().sort();
  let place = topK > 0 ? Math.max(0, sorted.length - topK) : 0;
  const rest = (1 - topP) * sumFrom(weights, sorted[place]);
  for (let sum = sorted[place]; sum <= rest && place < sorted.length - 1; sum += sorted[place]) place += 1;
  return sorted[place];
}

function sumFrom(weights, least) {
  let sum = 0;
  for (const weight of weights) if (weight >= least) sum += weight;
  return sum;
}
