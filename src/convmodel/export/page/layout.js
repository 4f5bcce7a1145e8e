// The token layout: the markers around turns, and leaving out the oldest turns. All ids are data from Python.

const [START, RESPONSE] = ["start", "response"];
const SPEAKERS = ["user", "assistant"]; // in the order of their token types

/** Lays out conversations as prompts. */
export class Layout {
  /**
   * @param {Object} facts openings by the role before and the role of a turn; whether there are token types, whether
   *   consecutive turns of a speaker are joined; what is trimmed from texts and put before them, by role
   * @param {(text: string) => number[]} encode
   */
  constructor(facts, encode) {
    Object.assign(this, facts);
    this.encode = encode;
  }

  /** Returns a text without blanks at one end or both, as Python's `strip`, `lstrip` or `rstrip` does. */
  trim(text, method = "strip") {
    let [begin, end] = [0, text.length];
    if (method !== "rstrip") while (begin < end && this.blanks.includes(text[begin])) begin += 1;
    if (method !== "lstrip") while (end > begin && this.blanks.includes(text[end - 1])) end -= 1;
    return text.slice(begin, end);
  }

  /**
   * Returns the prompt for a response to turns: ids, types (null without token types) and how many of the oldest turns were left out.
   * @param {{role: string, text: string}[]} turns
   * @param {number} budget the limit of the prompt in tokens
   * @param {number} spare when turns must be left out, the part of the budget that is freed
   * @returns {{ids: number[], types: (number|null)[], leftOut: number}|null} null if the newest turn does not fit
   */
  prompt(turns, budget, spare) {
    const encoded = this.joined(turns).map(({ role, text, size }) => ({ role, size, ids: this.encodeTurn(role, text) }));
    const opening = this.openings[encoded.at(-1).role][RESPONSE];
    const first = this.firstKept(encoded, budget - opening.length, spare);
    const kept = encoded.slice(first);
    if (!this.canBegin(kept[0])) return null;
    const [ids, types] = [[], []];
    const add = (more, role) => {
      for (const id of more) {
        ids.push(id);
        types.push(this.types ? SPEAKERS.indexOf(role) : null);
      }
    };
    kept.forEach(({ role, ids: text }, place) => add([...this.openings[kept[place - 1]?.role ?? START][role], ...text], role));
    add(opening, "assistant");
    if (ids.length > budget) return null;
    return { ids, types, leftOut: encoded.slice(0, first).reduce((sum, { size }) => sum + size, 0) };
  }

  /** Joins consecutive turns of a speaker, if the layout does. */
  joined(turns) {
    const result = [];
    for (const { role, text } of turns) {
      const last = result.at(-1);
      if (this.joins && last?.role === role) Object.assign(last, { text: `${last.text}\n${text}`, size: last.size + 1 });
      else result.push({ role, text, size: 1 });
    }
    return result;
  }

  encodeTurn(role, text) {
    const trimmed = this.trims[role] ? this.trim(text, this.trims[role]) : text;
    return this.encode((this.leads[role] ?? "") + trimmed);
  }

  /** Returns the text of a response: what its template put in front of it is not part of it. */
  withoutLead(decoded) {
    const lead = this.leads.assistant ?? "";
    return decoded.startsWith(lead) ? decoded.slice(lead.length) : decoded;
  }

  canBegin(turn) {
    return turn.role in this.openings[START];
  }

  /** Returns the index of the first turn in the prompt, as if the conversation had grown turn by turn. */
  firstKept(turns, room, spare) {
    const cost = (place, isFirst) => {
      const before = place === 0 || (isFirst && this.canBegin(turns[place])) ? START : turns[place - 1].role;
      return turns[place].ids.length + (this.openings[before][turns[place].role]?.length ?? 0);
    };
    const length = (first, newest) => {
      let sum = 0;
      for (let place = first; place <= newest; place += 1) sum += cost(place, place === first);
      return sum;
    };
    let first = 0;
    for (let newest = 0; newest < turns.length; newest += 1) {
      const limit = length(first, newest) <= room ? room : room * (1 - spare);
      // The turn before the newest leaves only if it does not fit, not to free spare room.
      const leaves = (used) => used > room || (used > limit && first < newest - 1) || !this.canBegin(turns[first]);
      while (first < newest && leaves(length(first, newest))) first += 1;
    }
    return first;
  }
}
