// Ratings and corrections of responses: lines of training data on the server.

import * as api from "./api.js";
import { ask, button, h, say } from "./dom.js";
import { facts, messages, settings } from "./settings.js";
import { add, change, path } from "./tree.js";

/** Returns the rating buttons of a response; none if the server does not save feedback. */
export function buttons(talk, turn, { changed, failed }) {
  if (!facts().feedback) return [];
  const send = async (rating, correction = null) => {
    const turns = path(talk);
    const upTo = turns.slice(0, turns.indexOf(turn) + 1);
    const body = { model: settings.model, messages: messages(talk, upTo), rating, should_have_said: correction };
    try {
      await api.feedback(body);
    } catch (error) {
      failed(error);
      return;
    }
    change(turn, { rating: rating ?? turn.rating });
    if (correction !== null) add(talk, turn.parent, { role: "assistant", speaker: turn.speaker, model: turn.model, text: correction, corrected: true });
    say("Saved. Thank you.");
    changed();
  };
  const correct = async () => {
    const text = await ask({ title: "It should have said …", value: turn.text, yes: "Save", rows: 4 });
    if (text?.trim() && text.trim() !== turn.text.trim()) await send(null, text.trim());
  };
  const thumb = (rating, name) => button(name, () => send(rating), { "aria-label": `${name} response`, "aria-pressed": String(turn.rating === rating) });
  return [
    h("span.group", {}, thumb("up", "Good"), thumb("down", "Bad")),
    button("It should have said …", correct),
  ];
}
