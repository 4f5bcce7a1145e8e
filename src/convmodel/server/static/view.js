// The visible parts of a conversation: turns, their buttons, the list of conversations, notices.

import { $, button, fill, h } from "./dom.js";
import { facts, settings } from "./settings.js";
import { branch, contains, path } from "./tree.js";

const OPENERS = ["Hello! How are you today?", "What do you like to do at the weekend?", "Tell me about a film you have seen."];

/**
 * Shows a conversation.
 * @param {Object} talk
 * @param {Object} act the actions of the buttons
 * @param {Object} state `busy`, and `editing`, the id of a turn
 */
export function showTalk(talk, act, state) {
  $("title").textContent = talk.title || "New conversation";
  document.title = talk.title ? `${talk.title} – convmodel` : "convmodel";
  const turns = path(talk);
  const parts = turns.map((turn) => (state.editing === turn.id ? editor(turn, act) : showTurn(talk, turn, act, state)));
  if (!turns.length) parts.push(welcome(act));
  else if (turns.at(-1).role === "user" && !state.busy) parts.push(h("p", {}, button("Get a response", () => act.answer(turns.at(-1)))));
  fill($("talk"), ...parts, h("div", { id: "comparing" }));
  if (state.editing) $("talk").querySelector("textarea")?.focus();
}

function welcome(act) {
  const name = settings.model;
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
    button("Copy", () => act.copy(turn)),
    button("Edit", () => act.edit(turn), { disabled: state.busy }),
    mine ? null : button("Regenerate", () => act.regenerate(turn), { disabled: state.busy }),
    ...(mine ? [] : act.feedback(turn)),
  ];
  return h("article", { className: `turn ${mine ? "mine" : "theirs"}`, id: `turn-${turn.id}`, "aria-label": `${turn.speaker} says` },
    h("h2", {}, turn.speaker),
    h("p.text", {}, turn.text || (turn.streaming ? "…" : "")),
    notes(turn),
    h("div.tools", {}, ...tools));
}

function notes(turn) {
  const parts = [];
  const stats = turn.usage?.convmodel ?? {};
  if (turn.whose) parts.push(turn.whose);
  if (turn.corrected) parts.push("your correction");
  if (turn.broken) parts.push("incomplete: the connection was lost");
  if (turn.stopped) parts.push("stopped");
  if (turn.reason === "length") parts.push("ended at the maximum length");
  if (stats.tokens_per_second) parts.push(`${stats.tokens_per_second.toFixed(1)} tokens per second`);
  if (stats.left_out) parts.push(`${stats.left_out} oldest turn${stats.left_out === 1 ? "" : "s"} no longer fit${stats.left_out === 1 ? "s" : ""}`);
  return parts.length ? h("p.quiet", {}, parts.join(" · ")) : null;
}

function editor(turn, act) {
  const field = h("textarea", { value: turn.text, rows: Math.min(12, turn.text.split("\n").length + 1), "aria-label": `What ${turn.speaker} says` });
  const form = h("form", { className: `turn ${turn.role === "user" ? "mine" : "theirs"}`, onsubmit: (event) => { event.preventDefault(); act.change(turn, field.value); } },
    field, h("div.row", {}, button("Cancel", () => act.edit(null)), h("button.main", { type: "submit" }, turn.role === "user" ? "Send as a branch" : "Keep as a branch")));
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
  const talk = $("talk");
  const isAtEnd = talk.scrollHeight - talk.scrollTop - talk.clientHeight < 120;
  place.textContent = turn.text || "…";
  if (isAtEnd) talk.scrollTop = talk.scrollHeight;
}

/** Shows how much of the context is used. */
export function showContext(talk) {
  const newest = path(talk).findLast((turn) => turn.usage);
  const limit = facts().positions;
  $("context").hidden = !newest || !limit;
  if (!newest || !limit) return;
  const used = Math.min(limit, newest.usage.prompt_tokens + newest.usage.completion_tokens);
  $("used").max = limit;
  $("used").value = used;
  $("used-text").textContent = `${used} of ${limit} positions used`;
}

/** Shows the list of conversations. */
export function showList(talks, current, words, act) {
  const matches = words ? talks.filter((talk) => contains(talk, words)) : talks;
  $("none").hidden = matches.length > 0 || !words;
  fill($("list"), ...matches.map((talk) => h("li", {},
    button(talk.title || "New conversation", () => act.open(talk), { className: "name", "aria-current": talk.id === current.id ? "true" : "false" }),
    h("details", {}, h("summary", { "aria-label": `More of ${talk.title || "this conversation"}` }, "⋯"),
      h("div.menu", {}, button("Rename", () => act.rename(talk)), button("Export", () => act.export(talk)), button("Delete", () => act.remove(talk)))))));
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
  clearNotice();
  const wait = h("span", {});
  const run = (what) => () => { clearNotice(); what(); };
  fill($("notice"), h("div.notice", {}, h("p", {}, text, " ", wait),
    h("div.row", {}, ...actions.map(([name, what]) => button(name, run(what))), button("Dismiss", clearNotice))));
  if (!seconds) return;
  let left = Math.ceil(seconds);
  const tick = () => {
    wait.textContent = `Retrying in ${left} s.`;
    if (left <= 0) run(actions[0][1])();
    left -= 1;
  };
  tick();
  ticking = setInterval(tick, 1000);
}
