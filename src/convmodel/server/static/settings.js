// How responses are made: settings with explanations, kept in the browser, and the request that they amount to.

import * as api from "./api.js";
import { $, button, fill, h } from "./dom.js";

const KEPT = "convmodel.settings";
const PRESET = { model: "", temperature: null, topP: null, longest: null, seed: "", me: "user", them: "assistant", theme: "auto" };

/** The settings; `save` keeps them. */
export const settings = { ...PRESET, ...read() };

/** The models that the server has. */
export let models = [];

function read() {
  try {
    return JSON.parse(localStorage.getItem(KEPT)) ?? {};
  } catch {
    return {};
  }
}

/** Keeps the settings, and shows what can be seen of them. */
export function save() {
  localStorage.setItem(KEPT, JSON.stringify(settings));
  if (settings.theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = settings.theme;
}

/** Asks the server for its models. */
export async function load() {
  models = await api.models();
  if (!models.some((each) => each.id === settings.model)) settings.model = models[0]?.id ?? "";
}

/** Returns a model by its id, by default the one that is chosen. */
export const model = (id = settings.model) => models.find((each) => each.id === id) ?? null;

/** Returns what the server says of a model. */
export const facts = (id) => model(id)?.convmodel ?? {};

/** Returns a setting, or what the model begins with. */
export function value(name, id) {
  const preset = facts(id).defaults ?? {};
  const given = { temperature: preset.temperature, topP: preset.top_p, longest: facts(id).max_new_tokens };
  return settings[name] ?? given[name];
}

/** Makes messages of turns. */
export function messages(talk, turns) {
  const said = turns.map(({ role, speaker, text }) => ({ role, content: text, ...(speaker === role ? {} : { name: speaker }) }));
  return talk.system && facts().system ? [{ role: "system", content: talk.system }, ...said] : said;
}

/** Makes the request for a response to turns; `other` are settings that differ. */
export function request(talk, turns, other = {}) {
  const id = other.model ?? settings.model;
  return {
    model: id,
    messages: messages(talk, turns),
    temperature: other.temperature ?? value("temperature", id),
    top_p: other.topP ?? value("topP", id),
    max_completion_tokens: value("longest", id),
    ...(settings.seed === "" ? {} : { seed: Number(settings.seed) + (other.attempt ?? 0) }), // another one each time
    ...(settings.them === "assistant" ? {} : { reply_as: settings.them }),
  };
}

/** Makes a choice among the models. */
export function modelChoice(chosen, onchange, properties = {}) {
  return h("select", { onchange: (event) => onchange(event.target.value), ...properties },
    ...models.map((each) => h("option", { value: each.id, selected: each.id === chosen }, each.id)));
}

/** Opens the settings; `changed` is called with every change. */
export function open(talk, changed) {
  const dialog = $("settings-dialog");
  const set = (name, make = (text) => text) => (event) => {
    settings[name] = make(event.target.value);
    save();
    changed();
  };
  const number = (text) => (text === "" ? null : Number(text));
  const restart = () => { dialog.close(); changed(); open(talk, changed); };
  fill(dialog, h("form", { onsubmit: (event) => { event.preventDefault(); dialog.close(); } },
    h("h2", { id: "settings-title" }, "Settings"),
    field("Model", "Who you talk with.", modelChoice(settings.model, (id) => { settings.model = id; save(); restart(); })),
    slider("Temperature", "Low: always the likeliest words. High: surprising ones.", { min: 0, max: 2, step: 0.05, value: value("temperature") }, set("temperature", Number)),
    slider("Top-p", "Only the likeliest words that together have this much probability are drawn from.", { min: 0.05, max: 1, step: 0.05, value: value("topP") }, set("topP", Number)),
    field("Longest response", `In tokens; a word is one or two. Usually ${facts().max_new_tokens ?? "128"}.`,
      h("input", { type: "number", min: 1, max: facts().positions ? facts().positions - 3 : 1048576, value: value("longest") ?? "", onchange: set("longest", number) })),
    field("Seed", "A number makes responses the same each time; empty, they differ.",
      h("input", { type: "number", min: 0, step: 1, value: settings.seed, onchange: set("seed") })),
    h("div.pair", {},
      field("My name", "", h("input", { maxLength: 64, value: settings.me, onchange: set("me", (text) => text.trim() || "user") })),
      field("Its name", "", h("input", { maxLength: 64, value: settings.them, onchange: set("them", (text) => text.trim() || "assistant") }))),
    h("p.quiet", {}, "Speakers of the conversation. A model that was trained with names knows them."),
    facts().system ? field("System message", "Instructions that never leave the context of this conversation.",
      h("textarea", { rows: 3, value: talk.system, onchange: (event) => { talk.system = event.target.value.trim(); changed(); } })) : null,
    field("Key", "Of the server, if it wants one. It is forgotten when this tab is closed.",
      h("input", { type: "password", autocomplete: "off", value: api.key.get(), onchange: (event) => { api.key.set(event.target.value.trim()); changed(true); } })),
    field("Colours", "", h("select", { onchange: set("theme") },
      ...[["auto", "As the system"], ["light", "Light"], ["dark", "Dark"]].map(([id, text]) => h("option", { value: id, selected: settings.theme === id }, text)))),
    facts().feedback ? null : h("p.quiet", {}, "To save thumbs and corrections as training data, start the server with --feedback FILE."),
    shortcuts(),
    h("div.row", {},
      button("Back to the model's own", () => { Object.assign(settings, { ...PRESET, model: settings.model }); save(); restart(); }),
      h("button.main", {}, "Done"))));
  if (!dialog.open) dialog.showModal();
}

let numbers = 0;

/** Puts a label and an explanation to a field. */
export function field(name, why, input) {
  const id = input.id || `field-${numbers += 1}`;
  input.id = id;
  if (why) input.setAttribute("aria-describedby", `${id}-why`);
  return h("div.field", {}, h("label", { for: id }, name), input, why ? h("p.quiet", { id: `${id}-why` }, why) : null);
}

/** Makes a slider that shows its number. */
export function slider(name, why, range, onchange) {
  const shown = h("output", {}, String(range.value));
  const input = h("input", { type: "range", ...range, onchange, oninput: () => { shown.textContent = input.value; } });
  input.value = range.value; // after its bounds, or it would be held to others
  const made = field(name, why, input);
  made.firstChild.append(" ", shown);
  return made;
}

function shortcuts() {
  const keys = [["Enter", "send"], ["Shift+Enter", "a new line"], ["Esc", "stop the response"], ["Alt+N", "new conversation"],
    ["Alt+R", "another response"], ["Alt+I", "inspect"], ["Alt+,", "settings"], ["Alt+/", "search"]];
  return h("details", {}, h("summary", {}, "Keys"),
    h("dl", {}, ...keys.flatMap(([key, what]) => [h("dt", {}, h("kbd", {}, key)), h("dd", {}, what)])));
}
