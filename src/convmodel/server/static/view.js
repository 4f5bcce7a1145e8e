// The visible parts of a conversation: turns, their buttons, the list of conversations, notices.

import { sides } from "./compare.js";
import { $, button, fill, h, keepEnd, row, update } from "./dom.js";
import { facts, modelChoice, models, settings, modelTitle } from "./settings.js";
import { branch, contains, path } from "./tree.js";

/** Turns to start a conversation with. */
export const OPENERS = ["Hello! How are you today?", "What do you like to do at the weekend?", "Tell me about a film you have seen."];
const NEW = "New conversation";

/** Returns the name of a turn's speaker that readers see. */
export const nameOf = ({ role, speaker, model }) => (speaker !== role ? speaker : role === "user" ? "You" : model ? modelTitle(model) : speaker);

/**
 * Shows a conversation.
 * @param {Object} talk
 * @param {Object} act the actions of the buttons
 * @param {Object} state `busy`, and `editing`, the id of a turn
 */
export function showTalk(talk, act, state) {
  $("title").textContent = $("title").title = talk.title || NEW;
  document.title = talk.title ? `${talk.title} – convmodel` : "convmodel";
  const turns = path(talk).filter((turn) => !turn.voting);
  const items = turns.map((turn) => (state.editing === turn.id ? [`edit ${turn.id}`, () => editor(turn, act)]
    : [keyOf(talk, turn, state), () => showTurn(talk, turn, act, state)]));
  if (talk.pinned.length) items.unshift([JSON.stringify([talk.pinned, facts().system]), () => showPinned(talk)]);
  if (!turns.length) items.push([`welcome ${settings.model}`, () => welcome(act)]);
  else if (turns.at(-1).role === "user" && !state.busy) {
    items.push([`answer ${turns.at(-1).id}`, () => h("p", {}, button("Get a response", () => act.answer(turns.at(-1))))]);
  }
  update($("turns"), items);
}

function keyOf(talk, turn, state) {
  const text = turn.streaming ? null : turn.text; // `showText` updates it
  return JSON.stringify({ ...turn, talk: talk.id, next: null, text, ...branch(talk, turn), busy: state.busy, feedback: facts().feedback });
}

const showPinned = (talk) => h("p.quiet.pinned", {}, talk.pinned.map(({ speaker, text }) => `${speaker}: ${text}`).join("\n"),
  facts().system ? "" : "\n(This model was trained without system messages, and does not see this.)");

/** Shows which model responds, and the choice of it if there are several. */
export function showModel(changed) {
  const one = h("span", { title: settings.model }, modelTitle(settings.model) || "Connecting …");
  const text = sides ? sides.map(({ model }) => modelTitle(model)).join(", ") : "";
  update($("model"), [[JSON.stringify([text, settings.model, models.map(({ id }) => id)]), () => {
    if (text) return h("span", { title: sides.map(({ model }) => model).join(", ") }, text);
    return models.length > 1 ? modelChoice(settings.model, changed, { "aria-label": "The model that responds" }) : one;
  }]]);
}

function welcome(act) {
  const name = modelTitle(settings.model);
  return h("div.welcome", {},
    h("h2", {}, name ? `Chat with ${name}` : "Welcome"),
    h("p", {}, "Write below, or start with one of these. The model continues the conversation word by word. It was trained on conversations, not on facts: do not rely on what it says."),
    h("div.openers", {}, ...OPENERS.map((text) => button(text, () => act.begin(text)))),
    h("p.quiet", {}, "You can edit any turn, including the model's: this creates a branch, and arrows switch between branches. Inspect shows the exact prompt of the model."));
}

function showTurn(talk, turn, act, state) {
  const mine = turn.role === "user";
  const { number, of } = branch(talk, turn);
  const stepper = of > 1 ? h("span.group", { role: "group", "aria-label": "Branches" },
    button("‹", () => act.step(turn, -1), { "aria-label": "Previous branch", disabled: number === 1 || state.busy }),
    h("span", {}, `${number} / ${of}`),
    button("›", () => act.step(turn, 1), { "aria-label": "Next branch", disabled: number === of || state.busy })) : null;
  const tools = turn.streaming ? [] : [
    stepper,
    button("Copy", (event) => act.copy(turn, event.currentTarget)),
    button("Edit", () => act.edit(turn), { disabled: state.busy }),
    mine ? null : button("Regenerate", () => act.regenerate(turn), { disabled: state.busy }),
    ...(mine ? [] : act.feedback(turn, talk)),
  ];
  return h("article", { className: `turn ${mine ? "mine" : "theirs"}`, id: `turn-${turn.id}`, "aria-label": nameOf(turn) },
    h("h2", { title: turn.model }, nameOf(turn)),
    h("p.text", {}, turn.text || (turn.streaming ? "…" : "")),
    notes(turn),
    h("div.tools", {}, ...tools));
}

function notes(turn) {
  const parts = [];
  const { leftOut } = turn;
  if (turn.whose) parts.push(turn.model ? turn.whose.replace(turn.model, () => modelTitle(turn.model)) : turn.whose);
  else if (turn.model && modelTitle(turn.model) !== nameOf(turn)) parts.push(modelTitle(turn.model));
  if (turn.corrected) parts.push("your correction");
  if (turn.edited) parts.push("edited");
  if (turn.partial) parts.push("incomplete");
  if (turn.broken) parts.push("incomplete: the connection was lost");
  if (turn.stopped) parts.push("stopped");
  if (turn.reason === "length") parts.push("ended at the maximum length");
  if (turn.speed) parts.push(`${turn.speed.toFixed(1)} tokens per second`);
  if (leftOut) parts.push(`${leftOut} oldest turn${leftOut === 1 ? "" : "s"} no longer fit${leftOut === 1 ? "s" : ""}`);
  return parts.length ? h("p.quiet", {}, parts.join(" · ")) : null;
}

function editor(turn, act) {
  const field = h("textarea", { value: turn.text, rows: Math.min(12, turn.text.split("\n").length + 1), "aria-label": "Edit the turn" });
  const form = h("form", { className: `turn ${turn.role === "user" ? "mine" : "theirs"}`, onsubmit: (event) => { event.preventDefault(); act.change(turn, field.value); } },
    field, row(button("Cancel", () => act.edit(null)), h("button.main", { type: "submit" }, turn.role === "user" ? "Send as a branch" : "Keep as a branch")));
  field.addEventListener("keydown", (event) => {
    if (event.key === "Escape") act.edit(null);
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); form.requestSubmit(); }
  });
  return form;
}

/** Updates the text of a streaming turn, without rebuilding the other turns. */
export function showText(turn) {
  const place = $(`turn-${turn.id}`)?.querySelector(".text");
  if (!place) return;
  const scroll = keepEnd();
  place.textContent = turn.text || "…";
  scroll();
}

/** Shows how much of the context is used. */
export function showContext(talk) {
  const newest = path(talk).findLast((turn) => turn.used);
  const limit = facts().positions;
  $("context").hidden = !newest || !limit;
  if (!newest || !limit) return;
  const used = Math.min(limit, newest.used);
  $("used").max = limit;
  $("used").value = used;
  $("used-text").textContent = `${used} of ${limit} positions used`;
}

/** Shows where conversations and judgements are stored. */
export function showStored() {
  $("stored").textContent = facts().feedback ? "Stored in this browser. What you rate, correct, edit, regenerate or vote on is saved on the server, too, with the conversation before it."
    : "Stored in this browser only, except your votes in Compare, which the server saves.";
}

/** Shows the list of conversations. */
export function showList(talks, current, words, act) {
  const matches = words ? talks.filter((talk) => contains(talk, words)) : talks;
  $("none").hidden = matches.length > 0 || !words;
  update($("list"), matches.map((talk) => [JSON.stringify([talk.id, talk.title, talk.id === current.id]), () => h("li", {},
    h("button.name", { type: "button", title: talk.title, onclick: () => act.open(talk), "aria-current": String(talk.id === current.id) }, h("span", {}, talk.title || NEW)),
    h("details", {}, h("summary", { "aria-label": `More of ${talk.title || "this conversation"}` }, "⋯"),
      h("div.menu", {}, button("Rename", () => act.rename(talk)), button("Export", () => act.export(talk)), button("Delete", () => act.remove(talk)))))]));
}

let ticking = null;

/** Removes the notice. */
export function clearNotice() {
  clearInterval(ticking);
  fill($("notice"));
}

/**
 * Shows a notice with buttons, and optionally a countdown that triggers the first one.
 * @param {string} text
 * @param {[string, () => void][]} actions
 * @param {number} seconds
 */
export function notice(text, actions = [], seconds = 0) {
  if (!actions.length && $("notice").firstChild?.text === text) return; // screen readers need not announce it again
  clearNotice();
  let left = Math.ceil(seconds);
  const when = () => `Retrying in ${left} s.`;
  const wait = h("span", { "aria-hidden": "true" }); // an alert that changes would be read out again each second
  const run = (what) => () => { clearNotice(); what(); };
  fill($("notice"), h("div.notice", { text }, h("p", {}, text, " ", wait, seconds ? h("span.hidden", {}, when()) : null),
    row(...actions.map(([name, what]) => button(name, run(what))), button("Dismiss", clearNotice))));
  if (!seconds) return;
  const tick = () => {
    if ($("turns").querySelector("form")) return; // until the edit is complete
    wait.textContent = when();
    if (left <= 0) run(actions[0][1])();
    left -= 1;
  };
  tick();
  ticking = setInterval(tick, 1000);
}
