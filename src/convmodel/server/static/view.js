// What is seen of a conversation: its turns, their tools, the list of conversations, notices.

import { $, button, fill, h } from "./dom.js";
import { facts, settings } from "./settings.js";
import { branch, contains, path } from "./tree.js";

const OPENERS = ["Hello! How are you today?", "What do you like to do at the weekend?", "Tell me about a film that you have seen."];

/**
 * Shows a conversation.
 * @param {Object} talk
 * @param {Object} act what its buttons do
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
    h("h2", {}, name ? `Talk with ${name}` : "Welcome"),
    h("p", {}, "Write below, or begin with one of these. The model goes on with the conversation word by word; it was trained on conversations, not on facts, so enjoy it and believe nothing."),
    h("div.openers", {}, ...OPENERS.map((text) => button(text, () => act.begin(text)))),
    h("p.quiet", {}, "You can edit any turn, also the model's: the conversation then branches, and arrows step between branches. Inspect shows what the model really sees."));
}

function showTurn(talk, turn, act, state) {
  const mine = turn.role === "user";
  const { number, of } = branch(talk, turn);
  const stepper = of > 1 ? h("span.group", { role: "group", "aria-label": "Branches" },
    button("‹", () => act.step(turn, -1), { "aria-label": "Branch before", disabled: number === 1 || state.busy }),
    h("span", {}, `${number} / ${of}`),
    button("›", () => act.step(turn, 1), { "aria-label": "Branch after", disabled: number === of || state.busy })) : null;
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
  const said = [];
  const took = turn.usage?.convmodel ?? {};
  if (turn.whose) said.push(turn.whose);
  if (turn.corrected) said.push("your words");
  if (turn.broken) said.push("broken off: the connection was lost");
  if (turn.stopped) said.push("stopped");
  if (turn.reason === "length") said.push("ended at the longest response");
  if (took.tokens_per_second) said.push(`${took.tokens_per_second.toFixed(1)} tokens a second`);
  if (took.left_out) said.push(`${took.left_out} oldest turn${took.left_out === 1 ? "" : "s"} no longer fit${took.left_out === 1 ? "s" : ""}`);
  return said.length ? h("p.quiet", {}, said.join(" · ")) : null;
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

/** Shows a text that grows, without making all turns again. */
export function showText(turn) {
  const place = $(`turn-${turn.id}`)?.querySelector(".text");
  if (!place) return;
  const talk = $("talk");
  const follows = talk.scrollHeight - talk.scrollTop - talk.clientHeight < 120;
  place.textContent = turn.text || "…";
  if (follows) talk.scrollTop = talk.scrollHeight;
}

/** Shows how much of the context is used. */
export function showContext(talk) {
  const newest = path(talk).findLast((turn) => turn.usage);
  const most = facts().positions;
  $("context").hidden = !newest || !most;
  if (!newest || !most) return;
  const used = Math.min(most, newest.usage.prompt_tokens + newest.usage.completion_tokens);
  $("used").max = most;
  $("used").value = used;
  $("used-text").textContent = `${used} of ${most} positions used`;
}

/** Shows the list of conversations. */
export function showList(talks, current, words, act) {
  const found = words ? talks.filter((talk) => contains(talk, words)) : talks;
  $("none").hidden = found.length > 0 || !words;
  fill($("list"), ...found.map((talk) => h("li", {},
    button(talk.title || "New conversation", () => act.open(talk), { className: "name", "aria-current": talk.id === current.id ? "true" : "false" }),
    h("details", {}, h("summary", { "aria-label": `More of ${talk.title || "this conversation"}` }, "⋯"),
      h("div.menu", {}, button("Rename", () => act.rename(talk)), button("Export", () => act.export(talk)), button("Delete", () => act.remove(talk)))))));
}

let ticking = null;

/** Takes the notice away. */
export function clearNotice() {
  clearInterval(ticking);
  fill($("notice"));
}

/**
 * Tells of something, with buttons, and maybe a countdown to the first of them.
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
    wait.textContent = `Again in ${left} s.`;
    if (left <= 0) run(actions[0][1])();
    left -= 1;
  };
  tick();
  ticking = setInterval(tick, 1000);
}
