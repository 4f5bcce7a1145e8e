// The start of "Train": a place for files, earlier trainings, and data that were prepared.

import { button, h } from "./dom.js";
import { count, time } from "./format.js";
import { isUploading, showDrop, showUpload } from "./train-upload.js";

const STATES = {
  queued: "waits for another training", validating_files: "its data are checked", running: "is being trained", paused: "paused",
  succeeded: "ready", failed: "failed", cancelled: "cancelled",
};
const STAGES = {
  importing: "being read", needs_speaker: "who should the model be?", checking: "being checked", ready: "ready to train", failed: "cannot be used yet",
};

/** Returns whether something happens to a job without anybody's doing. */
export const isActive = ({ job }) => ["queued", "validating_files", "running"].includes(job.status);

/** Returns whether a job has ended. */
export const hasEnded = ({ job }) => ["succeeded", "failed", "cancelled"].includes(job.status);

/** Returns whether data are being prepared. */
export const isBusy = ({ status }) => ["importing", "checking"].includes(status);

/** Returns the name of a training. */
export const nameOf = ({ job, model, base }) => job.user_provided_suffix ?? model ?? `a training of ${base}`;

/** Returns the name of prepared data. */
export const dataOf = ({ filenames, me }) => `${filenames.length > 3 ? `${filenames.slice(0, 2).join(", ")} and ${filenames.length - 2} more` : filenames.join(", ")}${me ? `, ${me}` : ""}`;

const when = (seconds) => new Date(seconds * 1000).toLocaleString("en", { dateStyle: "medium", timeStyle: "short" });

/**
 * Shows the start.
 * @param {{jobs: Object[], preparations: Object[]}|null} lists what the server has
 * @param {Object} act what buttons do
 */
export function startItems(lists, act) {
  return [
    isUploading() ? ["upload", showUpload] : ["drop", () => showDrop(act.choose)],
    ["consent", () => h("p.quiet", {}, "Is it your chat to use? The other person's words are in it, and a model can repeat what it was trained on: ask first, and don't publish the model.")],
    ...(lists?.jobs.length ? [[JSON.stringify(["jobs", lists.jobs]), () => section("Trainings", lists.jobs.map((view) => showJob(view, act)))]] : []),
    ...(lists?.preparations.length
      ? [[JSON.stringify(["data", lists.preparations]), () => section("Prepared data", lists.preparations.map((each) => showData(each, act)))]] : []),
  ];
}

const section = (title, rows) => h("section", {}, h("h3", {}, title), h("ul.entries", {}, ...rows));

function showJob(view, act) {
  const { job, model, step, total_steps: total, seconds_left: left } = view;
  const at = isActive(view) && step ? `, step ${step}${total ? ` of ${total}` : ""}${left ? `, ${time(left)} left` : ""}` : "";
  const state = job.status === "succeeded" && !model ? "its model was deleted" : STATES[job.status] + at;
  const name = nameOf(view);
  return h("li", {},
    h("div", {}, button(name, () => act.openJob(job.id), { className: "link" }), h("p.quiet", {}, `${state} · from ${view.base} · ${when(job.created_at)}`)),
    model ? h("div.tools", {}, button("Chat", () => act.chat(view), { "aria-label": `Chat with ${name}` }),
      button("Delete", () => act.removeModel(view), { "aria-label": `Delete ${name}` })) : null);
}

function showData(preparation, act) {
  const { id, status, summary, created_at: created } = preparation;
  const read = summary?.conversations ? `${count(summary.conversations, "conversation")} · ` : "";
  return h("li", {},
    h("div", {}, button(dataOf(preparation), () => act.openData(id), { className: "link" }), h("p.quiet", {}, `${read}${STAGES[status]} · ${when(created)}`)),
    h("div.tools", {}, button("Delete", () => act.removeData(preparation), { "aria-label": `Delete ${dataOf(preparation)}` })));
}
