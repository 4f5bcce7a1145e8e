// Text to token ids and back, as Python's tokenizer does it: byte-level BPE with GPT-2's split into words.

/** Returns the byte that each character of a byte-level vocabulary stands for. */
function bytesOfCharacters() {
  const bytes = new Map();
  let others = 256;
  for (let byte = 0; byte < 256; byte += 1) {
    const isPrintable = (byte > 32 && byte < 127) || (byte > 160 && byte !== 173);
    bytes.set(String.fromCharCode(isPrintable ? byte : others), byte);
    if (!isPrintable) others += 1;
  }
  return bytes;
}

/** Returns ranges of characters such as "41-5a,61-7a" as the inside of a class in a regular expression. */
const inClass = (ranges) => ranges.replace(/[0-9a-f]+/g, "\\u{$&}").replaceAll(",", "");

/** Returns the regular expression of words; the classes are Python's, since those of browsers differ. */
function wordsOf({ letters, numbers, spaces }) {
  const [letter, number, space] = [letters, numbers, spaces].map(inClass);
  return new RegExp(
    `'s|'t|'re|'ve|'m|'ll|'d| ?[${letter}]+| ?[${number}]+| ?[^${space}${letter}${number}]+|[${space}]+(?![^${space}])|[${space}]+`, "gu");
}

/** Some vocabularies, such as SmolLM2's, have no token for rare bytes; Python leaves these out. */
const isId = (id) => id !== undefined;

/** Encodes and decodes text; no text becomes a control token. */
export class Tokenizer {
  /**
   * @param {(string|null)[]} tokens the text of each id; null for one that is never text
   * @param {ArrayLike<number>} merges the ids of the two parts of each merge, one after the other
   * @param {Object} classes ranges of letters, numbers and spaces
   */
  constructor(tokens, merges, classes) {
    const bytes = bytesOfCharacters();
    const ids = new Map(tokens.map((token, id) => [token, id]));
    this.words = wordsOf(classes);
    this.size = tokens.length;
    this.byteIds = [];
    for (const [character, byte] of bytes) this.byteIds[byte] = ids.get(character);
    // A token with other characters was added to the vocabulary as it is.
    const encoder = new TextEncoder();
    const bytesOf = (token) => ([...token].every((each) => bytes.has(each)) ? [...token].map((each) => bytes.get(each)) : encoder.encode(token));
    this.tokenBytes = tokens.map((token) => (token === null ? [] : bytesOf(token)));
    this.ranks = new Map();
    this.results = [];
    for (let rank = 0; rank < merges.length / 2; rank += 1) {
      const [left, right] = [merges[2 * rank], merges[2 * rank + 1]];
      this.ranks.set(left * this.size + right, rank);
      this.results.push(ids.get(tokens[left] + tokens[right]));
    }
  }

  /** Returns the ids of a text; halves of surrogate pairs become replacement characters. */
  encode(text) {
    const encoder = new TextEncoder();
    const whole = new TextDecoder("utf-8", { ignoreBOM: true }).decode(encoder.encode(text));
    const words = whole.match(this.words) ?? [];
    return words.flatMap((word) => this.merge(Array.from(encoder.encode(word), (byte) => this.byteIds[byte]).filter(isId)));
  }

  /** Merges neighbours, those of the first merge first, until there is no merge for any. */
  merge(ids) {
    const rank = (place) => this.ranks.get(ids[place] * this.size + ids[place + 1]) ?? Infinity;
    const ranks = ids.map((_, place) => rank(place));
    for (;;) {
      let best = 0;
      for (let place = 1; place < ranks.length; place += 1) if (ranks[place] < ranks[best]) best = place;
      if (!(ranks[best] < Infinity)) return ids;
      ids.splice(best, 2, this.results[ranks[best]]);
      ranks.splice(best, 1);
      ranks[best] = rank(best);
      if (best) ranks[best - 1] = rank(best - 1);
    }
  }

  /** Returns the text of ids, without control tokens. */
  decode(ids) {
    const bytes = Uint8Array.from(ids.flatMap((id) => [...this.tokenBytes[id] ?? []]));
    return new TextDecoder("utf-8", { ignoreBOM: true }).decode(bytes);
  }

  /** Returns the text of ids without bytes at its end that are not yet a whole character. */
  decodeWhole(ids) {
    return this.decode(ids).replace(/\uFFFD+$/, "");
  }
}
