// The exact tokens that the model sees: pieces, ids, speakers, and what fell out.

import * as api from "./api.js";
import { $, button, fill, h } from "./dom.js";
import { messages, settings, value } from "./settings.js";
import { path } from "./tree.js";

let asking = null;

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
  asking?.abort();
  asking = new AbortController();
  const turns = path(talk);
  while (turns.length && turns.at(-1).role === "assistant") turns.pop();
  const head = h("header", {}, h("h2", { tabIndex: -1 }, "What the model sees"), button("✕", () => toggle(talk), { className: "icon", "aria-label": "Close" }));
  if (!turns.length) {
    fill(panel, head, h("p.quiet", {}, "Say something first: then its tokens are here."));
    return;
  }
  const body = { model: settings.model, messages: messages(talk, turns), max_completion_tokens: value("longest") };
  if (settings.them !== "assistant") body.reply_as = settings.them;
  try {
    const found = await api.tokenize(body, asking.signal);
    fill(panel, head, ...view(found, body.messages.length));
  } catch (error) {
    if (error.name !== "AbortError") fill(panel, head, h("p", {}, error.message));
  }
}

function view(found, said) {
  const room = found.budget === null ? "" : ` of ${found.budget} that leave room for the response`;
  const lost = [];
  if (found.left_out) lost.push(`${count(found.left_out, "oldest turn")} of ${said} no longer fit and fell out.`);
  if (found.cut) lost.push(`${count(found.cut, "token")} were cut off the beginning of the newest turn.`);
  return [
    h("p", {}, `The prompt of the newest response: ${count(found.count, "token")}${room}. Each piece is a token, with its id below it. ${lost.join(" ")}`),
    h("ul.legend", {}, ...found.speakers.map((name, kind) => h("li", {}, h("span", { className: `token type${kind % 4}` }, `type ${kind}`), ` ${name}`))),
    ...groups(found.tokens).map((tokens) => h("section.tokens", { "aria-label": label(tokens[0]) },
      h("h3", {}, label(tokens[0])),
      ...tokens.map(token))),
  ];
}

const count = (number, what) => `${number.toLocaleString()} ${what}${number === 1 ? "" : "s"}`;
const label = (first) => (first.turn === null ? `${first.speaker} responds …` : `${first.turn + 1}. ${first.speaker}`);

function token({ id, text, type, separator }) {
  return h("span", { className: `token type${type % 4}${separator ? " separator" : ""}`, title: `id ${id}, type ${type}` },
    h("span", {}, text), h("small", {}, String(id)));
}

function groups(tokens) {
  const found = [];
  for (const each of tokens) {
    if (each.separator) found.push([]);
    found.at(-1)?.push(each);
  }
  return found;
}
