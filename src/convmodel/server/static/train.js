// "Train": from files to a model that is chatted with. Where the user is in it survives a reload; what happens is the server's.

import { $, ask, button, fill, h, row, say, update } from "./dom.js";
import { facts, models, settings } from "./settings.js";
import { TRAIN, session } from "./store.js";
import { jobs, preparations, removeFile, removeModel } from "./train-api.js";
import { dataItems } from "./train-data.js";
import { jobItems, news } from "./train-job.js";
import { dataOf, hasEnded, isActive, isBusy, nameOf, startItems } from "./train-list.js";
import { acceptDrops, choose, chooser, clean, discard, isUploading, keep, send, showUpload } from "./train-upload.js";

const EVERY = 1000; // ms between two looks at what runs
const START = { name: "start", id: "" };

let place = START;
let seen = null; // what the server reports of this place
let problem = "";
let pending = null; // resolves when what a click asked for is done
let timer = null;
let page = {}; // what the view does to the rest of the page: `reload`, `chat` and `compare`
const PLACES = {
  start: {
    title: () => "Train",
    read: async () => {
      const [all, data] = await Promise.all([jobs.all(), preparations.all()]);
      return { jobs: all, preparations: data };
    },
    items: () => startItems(seen, act),
    isBusy: () => seen.jobs.some(isActive) || seen.preparations.some(isBusy),
    news: () => "",
  },
  data: {
    title: () => (seen ? `Train on ${dataOf(seen)}` : "Train"),
    read: () => preparations.get(place.id),
    items: () => (seen ? dataItems(seen, act) : []),
    isBusy: () => isBusy(seen),
    news: (before) => (before?.status === seen.status ? "" : stages[seen.status]),
  },
  job: {
    title: () => (seen ? `Train ${nameOf(seen)}` : "Train"),
    read: () => jobs.get(place.id),
    items: () => (seen ? jobItems(seen, act) : []),
    isBusy: () => !hasEnded(seen), // a paused one may be resumed elsewhere
    news: (before) => news(before, seen),
  },
};
const stages = {
  importing: "The files are being read.", needs_speaker: "The files were read. Choose who the model should be.",
  checking: "The data are being checked.", ready: "The data are ready: the training can start.", failed: "The data cannot be used yet.",
};

/** What the buttons of the view do. */
const act = {
  choose,
  start: () => go(START),
  openData: (id) => go({ name: "data", id }),
  openJob: (id) => go({ name: "job", id }),
  again: () => act.prepare(choicesOf(seen), seen.id),
  prepare: (body, replaced, waits = false) => perform(async () => {
    const old = replaced && await preparations.get(replaced).catch(() => null); // it may be gone
    const mayRemove = old && !await isNeeded(old);
    const { id } = await preparations.begin(body);
    keep();
    if (mayRemove) await preparations.remove(replaced).catch(() => {}); // the list has it, if this fails
    return { name: "data", id };
  }, waits),
  begin: (body) => perform(async () => ({ name: "job", id: (await jobs.begin(body)).id })),
  repeat: ({ job }) => perform(async () => {
    const { id } = await jobs.begin(orderOf(job)).catch((error) => {
      throw error.kind === "gone" ? new Error(DELETED) : error;
    });
    return { name: "job", id };
  }),
  vary: ({ job }) => perform(async () => {
    const data = (await preparations.all()).find(({ training_file: file }) => file === job.training_file);
    if (!data) throw new Error(DELETED);
    return { name: "data", id: data.id };
  }),
  pause: ({ job }) => perform(() => jobs.pause(job.id)),
  resume: ({ job }) => perform(() => jobs.resume(job.id)),
  cancel: async ({ job }) => {
    if (await ask({ title: "Cancel this training?", text: "What it has learned is lost. Pause keeps it.", yes: "Cancel the training", no: "Keep training" })) perform(() => jobs.cancel(job.id));
  },
  removeData: async (preparation) => {
    const text = `${dataOf(preparation)}: what was sent and what was made of it are deleted on the server. Models that were trained on it stay.`;
    if (!await ask({ title: "Delete these data?", text, yes: "Delete" })) return;
    perform(async () => {
      if (await isNeeded(preparation)) throw new Error("A training that has not ended needs these data: cancel it or wait for its end, and delete them then.");
      await preparations.remove(preparation.id);
      const others = (await preparations.all()).flatMap(({ files }) => files);
      await Promise.allSettled(preparation.files.filter((id) => !others.includes(id)).map(removeFile));
      return START;
    });
  },
  removeModel: async (view) => {
    if (!await ask({ title: "Delete this model?", text: `The model ${nameOf(view)} is deleted on the server. Its data stay.`, yes: "Delete" })) return;
    perform(async () => { await removeModel(view.model); await page.reload(); });
  },
  chat: (view) => leave(() => page.chat(view.model)),
  compare: ({ model, base, job }) => leave(() => page.compare(models.some(({ id }) => id === job.model) ? job.model : base, model)),
};

/** Returns whether a training needs what was made of data: the server keeps that, and nothing would show it. */
const isNeeded = async (data) => data?.training_file && (await jobs.all()).some((view) => !hasEnded(view) && view.job.training_file === data.training_file);
const DELETED = "The data of this training were deleted: choose the files again under “All trainings and data”.";
const orderOf = ({ model, training_file, validation_file, method, user_provided_suffix: suffix }) => ({ model, training_file, method,
  ...(validation_file ? { validation_file } : {}), ...(suffix ? { suffix } : {}) });
const choicesOf = ({ files, model, me, merge_others, redact, on_error }) => ({ files, model, me, merge_others, redact, on_error });

/** Opens the view, where this tab was in it or else where something happens; `other` is what it does to the page. */
export async function open(other) {
  page = other;
  [seen, problem] = [null, ""];
  const dialog = $("train-dialog");
  fill(dialog,
    h("p.back", {}, button("‹ All trainings and data", act.start, { id: "train-all", hidden: true, className: "link" })),
    h("h2", { id: "train-title", tabIndex: -1 }, "Train"),
    h("div", { id: "train-intro" }),
    h("div", { id: "train-problem" }),
    h("div", { id: "train-body" }),
    h("p.hidden", { role: "status" }),
    row(button("Close", () => { dialog.close(); close(); })),
    chooser(take));
  acceptDrops(dialog, take, (text) => { problem = text; show(); });
  dialog.onclose = () => { if (!isOpen()) close(); }; // it may have been opened again since
  if (!dialog.open) dialog.showModal();
  place = stored() ?? START;
  const wasOpen = session.getItem(TRAIN) !== null;
  remember();
  show();
  if (await clean()) problem = "The page was left while files were being sent: choose them again.";
  if (wasOpen) await load();
  else await findPlace();
}

function stored() {
  try {
    const { name, id } = JSON.parse(session.getItem(TRAIN));
    return name in PLACES ? { name, id } : null;
  } catch {
    return null;
  }
}

const remember = () => session.setItem(TRAIN, JSON.stringify(place));
const isOpen = () => $("train-dialog").open;

function close() {
  session.removeItem(TRAIN);
  clearTimeout(timer);
}

/** Goes to what runs or waits for the user, so that another tab finds it. */
async function findPlace() {
  await load();
  if (place !== START || !seen || isUploading()) return;
  const job = seen.jobs.find((view) => !hasEnded(view));
  const trained = new Set(seen.jobs.map((view) => view.job.training_file));
  const data = seen.preparations[0];
  const isNew = data && !trained.has(data.training_file) && data.created_at >= (seen.jobs[0]?.job.created_at ?? 0);
  if (job) go({ name: "job", id: job.job.id });
  else if (isNew) go({ name: "data", id: data.id });
}

function go(next) {
  if (place.name !== next.name || place.id !== next.id) [place, seen, problem] = [next, null, ""];
  if (!isOpen()) return;
  remember();
  show();
  $("train-dialog").scrollTop = 0;
  $("train-title").focus();
  return load();
}

/** Closes the view, and does something to the page that needs the server's newest models. */
function leave(then) {
  return perform(async () => {
    await page.reload();
    $("train-dialog").close();
    then();
  });
}

let reading = 0;

/** Reads this place from the server, again and again while something happens there. */
async function load() {
  clearTimeout(timer);
  const turn = reading += 1;
  const before = seen;
  let next = null;
  let failure = null;
  try {
    next = await PLACES[place.name].read();
  } catch (error) {
    failure = error;
  }
  if (turn !== reading || !isOpen()) return;
  if (failure?.kind === "gone" && place !== START) {
    await go(START);
    problem = failure.message;
    show();
    return;
  }
  if (!problem || problem === unread) problem = failure?.message ?? "";
  unread = failure?.message ?? "";
  if (!failure) {
    seen = next;
    const text = PLACES[place.name].news(before);
    if (text) say(text);
    if (place.name === "job" && before && !hasEnded(before) && hasEnded(seen)) page.reload();
  }
  show();
  if (failure || PLACES[place.name].isBusy()) timer = setTimeout(load, failure ? 3 * EVERY : EVERY);
}

let unread = ""; // the problem of the last reading, which ends with it

/** Does what a click asks for, unless another one is answered or after that; the place that it returns is shown then. */
async function perform(what, waits = false) {
  if (pending && !waits) return false;
  while (pending) await pending;
  let finish;
  pending = new Promise((resolve) => { finish = resolve; });
  problem = "";
  let next;
  try {
    next = await what();
  } catch (error) {
    problem = error.message;
  } finally {
    pending = null;
    finish();
  }
  const isDone = !problem;
  if (!isOpen()) return isDone;
  if (next?.name in PLACES) await go(next);
  else await load();
  return isDone;
}

/** Sends files and prepares them: those that are dropped on prepared data are added to them. */
async function take(files) {
  if (isUploading()) {
    problem = "Other files are being sent: wait for them, or cancel that first.";
    show();
    return;
  }
  const base = place.name === "data" && seen ? choicesOf(seen) : null;
  const from = place;
  problem = "";
  if (!base) await go(START);
  try {
    const sending = send(files);
    show();
    const ids = await sending;
    if (base && place !== from) await act.openData(from.id);
    const isDone = await (base ? act.prepare({ ...base, files: [...base.files, ...ids] }, from.id, true)
      : act.prepare({ files: ids, model: trainable(), me: null, merge_others: false, redact: false, on_error: "fail" }, null, true));
    if (!isDone) await discard(ids);
  } catch (error) {
    if (error.name === "AbortError") say("The upload was cancelled.");
    else problem = error.message;
  }
  if (isOpen()) show();
}

const trainable = () => (facts(settings.model).fine_tuning ? settings.model : models.find(({ id }) => facts(id).fine_tuning)?.id ?? settings.model);

function show() {
  const here = PLACES[place.name];
  const dialog = $("train-dialog");
  const hadFocus = dialog.contains(document.activeElement);
  $("train-title").textContent = here.title();
  $("train-all").hidden = place.name === "start";
  update($("train-intro"), place.name === "start" ? [["intro", () => h("p", {}, "Make a model that writes like somebody: give it a chat that you exported. The files go to this server and nowhere else. Nothing that is there is replaced.")]] : []);
  update($("train-problem"), problem ? [[problem, () => h("p.problem", { role: "alert" }, problem)]] : []);
  const waits = seen || problem || place.name === "start" ? [] : [["waits", () => h("p.quiet", {}, "Reading …")]];
  const uploading = isUploading() && place.name !== "start" ? [["upload", showUpload]] : [];
  update($("train-body"), [...uploading, ...waits, ...here.items()]);
  if (hadFocus && !dialog.contains(document.activeElement)) $("train-title").focus();
}
