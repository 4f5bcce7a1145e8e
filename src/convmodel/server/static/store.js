// Conversations in the browser's storage, which all tabs share.

import * as tree from "./tree.js";

const PREFIX = "convmodel.talk.";
const LATE = 5000; // ms within which another tab may store a conversation again that it does not yet know to be deleted

/** Returns a storage of the browser, or one that lasts as long as the page if the browser does not allow it. */
function open(kind) {
  try {
    window[kind].getItem("");
    return window[kind];
  } catch {
    const items = new Map();
    return {
      getItem: (key) => items.get(key) ?? null,
      setItem: (key, value) => items.set(key, value),
      removeItem: (key) => items.delete(key),
      get length() { return items.size; },
      key: (index) => [...items.keys()][index],
      isTemporary: true,
    };
  }
}

/** The storage of this browser, and that of this tab. */
export const local = open("localStorage");
export const session = open("sessionStorage");

/** What this tab stores while a view is open, so that a reload opens it again: of Train, where the user is in it. */
export const [IMPROVE, TRAIN] = ["convmodel.improve", "convmodel.train"];

const known = new Set(); // ids of conversations that were stored, and not deleted since
const deleted = new Map(); // ids of conversations that this tab has deleted, and when

/** Returns all conversations, the newest first, and how many entries cannot be read. */
export function all() {
  const talks = [];
  let damaged = 0;
  for (let index = 0; index < local.length; index += 1) {
    const name = local.key(index);
    if (!name.startsWith(PREFIX)) continue;
    const talk = find(name.slice(PREFIX.length));
    if (talk) talks.push(talk);
    else damaged += 1;
  }
  return { talks: talks.sort((one, other) => other.updated - one.updated), damaged };
}

function find(id, text = local.getItem(PREFIX + id)) {
  try {
    const talk = tree.read(JSON.parse(text));
    if (talk.id !== id) return null;
    known.add(id);
    return talk;
  } catch {
    return null;
  }
}

/** Stores a conversation, with what other tabs have stored of it meanwhile; returns an error message, or null. */
export function keep(talk) {
  const other = find(talk.id);
  if (other) tree.merge(talk, other);
  else if (known.has(talk.id)) return "This conversation was deleted in another tab, and is no longer stored: export it to keep it.";
  try {
    local.setItem(PREFIX + talk.id, JSON.stringify(tree.stored(talk)));
    known.add(talk.id);
    return null;
  } catch {
    return "The browser's storage is full, and the newest turns are not stored: export conversations, and delete some.";
  }
}

/** Deletes a conversation. */
export function forget(talk) {
  known.delete(talk.id);
  deleted.set(talk.id, Date.now());
  local.removeItem(PREFIX + talk.id);
}

/** Allows a conversation to be stored that another tab has deleted: it was imported. */
export function restore(talk) {
  known.delete(talk.id);
}

/** Calls `changed` with each conversation that another tab stores, and `removed` with the id of each deleted one. */
export function listen({ changed, removed }) {
  window.addEventListener("storage", ({ key, newValue }) => {
    if (key === null) [...known].forEach(removed);
    if (!key?.startsWith(PREFIX)) return;
    const id = key.slice(PREFIX.length);
    if (newValue === null) removed(id);
    else if (Date.now() - (deleted.get(id) ?? 0) < LATE) local.removeItem(key);
    else {
      const talk = find(id, newValue);
      if (talk) changed(talk);
    }
  });
}
