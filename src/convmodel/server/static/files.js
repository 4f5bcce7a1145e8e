// The file format of conversations: lines of `convmodel import` and `convmodel fit`, here with all branches.

import * as tree from "./tree.js";

const PINNED = ["system", "developer", "persona"];

/** Returns the shown branch of a conversation as one line, with all of it under `chat_page`; "" if it is empty. */
export function toLine(talk) {
  const whole = tree.stored(talk);
  const turns = tree.path(whole);
  if (!turns.length) return "";
  const all = [...whole.pinned, ...turns];
  const { id, started_at } = whole.record ?? {};
  const weights = all.map(({ weight }) => weight ?? 1);
  return `${JSON.stringify({
    id,
    turns: all.map(({ text }) => text),
    speakers: all.map(({ speaker }) => speaker),
    pinned: whole.pinned.length || undefined,
    weights: weights.some((weight) => weight !== 1) ? weights : undefined,
    started_at,
    chat_page: whole,
  })}\n`;
}

/**
 * Reads the conversations of a file: lines of JSON, or one JSON value.
 * @returns {{records: {talk: Object|null, pinned: Object[], turns: Object[]}[], bad: {line: number, why: string}[]}} `talk` is what
 *   `chat_page` holds
 */
export function read(text) {
  const records = [];
  const bad = [];
  values(text).forEach(({ line, value, why }) => {
    try {
      if (why) throw new Error(why);
      records.push(recordOf(value));
    } catch (error) {
      bad.push({ line, why: error.message });
    }
  });
  return { records, bad };
}

function values(text) {
  const whole = parse(text);
  const isList = Array.isArray(whole.value) && whole.value.length && whole.value.every((each) => Array.isArray(each) || each?.turns || each?.messages);
  if (isList) return whole.value.map((value, index) => ({ line: index + 1, value }));
  if (!whole.why) return [{ line: 1, ...whole }];
  return text.split(/\r?\n/).map((line, index) => ({ line: index + 1, text: line })).filter(({ text }) => text.trim())
    .map(({ line, text }) => ({ line, ...parse(text) }));
}

function parse(text) {
  try {
    return { value: JSON.parse(text) };
  } catch {
    return { why: "not valid JSON" };
  }
}

function recordOf(value) {
  const list = Array.isArray(value) ? value : value?.turns ?? value?.messages ?? judged(value);
  if (!Array.isArray(list)) throw new Error("neither turns nor messages");
  if (!list.length) throw new Error("no turns");
  const turns = list.map((item, index) => turnOf(item, index, value));
  const isPinned = (turn) => PINNED.includes(turn.speaker);
  const first = turns.findIndex((turn) => !isPinned(turn));
  const pinned = value.turns ? value.pinned ?? 0 : first < 0 ? turns.length : first;
  if (!Number.isInteger(pinned) || pinned < 0 || pinned >= turns.length) throw new Error("no turns after the pinned ones");
  const record = { id: value.id, started_at: value.started_at };
  return { talk: value.chat_page ? imported(value.chat_page) : null, pinned: turns.slice(0, pinned), turns: turns.slice(pinned), record };
}

/** Reads a whole conversation, perhaps with the versions of another server's model. */
function imported(value) {
  const talk = tree.read(value);
  for (const turn of Object.values(talk.turns)) delete turn.version;
  return talk;
}

/** Returns the turns of a judgement, with its good or else its bad response; nothing of another object. */
function judged(value) {
  const content = value?.chosen ?? value?.rejected;
  return Array.isArray(value?.context) && content ? [...value.context, { role: value.responder ?? "assistant", content }] : undefined;
}

function turnOf(item, index, value) {
  const { role = ["user", "assistant"][index % 2], content, weight = value.weights?.[index] } = typeof item === "string"
    ? { role: value.speakers?.[index], content: item } : item ?? {};
  if (typeof role !== "string" || !role.trim() || typeof content !== "string") throw new Error(`turn ${index + 1} needs a speaker and a text`);
  if (!content.trim()) throw new Error(`turn ${index + 1} is empty`);
  return { speaker: role, text: content, ...(typeof weight === "number" ? { weight } : {}) };
}

/**
 * Adds what was read to the conversations, without doubles: what a conversation has already, in any branch, is not added
 * again, and all branches of `chat_page` are added to the conversation they belong to.
 * @param {(talk: Object) => string|null} keep stores a conversation; returns an error message, or null
 * @returns {{added: Object[], changed: Object[], present: Object[], unstored: Object[]}} the conversations
 */
export function merge(records, talks, keep) {
  const result = { added: [], changed: [], present: [], unstored: [] };
  const made = new Map(); // by their texts
  const store = (talk, list) => (keep(talk) ? result.unstored : list).push(talk);
  for (const { talk, ...record } of records) {
    const own = talk ? [...talks, ...result.added].find(({ id }) => id === talk.id)
      : talks.find((each) => holds(each, record)) ?? made.get(texts(record));
    if (!own) {
      const added = talk ?? make(record);
      graft(added, record.turns);
      made.set(texts(record), added);
      store(added, result.added);
    } else if (tree.has(own, record.turns) && !(talk && tree.exceeds(talk, own))) result.present.push(own);
    else {
      tree.merge(own, talk);
      graft(own, record.turns);
      store(own, result.changed);
    }
  }
  return result;
}

const texts = ({ pinned, turns = [] }) => JSON.stringify([pinned, turns].map((part) => part.map(({ speaker, text }) => [speaker, text])));
const holds = (talk, { pinned, turns }) => tree.has(talk, turns) && texts({ pinned: talk.pinned }) === texts({ pinned });

/** Creates an empty conversation for what was read. The model speaks for `assistant`, else for the second speaker. */
function make({ pinned, turns, record }) {
  const speakers = [...new Set(turns.map(({ speaker }) => speaker))];
  const them = speakers.includes("assistant") ? "assistant" : speakers[1] ?? "assistant";
  const me = speakers.find((speaker) => speaker !== them);
  const talk = Object.assign(tree.make(), { pinned, title: tree.titleOf(turns[0].text) });
  if (me && (me !== "user" || them !== "assistant")) talk.names = { me, them };
  if (record.id !== undefined || record.started_at !== undefined) talk.record = record;
  return talk;
}

function graft(talk, turns) {
  const roles = Object.fromEntries(Object.values(talk.turns).map(({ speaker, role }) => [speaker, role]));
  const roleOf = (speaker) => roles[speaker] ?? (speaker === (talk.names?.them ?? "assistant") ? "assistant" : "user");
  tree.graft(talk, turns.map((turn) => ({ ...turn, role: roleOf(turn.speaker) })));
}
