// The settings of generation, stored in the browser, their dialog, and the resulting request.

import * as api from "./api.js";
import { $, button, fill, h, row, terms } from "./dom.js";
import { local } from "./store.js";
import { change } from "./tree.js";

const KEPT = "convmodel.settings";
const PRESET = { model: "", temperature: null, topP: null, longest: null, seed: "", me: "user", them: "assistant", theme: "auto" };

/** The settings; `save` stores them. */
export const settings = { ...PRESET, ...read() };

/** The models of the server. */
export let models = [];

function read() {
  try {
    return JSON.parse(local.getItem(KEPT)) ?? {};
  } catch {
    return {};
  }
}

/** Stores the settings, and applies the theme. */
export function save() {
  try {
    local.setItem(KEPT, JSON.stringify(settings));
  } catch { /* the storage is full, which is reported when a conversation is stored */ }
  if (settings.theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = settings.theme;
}

/** Loads the list of models from the server. */
export async function load() {
  models = await api.models();
  if (!models.some((each) => each.id === settings.model)) settings.model = models[0]?.id ?? "";
}

/** Returns a model by its id, by default the chosen one. */
export const model = (id = settings.model) => models.find((each) => each.id === id) ?? null;

/** Returns the name that was given to a trained model, and its number; of others the id, and "". */
const parseTrainedId = (id) => id.match(/^ft:.+:([^:]+):([^:]+)$/)?.slice(1) ?? [id, ""];

/** Returns a model's name for readers: a trained one's is the given one, with a number if several have it. */
export function modelTitle(id) {
  const [title, number] = parseTrainedId(id);
  return number && models.some((each) => each.id !== id && parseTrainedId(each.id)[0] === title) ? `${title} (${number})` : title;
}

/** Returns the server's description of a model. */
export const facts = (id) => model(id)?.convmodel ?? {};

/** Returns a setting, or the model's default. */
export function value(name, id) {
  const defaults = facts(id).defaults ?? {};
  const preset = { temperature: defaults.temperature, topP: defaults.top_p, longest: facts(id).max_new_tokens };
  return settings[name] ?? preset[name];
}

/** Returns the names of user and model as speakers: an imported conversation's, or else the settings'. */
export const names = (talk) => talk.names ?? settings;

/** Returns `reply_as` for a request, if the model distinguishes speakers by name; others have two, by their roles. */
export function responder(talk, id = settings.model) {
  const { them } = names(talk);
  return them === "assistant" || !facts(id).names ? {} : { reply_as: them };
}

/** Converts turns to messages, with names if the model distinguishes speakers by name. */
export function messages(talk, turns, id = settings.model) {
  const name = (speaker, role) => (speaker === role || !facts(id).names ? {} : { name: speaker });
  const message = (role) => ({ speaker, text }) => ({ role, content: text, ...name(speaker, role) });
  const pinned = facts().system ? talk.pinned.map(message("system")) : [];
  return [...pinned, ...turns.map((turn) => message(turn.role)(turn))];
}

/** Returns the request for a response to turns; `other` overrides settings, `like` is a listed model if its own is not. */
export function request(talk, turns, other = {}) {
  const name = other.model ?? settings.model;
  const id = other.like ?? name;
  return {
    model: name,
    messages: messages(talk, turns, id),
    temperature: other.temperature ?? value("temperature", id),
    top_p: other.topP ?? value("topP", id),
    max_completion_tokens: value("longest", id),
    ...(settings.seed === "" ? {} : { seed: Number(settings.seed) + (other.attempt ?? 0) }), // a different seed for each attempt
    ...responder(talk, id),
  };
}

/** Creates a select element with all models. */
export function modelChoice(chosen, onchange, properties = {}) {
  return h("select", { onchange: (event) => onchange(event.target.value), ...properties },
    ...models.map((each) => h("option", { value: each.id, title: each.id, selected: each.id === chosen }, modelTitle(each.id))));
}

/** Opens the settings; `changed` is called with every change. */
export function open(talk, changed) {
  const dialog = $("settings-dialog");
  const set = (name, make = (text) => text) => (event) => {
    settings[name] = make(event.target.value);
    save();
    changed();
  };
  const rename = (name, role) => (event) => {
    names(talk)[name] = event.target.value.trim() || role;
    save();
    changed();
  };
  const number = (text) => (text === "" ? null : Number(text));
  const restart = () => { dialog.close(); changed(); open(talk, changed); };
  fill(dialog, h("form", { onsubmit: (event) => { event.preventDefault(); dialog.close(); } },
    h("h2", { id: "settings-title" }, "Settings"),
    field("Model", "The model that responds.", modelChoice(settings.model, (id) => { settings.model = id; save(); restart(); })),
    slider("Temperature", "Low values always choose the likeliest words, high ones surprise.", { min: 0, max: 2, step: 0.05, value: value("temperature") }, set("temperature", Number)),
    slider("Top-p", "Words are drawn from the likeliest ones that together have this probability.", { min: 0.05, max: 1, step: 0.05, value: value("topP") }, set("topP", Number)),
    field("Maximum response length", `In tokens; a word is one or two tokens. Default: ${facts().max_new_tokens ?? "128"}.`,
      h("input", { type: "number", min: 1, max: facts().positions ? facts().positions - 3 : 1048576, value: value("longest") ?? "", onchange: set("longest", number) })),
    field("Seed", "With a number, responses can be reproduced; if empty, they differ each time.",
      h("input", { type: "number", min: 0, step: 1, value: settings.seed, onchange: set("seed") })),
    h("div.pair", {},
      field("My name", "", h("input", { maxLength: 64, value: names(talk).me, onchange: rename("me", "user") })),
      field("Model's name", "", h("input", { maxLength: 64, value: names(talk).them, onchange: rename("them", "assistant") }))),
    h("p.quiet", {}, "The speakers of the conversation, for models that were trained with names."),
    facts().system ? field("System message", "Instructions that stay in the context of this conversation.",
      h("textarea", { rows: 3, value: talk.pinned.map(({ text }) => text).join("\n\n"), onchange: (event) => {
        const text = event.target.value.trim();
        change(talk, { pinned: text ? [{ speaker: talk.pinned[0]?.speaker ?? "system", text }] : [] });
        changed();
      } })) : null,
    field("Key", "The server's API key, if it needs one. It is deleted when this tab is closed.",
      h("input", { type: "password", autocomplete: "off", value: api.key.get(), onchange: (event) => { api.key.set(event.target.value.trim()); changed(true); } })),
    field("Colours", "", h("select", { onchange: set("theme") },
      ...[["auto", "Like the system"], ["light", "Light"], ["dark", "Dark"]].map(([id, text]) => h("option", { value: id, selected: settings.theme === id }, text)))),
    facts().feedback ? null : h("p.quiet", {}, "To save ratings and corrections as training data, start the server with --feedback FILE."),
    shortcuts(),
    row(
      button("Reset to defaults", () => { Object.assign(settings, { ...PRESET, model: settings.model }); save(); restart(); }),
      h("button.main", {}, "Done"))));
  if (!dialog.open) dialog.showModal();
}

let numbers = 0;

/** Adds a label and an explanation to an input. */
export function field(name, why, input) {
  const id = input.id || `field-${numbers += 1}`;
  input.id = id;
  if (why) input.setAttribute("aria-describedby", `${id}-why`);
  return h("div.field", {}, h("label", { for: id }, name), input, why ? h("p.quiet", { id: `${id}-why` }, why) : null);
}

/** Creates a slider that shows its value. */
export function slider(name, why, range, onchange) {
  const shown = h("output", {}, String(range.value));
  const input = h("input", { type: "range", ...range, onchange, oninput: () => { shown.textContent = input.value; } });
  input.value = range.value; // after the bounds, which would clamp it otherwise
  const element = field(name, why, input);
  element.firstChild.append(" ", shown);
  return element;
}

function shortcuts() {
  const keys = [["Enter", "send"], ["Shift+Enter", "a new line"], ["Esc", "stop the response"], ["Alt+N", "new conversation"],
    ["Alt+R", "regenerate the response"], ["Alt+I", "inspect"], ["Alt+,", "settings"], ["Alt+/", "search"]];
  return h("details", {}, h("summary", {}, "Keyboard shortcuts"),
    terms(keys.map(([key, what]) => [h("kbd", {}, key), what])));
}
