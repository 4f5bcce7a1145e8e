// A training: its curve, what the model says at each validation, and what can be done with it.

import { curves } from "./curve.js";
import { button, h, row } from "./dom.js";
import { number, time } from "./format.js";
import { showChecks } from "./train-data.js";
import { hasEnded, isActive, nameOf } from "./train-list.js";

/** Describes in a sentence where a training is. */
export function describe(view) {
  const { job, step, total_steps: total, seconds_left: left, verdict, model } = view;
  const at = `step ${step}${total ? ` of at most ${total}` : ""}`;
  const before = total ? "The first steps are being trained." : "The model and the data are being loaded.";
  return {
    queued: step ? `Waiting to resume from ${at}.` : "It waits until the training before it has ended.",
    validating_files: "The data are being checked.",
    running: step ? `It learns: ${at}${left ? `, at most about ${time(left)} left` : ""}.` : before,
    paused: `It is paused${step ? ` after ${at}` : ""}. Nothing is lost: Continue resumes it, also after a restart of the server.`,
    succeeded: model ? verdict ?? `${nameOf(view)} is ready.` : "It has ended, and its model was deleted.",
    failed: `The training failed: ${job.error?.message ?? "the server's log has the reason"}`,
    cancelled: `It was cancelled${step ? ` after ${at}` : ""}, and nothing of it was kept.`,
  }[job.status];
}

/** Shows a training. */
export function jobItems(view, act) {
  const { job, train, valid, samples, checks } = view;
  const kept = job.status === "succeeded" && job.method.type === "supervised" ? bestOf(valid)?.[0] : undefined;
  return [
    [JSON.stringify(["state", describe(view), view.step, view.total_steps]), () => showState(view)],
    [JSON.stringify(["act", job.status, view.model]), () => showActions(view, act)],
    ...(view.model && view.folder ? [[`folder ${view.folder}`, () => showFolder(view.folder)]] : []),
    ...(train.length + valid.length > 1 ? [[JSON.stringify(["curve", train.at(-1), valid.at(-1), valid.length]), () => showCurve(train, valid)],
      [JSON.stringify(["values", valid]), () => showValues(train, valid)]] : []),
    ...(samples.length ? [[JSON.stringify(["samples", samples.length, samples.at(-1), kept]), () => showSamples(samples, kept)]] : []),
    ...(checks?.some(({ status }) => status !== "pass") ? [[JSON.stringify(["checks", checks]), () => showChecks(checks)]] : []),
  ];
}

function showState(view) {
  const { job, step, total_steps: total } = view;
  const isOver = hasEnded(view);
  const shows = isActive(view) || job.status === "paused";
  return h("section", {},
    h(job.status === "failed" ? "p.problem" : isOver && view.model ? "p.verdict" : "p", job.status === "failed" ? { role: "alert" } : {}, describe(view)),
    shows ? h("progress.wide", { "aria-label": "Progress of the training", max: total ?? undefined, value: total && step ? step : job.status === "running" ? undefined : 0 }) : null,
    isActive(view) ? h("p.quiet", {}, "You can close this view or the page: the training continues, and you find it here again.") : null,
    job.status === "failed" ? h("p", {}, "What now? Train again as before, or change the data or the choices.") : null);
}

function showActions(view, act) {
  const { job, base, model } = view;
  const cancel = button("Cancel", () => act.cancel(view));
  if (isActive(view)) return row(button("Pause", () => act.pause(view)), cancel);
  if (job.status === "paused") return row(button("Continue", () => act.resume(view), { className: "main" }), cancel); // each in its place
  const vary = button("Change the choices", () => act.vary(view));
  if (!model) return row(button("Train again", () => act.repeat(view), { className: "main" }), vary);
  return row(button("Chat with it", () => act.chat(view), { className: "main" }), button(`Compare it blind with ${base}`, () => act.compare(view)), vary,
    button("Delete the model", () => act.removeModel(view)));
}

/** Shows where the model is, and commands for it. */
function showFolder(folder) {
  const path = /^[\w./-]+$/.test(folder) ? folder : `'${folder.replaceAll("'", "'\\''")}'`;
  return h("details", {}, h("summary", {}, "In the terminal, or as one page to share"),
    h("p", {}, `On the server, the model is in ${folder}. Run there, in the folder that contains ${folder.split("/")[0]}:`),
    h("pre", {}, `convmodel chat --model ${path}\nconvmodel export ${path} -o bot.html`));
}

/** Returns the validation whose model is kept, if there was one. */
const bestOf = (valid) => valid.reduce((best, each) => (best && best[1] <= each[1] ? best : each), undefined);

const showCurve = (train, valid) => h("section", {},
  curves("Loss", [{ name: "training", className: "train", points: train }, { name: "validation", className: "valid", points: valid.map(([step, loss]) => [step, loss]) }]),
  h("p.quiet", {}, "How much the real replies surprise the model: lower is better. If the validation rises while the training falls, it memorizes; the model of the best validation is the one that is kept."));

function showValues(train, valid) {
  const before = (step) => train.findLast(([at]) => at <= step)?.[1];
  const best = bestOf(valid)?.[0];
  const cell = (value) => h("td", {}, value === undefined || value === null ? "–" : number(value));
  const line = ([step, loss, perplexity]) => h("tr", {}, h("th", { scope: "row" }, `${step}${step === best ? " (best)" : ""}`), cell(before(step)), cell(loss), cell(perplexity));
  const heads = ["Step", "Training loss", "Validation loss", "Perplexity"].map((text) => h("th", { scope: "col" }, text));
  return h("details", {}, h("summary", {}, "The validations as a table"),
    h("table", {}, h("thead", {}, h("tr", {}, ...heads)), h("tbody", {}, ...valid.map(line))));
}

/** What the model says to the same turns at each validation, beside what was really said. */
function showSamples(samples, kept) {
  const groups = new Map();
  for (const sample of samples) {
    const key = JSON.stringify([sample.context, sample.expected]);
    groups.set(key, [...groups.get(key) ?? [], sample]);
  }
  return h("section", {}, h("h3", {}, "What it says"),
    h("p.quiet", {}, "To turns outside the training data."), ...[...groups.values()].map((group) => showGroup(group, kept)));
}

function showGroup(group, kept) {
  const first = group[0];
  const last = group.find(({ step }) => step === kept) ?? group.at(-1); // what was learned after the kept step is lost
  const reply = (title, text, name = "p.text") => h("div.side", {}, h("h4", {}, title), h(name, {}, text || "(nothing)"));
  return h("div.sample", {},
    h("blockquote", {}, ...first.context.map(({ role, content }) => h("p", {}, h("b", {}, `${role}: `), content))),
    h("div.pair", {},
      ...(group.length > 1 ? [reply(`Said before (step ${first.step})`, first.response)] : []),
      reply(`Says now (step ${last.step})`, last.response),
      reply("The real reply", first.expected)),
    group.length > 2 ? h("details", {}, h("summary", {}, `All ${group.length} validations`),
      h("ul.list", {}, ...group.map(({ step, response }) => h("li", {}, h("b", {}, `Step ${step}: `), response)))) : null);
}

/** Returns what is announced of a training since it was looked at last, or of one that is shown first; or "". */
export function news(before, view) {
  if (before?.job.status !== view.job.status) return `${nameOf(view)}: ${describe(view)}`;
  if (view.valid.length > before.valid.length) {
    const [step, loss] = view.valid.at(-1);
    return `Validation at step ${step}: loss ${number(loss)}.`;
  }
  return "";
}
