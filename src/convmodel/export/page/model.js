// A language model with the tokens that it has read, and how it generates.

import { Block, Int8Linear, Norm, Rotary } from "./layers.js";
import { choose } from "./sampling.js";

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

/** A GPT-2 or a Llama; which arrays exist decides what is computed. */
export class Model {
  constructor(shape, arrays) {
    this.arrays = arrays;
    this.hidden = new Float32Array(shape.width);
    this.rotary = arrays.frequencies ? new Rotary(arrays.frequencies) : null;
    this.blocks = Array.from({ length: shape.layers }, (_, number) => new Block(arrays, `layers.${number}`, shape, this.rotary));
    this.norm = new Norm(arrays, "norm", shape.epsilon);
    this.head = new Int8Linear(arrays, arrays.head ? "head" : "embedding", shape.width);
    this.ids = [];
    this.types = [];
  }

  /** Reads one token more; a type is the row of the token embedding that is added, or null. */
  read(id, type) {
    const position = this.ids.length;
    this.hidden.fill(0);
    this.embed("embedding", id);
    if (this.arrays.positions) this.embed("positions", position);
    if (type !== null) this.embed("embedding", type);
    this.rotary?.moveTo(position);
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
