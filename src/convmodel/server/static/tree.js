// A conversation with branches: a tree of turns, and the path that is shown.

const random = () => crypto.getRandomValues(new Uint32Array(3)).reduce((text, part) => text + part.toString(36), "");

/** Creates an empty conversation. */
export function make(title = "") {
  const now = Date.now();
  return { id: random(), title, created: now, updated: now, system: "", top: [], at: 0, turns: {} };
}

const siblings = (talk, turn) => (turn.parent ? talk.turns[turn.parent].next : talk.top);
const owner = (talk, parent) => (parent ? talk.turns[parent] : talk);

/** Returns the turns that are shown, in order. */
export function path(talk) {
  const turns = [];
  let ids = talk.top;
  let at = talk.at;
  while (ids.length) {
    const turn = talk.turns[ids[Math.min(at, ids.length - 1)]];
    turns.push(turn);
    ids = turn.next;
    at = turn.at;
  }
  return turns;
}

/**
 * Adds a turn after another one, or at the start, and shows it.
 * @param {string|null} parent the id of the turn before
 * @param {{role: string, speaker: string, text: string}} turn
 */
export function add(talk, parent, turn) {
  const added = { ...turn, id: random(), parent, next: [], at: 0 };
  talk.turns[added.id] = added;
  const ids = siblings(talk, added);
  ids.push(added.id);
  owner(talk, parent).at = ids.length - 1;
  talk.updated = Date.now();
  if (!talk.title && turn.role === "user") talk.title = turn.text.trim().split("\n")[0].slice(0, 60);
  return added;
}

/** Counts the branches after a turn. */
export const after = (talk, parent) => (parent ? talk.turns[parent].next : talk.top).length;

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

/** Removes a turn and everything after it. */
export function remove(talk, turn) {
  const ids = siblings(talk, turn);
  ids.splice(ids.indexOf(turn.id), 1);
  const above = owner(talk, turn.parent);
  above.at = Math.max(0, Math.min(above.at, ids.length - 1));
  const drop = (id) => {
    talk.turns[id].next.forEach(drop);
    delete talk.turns[id];
  };
  drop(turn.id);
}

/** Returns whether the title or any turn of a conversation contains a text. */
export function contains(talk, text) {
  const wanted = text.toLocaleLowerCase();
  const has = (value) => value.toLocaleLowerCase().includes(wanted);
  return has(talk.title) || Object.values(talk.turns).some((turn) => has(turn.text));
}
