// GPT-2 with int8 weights: the same integers, scales and roundings as convmodel's compiled layers.

import { choose } from "./sampling.js";

const LARGEST_WEIGHT = 127;
const LARGEST = 2 * LARGEST_WEIGHT ** 2; // integer of an activation
const PIECE = 1024; // inputs whose products are summed in 32 bits
const HALF_EVEN = 1.5 * 2 ** 52; // adding and subtracting it rounds to the nearest integer
const SLICE = 4 * 2 ** 20; // characters of base64 that are decoded at a time
const TYPES = { Float32Array, Int16Array, Int8Array, Uint16Array, Uint32Array };

/** Lets the browser do other things. Not a timer, which would wait for milliseconds. */
export function pause() {
  return new Promise((resolve) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => { port1.close(); resolve(); };
    port2.postMessage(null);
  });
}

/**
 * Decodes arrays of numbers.
 * @param {string} text base64
 * @param {[string, string, number][]} list the name, the type and the length of each array
 * @returns {Promise<Object>} the arrays by name
 */
export async function readArrays(text, list) {
  const bytes = new Uint8Array(list.reduce((sum, [, type, length]) => sum + TYPES[type].BYTES_PER_ELEMENT * length, 0));
  let place = 0;
  for (let begin = 0; begin < text.length; begin += SLICE) {
    const part = atob(text.slice(begin, begin + SLICE));
    for (let index = 0; index < part.length; index += 1) bytes[place + index] = part.charCodeAt(index);
    place += part.length;
    await pause();
  }
  place = 0;
  return Object.fromEntries(list.map(([name, type, length]) => {
    const array = new TYPES[type](bytes.buffer, place, length);
    place += array.byteLength;
    return [name, array];
  }));
}

/**
 * A linear layer with int8 weights; activations are rounded to integers of up to 15 bits, and sums are exact.
 * Four weights are read at a time, as one word, since reading takes longer than multiplying.
 */
export class Int8Linear {
  constructor(arrays, name, inputs) {
    const rows = arrays[name];
    this.words = new Int32Array(rows.buffer, rows.byteOffset, rows.length / 4);
    this.scales = arrays[`${name}.scales`];
    this.columns = arrays[`${name}.columns`];
    this.scaled = new Float32Array(inputs);
    this.bias = arrays[`${name}.bias`] ?? new Float32Array(this.scales.length);
    this.largest = Math.min(Math.floor((2 ** 31 - 1) / LARGEST_WEIGHT / Math.min(inputs, PIECE)), LARGEST);
    this.integers = new Int32Array(rows.length / this.scales.length); // rows are filled up with zeros
    this.results = new Float32Array(this.scales.length);
  }

  /** Multiplies activations by the scales of columns, and rounds them; returns their scale. */
  round(values) {
    const { integers, largest, scaled, columns } = this;
    let peak = 0;
    for (let i = 0; i < values.length; i += 1) {
      scaled[i] = values[i] * columns[i];
      peak = Math.max(peak, Math.abs(scaled[i]));
    }
    const inverse = peak > 0 ? Math.fround(largest / peak) : 0;
    for (let i = 0; i < values.length; i += 1) integers[i] = Math.fround(scaled[i] * inverse) + HALF_EVEN - HALF_EVEN;
    return Math.fround(peak / largest);
  }

  /** Returns the product with activations, which the next call overwrites. */
  multiply(values) {
    const { words, integers, results } = this;
    const stride = integers.length / 4;
    const scale = this.round(values);
    // Two rows at a time read each activation once; the last two may overlap with those before.
    for (let next = 0; next < results.length; next += 2) {
      const row = Math.min(next, results.length - 2);
      let sumA = 0;
      let sumB = 0;
      for (let begin = 0; begin < integers.length; begin += PIECE) {
        const end = Math.min(begin + PIECE, integers.length);
        let a = 0;
        let b = 0;
        let at = row * stride + begin / 4;
        for (let i = begin; i < end; i += 4, at += 1) {
          const u = words[at];
          const v = words[at + stride];
          const x0 = integers[i];
          const x1 = integers[i + 1];
          const x2 = integers[i + 2];
          const x3 = integers[i + 3];
          a = (a + Math.imul(u << 24 >> 24, x0) + Math.imul(u << 16 >> 24, x1) + Math.imul(u << 8 >> 24, x2) + Math.imul(u >> 24, x3)) | 0;
          b = (b + Math.imul(v << 24 >> 24, x0) + Math.imul(v << 16 >> 24, x1) + Math.imul(v << 8 >> 24, x2) + Math.imul(v >> 24, x3)) | 0;
        }
        sumA += a;
        sumB += b;
      }
      this.store(row, sumA, scale);
      this.store(row + 1, sumB, scale);
    }
    return results;
  }

  store(row, sum, scale) {
    this.results[row] = Math.fround(Math.fround(sum) * Math.fround(scale * this.scales[row])) + this.bias[row];
  }
}

/** A layer norm. */
class LayerNorm {
  constructor(arrays, name, epsilon) {
    this.weight = arrays[`${name}.weight`];
    this.bias = arrays[`${name}.bias`];
    this.epsilon = epsilon;
    this.results = new Float32Array(this.weight.length);
  }

  /** Returns normed values, which the next call overwrites. */
  apply(values) {
    const { length } = values;
    let [sum, squares] = [0, 0];
    for (let i = 0; i < length; i += 1) sum += values[i];
    const mean = sum / length;
    for (let i = 0; i < length; i += 1) squares += (values[i] - mean) ** 2;
    const factor = 1 / Math.sqrt(squares / length + this.epsilon);
    for (let i = 0; i < length; i += 1) this.results[i] = (values[i] - mean) * factor * this.weight[i] + this.bias[i];
    return this.results;
  }
}

/** One layer with the keys and values of all positions. */
class Block {
  constructor(arrays, number, { width, heads, positions, epsilon }) {
    const name = `h.${number}`;
    const linear = (part, inputs) => new Int8Linear(arrays, `${name}.${part}`, inputs);
    this.attentionNorm = new LayerNorm(arrays, `${name}.ln_1`, epsilon);
    this.queryKeyValue = linear("attn.c_attn", width);
    this.attentionOutput = linear("attn.c_proj", width);
    this.mlpNorm = new LayerNorm(arrays, `${name}.ln_2`, epsilon);
    this.up = linear("mlp.c_fc", width);
    this.down = linear("mlp.c_proj", this.up.results.length);
    Object.assign(this, { width, heads, size: width / heads });
    this.keys = new Float32Array(positions * width);
    this.values = new Float32Array(positions * width);
    this.scores = new Float64Array(positions);
    this.attended = new Float32Array(width);
  }

  /** Updates the hidden state of a position. */
  apply(hidden, position) {
    const states = this.queryKeyValue.multiply(this.attentionNorm.apply(hidden));
    this.keys.set(states.subarray(this.width, 2 * this.width), position * this.width);
    this.values.set(states.subarray(2 * this.width), position * this.width);
    for (let head = 0; head < this.heads; head += 1) this.attend(states, head * this.size, position);
    add(hidden, this.attentionOutput.multiply(this.attended));
    const activations = this.up.multiply(this.mlpNorm.apply(hidden));
    for (let i = 0; i < activations.length; i += 1) activations[i] = gelu(activations[i]);
    add(hidden, this.down.multiply(activations));
  }

  /** Attends to all positions up to this one, with the head whose values begin at `begin`. */
  attend(states, begin, position) {
    const { keys, values, scores, attended, width, size } = this;
    let [peak, total] = [-Infinity, 0];
    for (let other = 0; other <= position; other += 1) {
      let sum = 0;
      for (let i = 0, at = other * width + begin; i < size; i += 1, at += 1) sum += states[begin + i] * keys[at];
      scores[other] = sum / Math.sqrt(size);
      peak = Math.max(peak, scores[other]);
    }
    for (let other = 0; other <= position; other += 1) {
      scores[other] = Math.exp(scores[other] - peak);
      total += scores[other];
    }
    attended.fill(0, begin, begin + size);
    for (let other = 0; other <= position; other += 1) {
      const weight = scores[other] / total;
      for (let i = begin, at = other * width + begin; i < begin + size; i += 1, at += 1) attended[i] += weight * values[at];
    }
  }
}

function add(sums, values) {
  for (let i = 0; i < sums.length; i += 1) sums[i] += values[i];
}

/** The tanh approximation of GELU. */
const gelu = (x) => x / (1 + Math.exp(-1.5957691216057308 * (x + 0.044715 * x * x * x)));

/** A GPT-2, with the tokens that it has read. */
export class Model {
  constructor(shape, arrays) {
    this.arrays = arrays;
    this.hidden = new Float32Array(shape.width);
    this.blocks = Array.from({ length: shape.layers }, (_, number) => new Block(arrays, number, shape));
    this.norm = new LayerNorm(arrays, "ln_f", shape.epsilon);
    this.head = new Int8Linear(arrays, arrays.lm_head ? "lm_head" : "wte", shape.width);
    this.positions = shape.positions;
    this.ids = [];
    this.types = [];
  }

  /** Reads one token more; a type is the row of the token embedding that is added, or null. */
  read(id, type) {
    const position = this.ids.length;
    this.hidden.fill(0);
    this.embed("wte", id);
    this.embed("wpe", position);
    if (type !== null) this.embed("wte", type);
    for (const block of this.blocks) block.apply(this.hidden, position);
    this.ids.push(id);
    this.types.push(type);
  }

  embed(name, row) {
    const [rows, scales, { hidden }] = [this.arrays[name], this.arrays[`${name}.scales`], this];
    const [scale, columns] = [scales[row], this.arrays[`${name}.columns`]];
    for (let i = 0, at = row * rows.length / scales.length; i < hidden.length; i += 1, at += 1) {
      hidden[i] += Math.fround(Math.fround(rows[at] * scale) * (columns?.[i] ?? 1)); // positions have none
    }
  }

  /** Returns the logits after the last token, which the next call overwrites. */
  logits() {
    return this.head.multiply(this.norm.apply(this.hidden));
  }

  /** Forgets all tokens from the first that is not in a prompt, whose last one is always read again. */
  keepPrefix(ids, types) {
    let length = 0;
    while (length < ids.length - 1 && this.ids[length] === ids[length] && this.types[length] === types[length]) length += 1;
    this.ids.length = this.types.length = length;
  }
}

/**
 * Yields the tokens of a response as `{ id }`, and before them `{ read }`, the part of the prompt that has been read.
 * The browser can do other things after each; a caller that stops early ends the response.
 * @param {Model} model
 * @param {{ids: number[], types: (number|null)[]}} prompt
 * @param {Object} options the sampling of `choose`, and `newTokens`, `leastTokens`, `stopIds`
 */
export async function* generate(model, { ids, types }, { newTokens, leastTokens = 1, stopIds, ...sampling }) {
  model.keepPrefix(ids, types);
  for (let place = model.ids.length; place < ids.length; place += 1) {
    model.read(ids[place], types[place]);
    await pause();
    yield { read: (place + 1) / ids.length };
  }
  for (let count = 0; count < newTokens; count += 1) {
    const logits = model.logits();
    if (count < leastTokens) for (const id of stopIds) logits[id] = -Infinity;
    const id = choose(logits, sampling);
    if (stopIds.includes(id)) return;
    yield { id };
    await pause();
    if (count < newTokens - 1) model.read(id, types.at(-1));
  }
}
