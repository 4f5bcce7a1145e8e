// Conversations in the browser's storage, and their form in files: a line of role/content messages, as `convmodel fit` reads.

import { add, make, path } from "./tree.js";

const PREFIX = "convmodel.talk.";

/** Returns all conversations, the newest first; what cannot be read is left alone. */
export function all() {
  const found = [];
  for (let index = 0; index < localStorage.length; index += 1) {
    const name = localStorage.key(index);
    if (!name.startsWith(PREFIX)) continue;
    try {
      found.push(JSON.parse(localStorage.getItem(name)));
    } catch { /* not ours, or half written by another version */ }
  }
  return found.sort((one, other) => other.updated - one.updated);
}

/** Keeps a conversation; returns what is wrong, if something is. */
export function keep(talk) {
  try {
    localStorage.setItem(PREFIX + talk.id, JSON.stringify(talk));
    return null;
  } catch {
    return "The browser has no more room for conversations: export some and delete them.";
  }
}

/** Forgets a conversation. */
export function forget(talk) {
  localStorage.removeItem(PREFIX + talk.id);
}

/** Writes the shown branch of a conversation as one line; empty if nothing was said. */
export function toLine(talk) {
  const messages = path(talk).filter((turn) => turn.text.trim()).map((turn) => ({ role: turn.speaker, content: turn.text }));
  if (!messages.length) return "";
  if (talk.system) messages.unshift({ role: "system", content: talk.system });
  return `${JSON.stringify({ messages })}\n`;
}

/**
 * Reads lines of conversations.
 * @returns {{talks: Object[], bad: {line: number, why: string}[]}}
 */
export function fromLines(text) {
  const talks = [];
  const bad = [];
  text.split(/\r?\n/).forEach((line, index) => {
    if (!line.trim()) return;
    try {
      talks.push(fromMessages(JSON.parse(line)));
    } catch (error) {
      bad.push({ line: index + 1, why: error instanceof SyntaxError ? "it is no JSON" : error.message });
    }
  });
  return { talks, bad };
}

function fromMessages(given) {
  const messages = Array.isArray(given) ? given.map(plainTurn) : given?.messages;
  if (!Array.isArray(messages) || !messages.length) throw new Error("it has no messages");
  const talk = make();
  let parent = null;
  messages.forEach(({ role, content } = {}, index) => {
    if (typeof role !== "string" || !role.trim() || typeof content !== "string" || !content.trim()) {
      throw new Error(`message ${index + 1} needs a role and a content`);
    }
    if (role === "system" && !parent) {
      talk.system = content;
      return;
    }
    parent = add(talk, parent, { role: role === "assistant" ? "assistant" : "user", speaker: role, text: content }).id;
  });
  if (!parent) throw new Error("nobody says anything");
  talk.title ||= path(talk)[0].text.slice(0, 60);
  return talk;
}

const plainTurn = (content, index) => ({ role: index % 2 ? "assistant" : "user", content });
