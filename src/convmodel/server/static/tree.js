// A conversation with branches: a tree of turns, and the path that is shown.

const LONGEST = 60; // characters of a title
const random = () => crypto.getRandomValues(new Uint32Array(3)).reduce((text, part) => text + part.toString(36), "");

/** Creates an empty conversation. `rev` counts the changes of its title and its pinned turns, and in a turn those of the turn. */
export function make() {
  const now = Date.now();
  return { id: random(), title: "", rev: 0, created: now, updated: now, pinned: [], top: [], at: 0, turns: {} };
}

const owner = (talk, parent) => (parent ? talk.turns[parent] : talk);
const children = (place) => place.top ?? place.next;
const siblings = (talk, turn) => children(owner(talk, turn.parent));

/** Returns the turns that are shown, in order. */
export function path(talk) {
  const turns = [];
  for (let place = talk; children(place).length;) {
    place = talk.turns[children(place)[Math.min(place.at, children(place).length - 1)]];
    turns.push(place);
  }
  return turns;
}

/**
 * Adds a turn after another one, or at the start, and shows it.
 * @param {string|null} parent the id of the turn before
 * @param {{role: string, speaker: string, text: string}} turn
 */
export function add(talk, parent, turn) {
  const added = { ...turn, id: random(), rev: 0, parent, next: [], at: 0 };
  talk.turns[added.id] = added;
  siblings(talk, added).push(added.id);
  choose(talk, added);
  talk.updated = Date.now();
  if (turn.role === "user") talk.title ||= titleOf(turn.text);
  return added;
}

/** Returns the title of a conversation that begins with a text. */
export function titleOf(text) {
  const line = [...text.trim().split("\n")[0]];
  return line.length > LONGEST ? `${line.slice(0, LONGEST).join("").replace(/\s+\S*$/, "")}…` : line.join("");
}

/** Changes fields of a turn, or of the conversation itself; undefined deletes one. */
export function change(place, fields) {
  Object.assign(place, fields);
  for (const key of Object.keys(fields)) if (fields[key] === undefined) delete place[key];
  place.rev += 1;
}

/** Counts the branches after a turn. */
export const after = (talk, parent) => children(owner(talk, parent)).length;

/** Returns the number of a turn's branch, and how many there are. */
export function branch(talk, turn) {
  const ids = siblings(talk, turn);
  return { number: ids.indexOf(turn.id) + 1, of: ids.length };
}

/** Switches to the previous (-1) or next (+1) branch. */
export function step(talk, turn, by) {
  const ids = siblings(talk, turn);
  owner(talk, turn.parent).at = Math.max(0, Math.min(ids.length - 1, ids.indexOf(turn.id) + by));
}

/** Switches to the branch of a turn. */
export function choose(talk, turn) {
  owner(talk, turn.parent).at = siblings(talk, turn).indexOf(turn.id);
}

/** Removes a turn that nothing follows. */
export function remove(talk, turn) {
  const ids = siblings(talk, turn);
  ids.splice(ids.indexOf(turn.id), 1);
  const above = owner(talk, turn.parent);
  above.at = Math.max(0, Math.min(above.at, ids.length - 1));
  delete talk.turns[turn.id];
}

/** Shows the path of some turns from the start, adding those that are missing; returns how many those are. */
export function graft(talk, turns) {
  let parent = null;
  let added = 0;
  for (const turn of turns) {
    let same = find(talk, parent, turn);
    if (same) choose(talk, same);
    else {
      same = add(talk, parent, turn);
      added += 1;
    }
    parent = same.id;
  }
  return added;
}

/** Returns whether some turns from the start are a part of the conversation, in any of its branches. */
export function has(talk, turns) {
  let parent = null;
  return turns.every((turn) => (parent = find(talk, parent, turn)?.id));
}

const find = (talk, parent, { speaker, text }) => children(owner(talk, parent)).map((id) => talk.turns[id])
  .find((turn) => turn.speaker === speaker && turn.text === text);

/**
 * Adds to a conversation what another version of it has, from another tab or a file. Of a turn that both have, the one
 * with more changes stays. Nothing is removed, so that all tabs end with the same turns, in whatever order they merge.
 */
export function merge(talk, other) {
  if (other.rev > talk.rev) Object.assign(talk, { title: other.title, pinned: other.pinned, names: other.names, rev: other.rev });
  talk.updated = Math.max(talk.updated, other.updated);
  for (const turn of Object.values(other.turns)) {
    const own = talk.turns[turn.id];
    if (!own) talk.turns[turn.id] = { ...turn, next: [] };
    else if (!own.streaming && turn.rev > own.rev) {
      const { parent, next, at } = own;
      for (const key of Object.keys(own)) delete own[key];
      Object.assign(own, turn, { parent, next, at });
    }
  }
  for (const place of [other, ...Object.values(other.turns)]) {
    const own = place === other ? talk : talk.turns[place.id];
    const ids = children(own);
    const shown = ids[Math.min(own.at, ids.length - 1)];
    const others = children(place).filter((id) => talk.turns[id].parent === (own === talk ? null : own.id));
    ids.splice(0, ids.length, ...new Set([...others, ...ids]));
    own.at = shown ? ids.indexOf(shown) : place.at;
  }
}

/** Returns whether a conversation has something that another version of it lacks. */
export function exceeds(talk, other) {
  return talk.rev > other.rev || Object.values(talk.turns).some(({ id, rev }) => !(rev <= other.turns[id]?.rev));
}

/** Returns a conversation as it is stored: a turn that is being generated is incomplete, or absent if empty. */
export function stored(talk) {
  const copy = structuredClone(talk);
  for (const turn of Object.values(copy.turns)) {
    if (!turn.text.trim()) remove(copy, turn);
    else if (turn.streaming) turn.partial = true;
    delete turn.streaming;
    delete turn.voting;
  }
  return copy;
}

const KINDS = {
  speaker: "string", text: "string", model: "string", version: "string", whose: "string", reason: "string", rating: "string",
  weight: "number", rev: "number", used: "number", speed: "number", leftOut: "number",
  partial: "boolean", stopped: "boolean", broken: "boolean", corrected: "boolean", edited: "boolean",
};

const checked = (value) => Object.fromEntries(Object.entries(KINDS).filter(([key, kind]) => typeof value[key] === kind).map(([key]) => [key, value[key]]));
const count = (value) => (Number.isInteger(value) && value > 0 ? value : 0);

/**
 * Reads the stored form of a conversation. An empty turn, which earlier versions left after a reload, is replaced by
 * the turns that follow it.
 * @throws if it is damaged
 */
export function read(value) {
  const damaged = () => { throw new Error("its turns are damaged"); };
  const isId = (id) => /^[a-z0-9]{1,64}$/i.test(id);
  if (typeof value?.id !== "string" || !isId(value.id) || typeof value.turns !== "object" || !value.turns) damaged();
  const pinned = value.pinned ?? (value.system ? [{ speaker: "system", text: value.system }] : []);
  const talk = Object.assign(make(), {
    id: value.id, title: String(value.title ?? ""), rev: count(value.rev), created: count(value.created), updated: count(value.updated),
    pinned: pinned.map(checked).filter(({ speaker, text }) => speaker && text),
  });
  if (value.names) talk.names = { me: String(value.names.me), them: String(value.names.them) };
  if (value.record) talk.record = value.record;
  const places = [[value, talk, null]];
  for (const [from, to, parent] of places) {
    const waiting = [...children(from) ?? damaged()];
    while (waiting.length) {
      const id = waiting.shift();
      const turn = Object.hasOwn(value.turns, id) && isId(id) && !talk.turns[id] ? value.turns[id] : damaged();
      const { text, speaker, ...more } = checked(turn);
      if (text === undefined || speaker === undefined) damaged();
      if (!text.trim()) waiting.unshift(...turn.next ?? damaged());
      else {
        talk.turns[id] = { ...more, id, parent, text, speaker, role: turn.role === "assistant" ? "assistant" : "user", rev: count(turn.rev), next: [], at: count(turn.at) };
        if (turn.streaming) talk.turns[id].partial = true;
        children(to).push(id);
        places.push([turn, talk.turns[id], id]);
      }
    }
    to.at = count(from.at);
  }
  return talk;
}

/** Returns whether the title or any turn of a conversation contains a text. */
export function contains(talk, text) {
  const wanted = text.toLocaleLowerCase();
  const has = (value) => value.toLocaleLowerCase().includes(wanted);
  return has(talk.title) || Object.values(talk.turns).some((turn) => has(turn.text));
}
