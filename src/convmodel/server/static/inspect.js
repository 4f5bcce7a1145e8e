// The exact prompt of the model: tokens, ids, speakers, and what was left out.

import * as api from "./api.js";
import { $, button, fill, h } from "./dom.js";
import { facts, messages, responder, settings, value } from "./settings.js";
import { path } from "./tree.js";

let pending = null;

/** Opens or closes the panel. */
export function toggle(talk) {
  const panel = $("inspector");
  panel.hidden = !panel.hidden;
  $("inspect").setAttribute("aria-expanded", String(!panel.hidden));
  if (!panel.hidden) show(talk).then(() => panel.querySelector("h2")?.focus());
  else $("inspect").focus();
}

/** Shows the prompt of the newest response, if the panel is open. */
export async function show(talk) {
  const panel = $("inspector");
  if (panel.hidden) return;
  pending?.abort();
  pending = new AbortController();
  const turns = path(talk);
  while (turns.length && turns.at(-1).role === "assistant") turns.pop();
  const head = h("header", {}, h("h2", { tabIndex: -1 }, "What the model sees"), button("✕", () => toggle(talk), { className: "icon", "aria-label": "Close" }));
  if (!turns.length) {
    fill(panel, head, h("p.quiet", {}, "Say something first: its tokens appear here."));
    return;
  }
  const body = { model: settings.model, messages: messages(talk, turns), max_completion_tokens: value("longest"), ...responder(talk) };
  try {
    const prompt = await api.tokenize(body, pending.signal);
    fill(panel, head, ...view(prompt, body.messages.length));
  } catch (error) {
    if (error.name !== "AbortError") fill(panel, head, h("p", {}, error.message));
  }
}

function view(prompt, messageCount) {
  const room = prompt.budget === null ? "" : ` of at most ${prompt.budget}, which leaves room for the response`;
  const losses = [];
  const hasTypes = facts().token_types; // else the model reads separators only
  const key = (name, kind) => (hasTypes ? [h("span", { className: `token type${kind % 4}` }, `type ${kind}`), ` ${name}`] : [h("span", { className: `token type${kind % 4}` }, name)]);
  if (prompt.left_out) losses.push(`${count(prompt.left_out, "oldest turn")} of ${messageCount} no longer fit and were left out.`);
  if (prompt.cut) losses.push(`${count(prompt.cut, "token")} were cut from the start of the newest turn.`);
  return [
    h("p", {}, `The prompt of the newest response: ${count(prompt.count, "token")}${room}. Each piece is a token, with its id below it. ${losses.join(" ")}`),
    h("ul.legend", {}, ...prompt.speakers.map((name, kind) => h("li", {}, ...key(name, kind)))),
    ...groups(prompt.tokens).map((tokens) => h("section.tokens", { "aria-label": label(tokens[0]) },
      h("h3", {}, label(tokens[0])),
      ...tokens.map((each) => token(each, hasTypes)))),
  ];
}

const count = (number, what) => `${number.toLocaleString()} ${what}${number === 1 ? "" : "s"}`;
const label = (first) => (first.turn === null ? `${first.speaker} responds …` : `${first.turn + 1}. ${first.speaker}`);

function token({ id, text, type, separator }, hasTypes) {
  return h("span", { className: `token type${type % 4}${separator ? " separator" : ""}`, title: hasTypes ? `id ${id}, type ${type}` : `id ${id}` },
    h("span", {}, text), h("small", {}, String(id)));
}

function groups(tokens) {
  const turns = [];
  for (const each of tokens) {
    if (turns.at(-1)?.[0].turn !== each.turn) turns.push([]);
    turns.at(-1).push(each);
  }
  return turns;
}
