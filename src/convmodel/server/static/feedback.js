// Judgements of responses, which the server saves as training data: ratings, corrections, edits, regenerations.

import * as api from "./api.js";
import { ask, button, h, say } from "./dom.js";
import { facts, messages, model, settings } from "./settings.js";
import { add, change, path } from "./tree.js";

/** Returns whether a model wrote the text of a turn, and not a person. */
const isGenerated = (turn) => turn.role === "assistant" && turn.model && !turn.edited && !turn.corrected;

/** Returns which model wrote a turn; none if it is no longer served, or the turn was imported. */
const writer = (turn) => (isGenerated(turn) && turn.version && model(turn.model) ? { model: turn.model, version: turn.version }
  : { model: settings.model, generated: false });

/** Sends a judgement of a turn that the path shows. */
async function send(talk, turn, judgement) {
  const turns = path(talk);
  const upTo = turns.slice(0, turns.indexOf(turn) + 1);
  await api.feedback({ ...writer(turn), messages: messages(talk, upTo), ...judgement });
}

/** Sends a person's text as better than a turn; if a person wrote the turn, too, as a good response. */
async function correct(talk, turn, text) {
  if (isGenerated(turn)) await send(talk, turn, { should_have_said: text });
  else {
    const turns = path(talk);
    const before = turns.slice(0, turns.indexOf(turn));
    await api.feedback({ model: settings.model, generated: false, messages: messages(talk, [...before, { ...turn, text }]), rating: "up" });
  }
}

const isWhole = (turn) => !turn.stopped && !turn.broken && !turn.partial && !turn.streaming;

/** Saves an edit of a response that the path still shows: the new text is better than the model's. */
export async function edited(talk, turn, text, failed) {
  if (!facts().feedback || turn.role !== "assistant" || !isWhole(turn) || !turn.parent || text === turn.text.trim()) return;
  await correct(talk, turn, text).catch((error) => failed(`The edit was not saved as feedback: ${error.message}`));
}

/** Saves that the conversation continues after a regenerated response: it may be better than the one before. */
export async function continued(talk, turn, failed) {
  const isAlone = (each) => isGenerated(each) && !each.whose && isWhole(each); // two side by side are voted on
  if (!facts().feedback || !turn?.parent || !isAlone(turn)) return;
  const ids = talk.turns[turn.parent].next;
  const before = ids.slice(0, ids.indexOf(turn.id)).map((id) => talk.turns[id]).filter(isAlone).at(-1);
  if (!before || before.text.trim() === turn.text.trim()) return;
  await send(talk, turn, { kind: "regeneration", rejected: before.text })
    .catch((error) => failed(`The regeneration was not saved as feedback: ${error.message}`));
}

const saving = new WeakSet(); // turns whose judgement is being sent

/** Returns the rating buttons of a response; none if the server does not save feedback. */
export function buttons(talk, turn, { changed, failed }) {
  if (!facts().feedback) return [];
  const save = async (request, done) => {
    if (saving.has(turn)) return;
    saving.add(turn);
    try {
      await request();
    } catch (error) {
      failed(error);
      return;
    } finally {
      saving.delete(turn);
    }
    done();
    say("Saved. Thank you.");
    changed();
  };
  const rate = (rating) => (turn.rating === rating ? undefined : save(() => send(talk, turn, { rating }), () => change(turn, { rating })));
  const askForBetter = async () => {
    const text = (await ask({ title: "It should have said …", value: turn.text, yes: "Save", rows: 4 }))?.trim();
    if (!text || text === turn.text.trim()) return;
    await save(() => correct(talk, turn, text),
      () => add(talk, turn.parent, { role: "assistant", speaker: turn.speaker, model: turn.model, text, corrected: true }));
  };
  const thumb = (rating, name) => button(name, () => rate(rating), { "aria-label": `${name} response`, "aria-pressed": String(turn.rating === rating) });
  return [
    h("span.group", {}, thumb("up", "Good"), thumb("down", "Bad")),
    turn.rating ? h("span.quiet", {}, "Saved") : null,
    button("It should have said …", askForBetter),
  ];
}
