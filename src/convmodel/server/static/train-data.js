// Prepared data: what was recognised, what was left out, who speaks, the checks, and the start of a training.

import { button, h, row, terms } from "./dom.js";
import { count, isNumber, size, time } from "./format.js";
import { facts, field, models, modelTitle } from "./settings.js";

const SMALL = 5e7; // parameters below which a model learns better from a high learning rate
const STATE = 16; // bytes per parameter: weight, gradient, and two values of the optimizer
const SHOWN = 12; // speakers; the others are in a list
const HIGH = 20; // which is so many times the usual one
const FLAGS = { // options of the terminal that messages name, and what they are here
  "--me": "choose below who the model should be",
  "--merge-others": "tick “Treat all other people as one” below",
  "--redact": "tick “Mask personal data” below",
  "--on-error": "tick “Leave out what cannot be read” below",
  "--epochs": "choose below how long to train",
  "--valid": "the data for checking are made by themselves here",
};

const TERMINAL = /(^|[\s"'`(])--[a-z]|`convmodel |\bpip install\b/; // an option, or a command

/** Returns a message without the clauses, or last alternatives, that need a terminal. */
function forPage(text) {
  const parts = text.split(/([;:]|\.(?=\s+[A-Z]))\s+/); // clauses and marks
  let shown = "";
  for (let index = 0; index < parts.length; index += 2) {
    const clause = TERMINAL.test(parts[index]) ? withoutTerminal(parts[index]) : parts[index];
    if (clause) shown += shown ? `${parts[index - 1]} ${clause}` : clause;
  }
  return shown || text;
}

function withoutTerminal(clause) {
  const alternatives = clause.split(/(,? or )/);
  return alternatives.slice(0, Math.max(0, alternatives.findIndex((each) => TERMINAL.test(each)) - 1)).join("");
}

/** Shows prepared data. */
export function dataItems(preparation, act) {
  const { status, error, summary, speakers, checks, blocking, estimate } = preparation;
  const busy = { importing: "The files are being read …", checking: "The data are being checked, and a few steps are timed. This takes about a minute …" }[status];
  return [
    ...(busy ? [[busy, () => showBusy(busy)]] : []),
    ...(error ? [[JSON.stringify(["error", error]), () => showError(error, preparation.on_error, act)]] : []),
    ...(summary ? [[JSON.stringify(["summary", summary]), () => showSummary(summary)]] : []),
    ...(status === "importing" ? [] : [[JSON.stringify(["choices", preparation.id, status === "needs_speaker", status === "failed", speakers]), () => showChoices(preparation, act)]]),
    ...(checks ? [[JSON.stringify(["checks", checks, blocking]), () => showChecks(checks, blocking)]] : []),
    ...(status === "ready" && !blocking ? [[JSON.stringify(["start", preparation.id, estimate]), () => showStart(preparation, act)]] : []),
    [JSON.stringify(["files", preparation.id]), () => showFiles(preparation, act)],
  ];
}

const showFiles = (preparation, act) => h("section", {},
  h("h3", {}, "Files"),
  list(preparation.filenames),
  row(button("Add files", act.choose), button("Delete these data", () => act.removeData(preparation))));

const showBusy = (text) => h("section", {}, h("p", {}, text), h("progress.wide", { "aria-label": text }),
  h("p.quiet", {}, "You can close this view or the page meanwhile."));

function showError({ message }, onError, act) {
  const flags = [...new Set(message.match(/--[a-z][a-z-]+/g) ?? [])];
  const isStrict = onError === "fail" && !flags.includes("--on-error") && /:\d/.test(message); // a place, so the rest can be read
  const known = flags.filter((flag) => FLAGS[flag]).map((flag) => `Instead of ${flag}: ${FLAGS[flag]}.`);
  const others = flags.filter((flag) => !FLAGS[flag]);
  return h("section", {},
    h("p.problem", { role: "alert" }, message),
    ...known.map((text) => h("p", {}, text)),
    others.length ? h("p", {}, `This page does not have ${others.join(", ")}: run convmodel import with it in a terminal, and drop the files that it writes here.`) : null,
    isStrict ? h("p", {}, "If only a part cannot be read: tick “Leave out what cannot be read” below.") : null,
    h("p", {}, "You can also change the other choices below, or use other files."),
    row(button("Try again", act.again), button("Choose other files", act.start, { className: "main" })));
}

/** What was read and kept, and what was left out and why. */
function showSummary(summary) {
  const { formats, entries, speakers = {}, conversations, written = {}, notes = [], first_problems: problems = [] } = summary;
  const parts = { "train.jsonl": "to learn from", "valid.jsonl": "to find the best moment", "test.jsonl": "held out" };
  const kept = Object.entries(written).map(([name, number]) => `${number.toLocaleString("en")} ${parts[name] ?? name}`).join(", ");
  const rows = [["Format", Object.keys(formats).join(", ")], ["Read", count(entries, Object.keys(speakers).length ? "message" : "row")],
    ["Conversations", count(conversations, "conversation")], ["Kept", kept]].filter(([, text]) => text);
  const leftOut = leftOutOf(summary);
  return h("section", {},
    h("h3", {}, "What was recognised"),
    terms(rows),
    h("h3", {}, "What was left out, and why"),
    leftOut.length ? list(leftOut) : h("p", {}, "Nothing."),
    problems.length ? h("details", {}, h("summary", {}, "The first of what could not be read"), list(problems)) : null,
    notes.length ? h("details", {}, h("summary", {}, `Notes of the import (${notes.length})`), list(notes.map(forPage))) : null);
}

const list = (texts) => h("ul.list", {}, ...texts.map((text) => h("li", {}, text)));

function leftOutOf({ dropped_entries: entries = {}, dropped_parts: parts = {}, dropped = {}, masked = {}, problems = 0 }) {
  const lines = (counts, what, how = "") => Object.entries(counts).map(([reason, number]) => `${how}${reason}: ${count(number, what)}`);
  return [...lines(entries, "message"), ...lines(parts, "time", "within messages, "), ...lines(dropped, "conversation"), ...lines(masked, "time", "masked, "),
    ...lines(problems ? { "could not be read": problems } : {}, "row")];
}

/** Who the model should be, and how the data are prepared: changing it prepares them again. */
function showChoices(preparation, act) {
  const { speakers, status, more_speakers: more } = preparation;
  const wants = status === "needs_speaker";
  const shown = speakers.slice(0, SHOWN);
  const own = preparation.me ?? (speakers.some(({ name }) => name === "assistant") ? "assistant" : null);
  const isRare = speakers.slice(SHOWN).some(({ name }) => name === own); // then the list below has it
  const radio = ({ name, turns, first_words: words }) => h("label.choice", {},
    h("input", { type: "radio", name: "me", value: name, checked: name === own, required: !isRare, onchange: clearOthers }),
    h("span", {}, h("b", {}, name), ` ${count(turns, "turn")}`, words ? h("span.quiet", {}, ` “${words}”`) : null));
  const tick = (name, checked, text, why) => h("label.choice", {}, h("input", { type: "checkbox", name, checked }), h("span", {}, text, h("span.quiet", {}, ` ${why}`)));
  const trainable = models.filter(({ id }) => facts(id).fine_tuning);
  const model = h("select", { name: "model" }, ...trainable.map(({ id }) => h("option", { value: id, title: id, selected: id === preparation.model }, modelTitle(id))));
  const options = [
    speakers.length > 2 || preparation.merge_others ? tick("merge_others", preparation.merge_others, "Treat all other people as one.", "For groups: many models know two speakers only.") : null,
    tick("redact", preparation.redact, "Mask personal data.", "Web, e-mail and IP addresses, phone and account numbers, and the names of those who write are replaced. Other names, places and stories stay."),
    tick("on_error", preparation.on_error === "skip", "Leave out what cannot be read.", "Instead of stopping at the first error; what is left out is counted."),
    field("Model to train", "The new model begins as a copy of it; it stays as it is.", model),
  ];
  const submit = (event) => {
    event.preventDefault();
    const { me, ...rest } = Object.fromEntries(new FormData(event.target));
    const merges = "merge_others" in rest; // which needs the speaker's name, even if it is the usual one
    const isUsual = me === undefined || (me === "assistant" && preparation.me === null && !merges);
    act.prepare({ files: preparation.files, model: rest.model, me: isUsual ? preparation.me : me, merge_others: merges, redact: "redact" in rest, on_error: "on_error" in rest ? "skip" : "fail" }, preparation.id);
  };
  return awaitApply(h("form", { onsubmit: submit },
    shown.length ? h("fieldset", {}, h("legend", {}, "Who should the model be?"),
      h("p.quiet", {}, "It learns to write as this person does; what the others write is only read."), ...shown.map(radio),
      speakers.length > shown.length ? h("label.field", {}, "Or another of the ", count(speakers.length - shown.length, "person", "people"), " who wrote less:", others(speakers.slice(SHOWN), own)) : null,
      more ? h("p.quiet", {}, `${count(more, "more person has", "more people have")} fewer turns, too few to learn from.`) : null) : null,
    h("details", { open: wants && speakers.length > 2 || status === "failed" }, h("summary", {}, "More choices"), ...options),
    wants ? null : h("p.unapplied", { hidden: true, "aria-live": "polite" }, "Apply the choices, so that the data are prepared again; then the training can start."),
    row(h("button", { type: "submit", className: wants ? "main" : "" }, wants ? "Continue" : "Apply the choices"))));
}

/** Hides the start of a training while the choices are others than those of the data. */
function awaitApply(form) {
  const chosen = () => new URLSearchParams(new FormData(form)).toString();
  const applied = chosen();
  form.addEventListener("change", () => {
    const isApplied = chosen() === applied;
    for (const each of form.querySelectorAll(".unapplied")) each.hidden = isApplied;
    for (const each of document.querySelectorAll(".begin")) each.hidden = !isApplied;
  });
  return form;
}

/** The choice among many people, which overrules the others until one of them is chosen. */
function others(speakers, own) {
  const select = h("select.others", { onchange: () => {
    const isChosen = select.value !== "";
    select.name = isChosen ? "me" : "";
    for (const each of select.form.querySelectorAll("[type=radio]")) [each.checked, each.required] = [false, !isChosen];
  } }, h("option", { value: "" }, "—"), ...speakers.map(({ name }) => h("option", { value: name, selected: name === own }, name)));
  select.name = select.value ? "me" : "";
  return select;
}

function clearOthers({ target }) {
  const select = target.form.querySelector(".others");
  if (select) [select.value, select.name] = ["", ""];
}

const MARKS = { pass: "✓ passed", warn: "! warning", fail: "✕ failed" };

/** Shows checks: those that did not pass first, with what to do. */
export function showChecks(checks, blocking = "") {
  const item = ({ name, status, finding, fix }) => h(`li.${status}`, {}, h("b", {}, `${MARKS[status] ?? status}: ${name}. `), finding, fix ? h("p", {}, `What to do: ${forPage(fix)}`) : null);
  const passed = checks.filter(({ status }) => status === "pass");
  const others = checks.filter(({ status }) => status !== "pass");
  return h("section", {},
    h("h3", {}, "Checks"),
    blocking ? h("p.problem", { role: "alert" }, `With these data a training would be pointless. ${blocking}`) : null,
    blocking ? h("p", {}, "Choose another person above, or add files with more of what they wrote.") : null,
    others.length ? h("ul.checks", {}, ...others.map(item)) : h("p", {}, `All ${count(passed.length, "check")} passed.`),
    passed.length ? h("details", {}, h("summary", {}, others.length ? `${count(passed.length, "check")} passed` : "Which checks"), h("ul.checks", {}, ...passed.map(item))) : null);
}

function estimateText({ seconds, memory_bytes: memory, available_bytes: available, at_most: most }) {
  const room = isNumber(available) ? ` of the ${size(available)} that are free` : "";
  const use = isNumber(memory) ? `, and ${size(memory)} of memory${room}` : "";
  return `The training takes ${most ? "at most " : ""}about ${time(seconds)} on this server${use}.${most ? " It ends earlier when it no longer helps." : ""}`;
}

/** A name that the server accepts, made of a person's or a file's; "" if it is written in other letters. */
const plain = (name) => name.normalize("NFD").replace(/\p{M}/gu, "").replace(/[^A-Za-z0-9._-]+/g, "-").replace(/-+/g, "-").replace(/^-|-$/g, "").slice(0, 64);

function showStart(preparation, act) {
  const { me, filenames: files, estimate, training_file: train, validation_file: valid, model } = preparation;
  const isSmall = estimate && estimate.memory_bytes - estimate.activation_bytes < STATE * SMALL;
  const rule = "Unaccented letters (A-Z, a-z), digits, dots, hyphens and underscores; no spaces.";
  const checkName = ({ target }) => target.setCustomValidity(target.validity.patternMismatch ? rule : "");
  const name = h("input", { name: "suffix", maxLength: 64, pattern: "[A-Za-z0-9._\\-]+", oninput: checkName, value: plain(me ?? "") || plain(files[0].replace(/\.[^.]*$/, "")) || "my-model", required: true, autocomplete: "off" });
  const passes = h("select", { name: "passes" }, h("option", { value: "auto" }, valid ? "As long as it helps" : "As usual"),
    ...[1, 2, 3, 5, 10].map((number) => h("option", { value: number }, number === 1 ? "Once through the data" : `${number} times through the data`)));
  const rate = h("select", { name: "rate" }, h("option", { value: "auto", selected: !isSmall }, "Carefully: for large models"),
    h("option", { value: HIGH, selected: isSmall }, "Boldly: for small models, such as the one built in"));
  const batch = h("select", { name: "batch" }, h("option", { value: "auto" }, "As suits the data"), ...[1, 2, 4, 8, 16, 32].map((number) => h("option", { value: number }, String(number))));
  const valueOf = ({ value }) => (value === "auto" ? value : Number(value));
  const submit = (event) => {
    event.preventDefault();
    const hyperparameters = { n_epochs: valueOf(passes), learning_rate_multiplier: valueOf(rate), batch_size: valueOf(batch) };
    act.begin({ model, training_file: train, ...(valid ? { validation_file: valid } : {}), suffix: name.value, hyperparameters });
  };
  return h("form.begin", { onsubmit: submit, hidden: [...document.querySelectorAll(".unapplied")].some((each) => !each.hidden) },
    h("h3", {}, "Start"),
    estimate ? h("p", {}, estimateText(estimate)) : null,
    field("Name of the new model", rule, name),
    h("details", {}, h("summary", {}, "How to train"), field("How long (epochs)", valid ? "The data that are set apart show when it no longer helps." : "There are too few data to set some apart and watch when it no longer helps.", passes),
      field("How it learns (learning rate)", "A bold rate changes the model faster; a large model forgets what it knew from it.", rate),
      field("Batch size", "How many conversations, or parts of them, it learns from in one step.", batch)),
    row(h("button.main", { type: "submit" }, "Start training")));
}
