// Thumbs, and what should have been said: lines of training data on the server.

import * as api from "./api.js";
import { ask, button, h, say } from "./dom.js";
import { facts, messages, settings } from "./settings.js";
import { add, path } from "./tree.js";

/** Makes the buttons of a response; nothing where the server saves no feedback. */
export function buttons(talk, turn, { changed, failed }) {
  if (!facts().feedback) return [];
  const send = async (rating, right = null) => {
    const turns = path(talk);
    const upTo = turns.slice(0, turns.indexOf(turn) + 1);
    const body = { model: settings.model, messages: messages(talk, upTo), rating, should_have_said: right };
    try {
      await api.feedback(body);
    } catch (error) {
      failed(error);
      return;
    }
    turn.rating = rating;
    if (right !== null) add(talk, turn.parent, { role: "assistant", speaker: turn.speaker, text: right, corrected: true });
    say("Saved. Thank you.");
    changed();
  };
  const correct = async () => {
    const right = await ask({ title: "It should have said …", value: turn.text, yes: "Save", rows: 4 });
    if (right?.trim() && right.trim() !== turn.text.trim()) await send(null, right.trim());
  };
  const thumb = (rating, name) => button(name, () => send(rating), { "aria-label": `${name} response`, "aria-pressed": String(turn.rating === rating) });
  return [
    h("span.group", {}, thumb("up", "Good"), thumb("down", "Bad")),
    button("It should have said …", correct),
  ];
}
