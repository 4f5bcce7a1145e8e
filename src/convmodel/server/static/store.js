// Conversations in the browser's storage, and their file format: lines of role/content messages, as `convmodel fit` reads.

import { add, make, path } from "./tree.js";

const PREFIX = "convmodel.talk.";

/** Returns all conversations, the newest first; unreadable entries are skipped. */
export function all() {
  const talks = [];
  for (let index = 0; index < localStorage.length; index += 1) {
    const name = localStorage.key(index);
    if (!name.startsWith(PREFIX)) continue;
    try {
      talks.push(JSON.parse(localStorage.getItem(name)));
    } catch { /* another program's, or of another version */ }
  }
  return talks.sort((one, other) => other.updated - one.updated);
}

/** Stores a conversation; returns an error message, or null. */
export function keep(talk) {
  try {
    localStorage.setItem(PREFIX + talk.id, JSON.stringify(talk));
    return null;
  } catch {
    return "The browser's storage is full: export some conversations and delete them.";
  }
}

/** Deletes a conversation. */
export function forget(talk) {
  localStorage.removeItem(PREFIX + talk.id);
}

/** Returns the shown branch of a conversation as one line, or "" if it is empty. */
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
      bad.push({ line: index + 1, why: error instanceof SyntaxError ? "not valid JSON" : error.message });
    }
  });
  return { talks, bad };
}

function fromMessages(record) {
  const messages = Array.isArray(record) ? record.map(plainTurn) : record?.messages;
  if (!Array.isArray(messages) || !messages.length) throw new Error("no messages");
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
  if (!parent) throw new Error("no turns");
  talk.title ||= path(talk)[0].text.slice(0, 60);
  return talk;
}

const plainTurn = (content, index) => ({ role: index % 2 ? "assistant" : "user", content });
