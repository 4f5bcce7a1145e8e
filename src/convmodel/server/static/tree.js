// A conversation with branches: a tree of turns, and the path through it that is shown.

const random = () => crypto.getRandomValues(new Uint32Array(3)).reduce((text, part) => text + part.toString(36), "");

/** Makes an empty conversation. */
export function make(title = "") {
  const now = Date.now();
  return { id: random(), title, created: now, updated: now, system: "", top: [], at: 0, turns: {} };
}

const brothers = (talk, turn) => (turn.parent ? talk.turns[turn.parent].next : talk.top);
const place = (talk, parent) => (parent ? talk.turns[parent] : talk);

/** Returns the turns that are shown, in order. */
export function path(talk) {
  const found = [];
  let ids = talk.top;
  let at = talk.at;
  while (ids.length) {
    const turn = talk.turns[ids[Math.min(at, ids.length - 1)]];
    found.push(turn);
    ids = turn.next;
    at = turn.at;
  }
  return found;
}

/**
 * Adds a turn after another one, or at the beginning, and shows it.
 * @param {string|null} parent the id of the turn before
 * @param {{role: string, speaker: string, text: string}} turn
 */
export function add(talk, parent, turn) {
  const made = { ...turn, id: random(), parent, next: [], at: 0 };
  talk.turns[made.id] = made;
  const ids = brothers(talk, made);
  ids.push(made.id);
  place(talk, parent).at = ids.length - 1;
  talk.updated = Date.now();
  if (!talk.title && turn.role === "user") talk.title = turn.text.trim().split("\n")[0].slice(0, 60);
  return made;
}

/** Counts the branches after a turn. */
export const after = (talk, parent) => (parent ? talk.turns[parent].next : talk.top).length;

/** Tells which of how many branches a turn is. */
export function branch(talk, turn) {
  const ids = brothers(talk, turn);
  return { number: ids.indexOf(turn.id) + 1, of: ids.length };
}

/** Shows the branch before (-1) or after (+1) a turn. */
export function step(talk, turn, by) {
  const ids = brothers(talk, turn);
  place(talk, turn.parent).at = Math.max(0, Math.min(ids.length - 1, ids.indexOf(turn.id) + by));
}

/** Shows one turn among its branches. */
export function choose(talk, turn) {
  place(talk, turn.parent).at = brothers(talk, turn).indexOf(turn.id);
}

/** Takes a turn, and all that follows it, out of the tree. */
export function remove(talk, turn) {
  const ids = brothers(talk, turn);
  ids.splice(ids.indexOf(turn.id), 1);
  const above = place(talk, turn.parent);
  above.at = Math.max(0, Math.min(above.at, ids.length - 1));
  const drop = (id) => {
    talk.turns[id].next.forEach(drop);
    delete talk.turns[id];
  };
  drop(turn.id);
}

/** Tells whether a conversation contains a text, in its title or in any of its turns. */
export function contains(talk, text) {
  const wanted = text.toLocaleLowerCase();
  const has = (said) => said.toLocaleLowerCase().includes(wanted);
  return has(talk.title) || Object.values(talk.turns).some((turn) => has(turn.text));
}
