// Improving the model: judgements, the job that trains on them, a blind comparison, the choice of a version.

import * as api from "./api.js";
import { respond, shuffled } from "./compare.js";
import { curve } from "./curve.js";
import { $, button, fill, h, row, say, terms, update } from "./dom.js";
import { count, interval, isNumber, number, percent, time } from "./format.js";
import { IMPROVE, session } from "./store.js";
import { settings, modelTitle, value } from "./settings.js";
import { OPENERS } from "./view.js";

const EVERY = 1000; // ms between two looks at a running job
const KINDS = { thumb: "Good and bad ratings", edit: "Corrections and edits", vote: "Votes", regeneration: "Regenerations", pair: "Pairs" };

let state = null; // what the server reports
let problem = ""; // of the latest request
let pending = false; // whether a click is being answered
let timer = null;
let comparing = null; // the comparison that is shown, or null
let position = 0; // of the next comparison, also after skipped ones and errors
let voted = false; // whether the last vote was saved
let refused = []; // why contexts in a row were left out
let onchange = () => {};

/** Opens the view; `changed` is called when another version is served. */
export function open(changed) {
  onchange = changed;
  const dialog = $("improve-dialog");
  [state, problem, pending] = [null, "", false];
  fill(dialog,
    h("h2", { id: "improve-title" }, "Improve"),
    h("p", {}, "What people thought of the responses becomes a new version of the model: rate responses as Good or Bad, correct them, or vote. The model answers meanwhile, and nothing is replaced until you choose the new version."),
    h("p.quiet", { id: "improve-others", hidden: true }, "To improve another model, choose it in the settings first."),
    h("div", { id: "improve-job" }),
    h("section", { id: "improve-compare", hidden: true, "aria-labelledby": "improve-which" }),
    h("div", { id: "improve-use" }),
    h("p.hidden", { role: "status" }),
    row(button("Close", () => dialog.close())));
  dialog.onclose = close;
  session.setItem(IMPROVE, "1");
  if (!dialog.open) dialog.showModal();
  load();
}

function close() {
  session.removeItem(IMPROVE);
  clearTimeout(timer);
  stop();
}

function stop() {
  comparing?.abort();
  comparing = null;
}

const isOpen = () => $("improve-dialog").open;
const isRunning = (job) => ["running", "cancelling"].includes(job?.state);
const isBusy = () => isRunning(state?.job) || state?.candidate?.state === "loading";

/** Reads the state from the server, again and again while something happens there. */
async function load(request = api.improvement.state) {
  clearTimeout(timer);
  const before = state;
  try {
    const next = await request();
    [state, problem] = [next, ""];
    announce(before);
  } catch (error) {
    problem = error.message;
  }
  if (!isOpen()) return;
  show();
  if (isBusy() || (problem && request === api.improvement.state)) timer = setTimeout(load, problem ? 3 * EVERY : EVERY);
}

/** Sends what a click asks for. */
async function act(request) {
  pending = true;
  show();
  const before = versions();
  await load(request);
  pending = false;
  if (!isOpen()) return;
  show();
  if (versions() !== before) onchange();
}

const versions = () => JSON.stringify(state?.models ?? null);

function announce(before) {
  const { job, candidate } = state;
  if (!before) return;
  if (candidate?.state === "ready" && before.candidate?.state !== "ready") say("The new version is loaded. Compare it with the old one.");
  else if (job && job.state !== before.job?.state) say(describe(job));
}

function show() {
  const { judgements, job, candidate } = state ?? {};
  const name = modelName();
  if (name) $("improve-title").textContent = `Improve ${modelTitle(name)}`;
  $("improve-others").hidden = !(state?.models.length > 1);
  update($("improve-job"), [
    ...(problem ? [[`problem ${problem}`, () => h("p.problem", { role: "alert" }, problem)]] : []),
    ...(state ? [[JSON.stringify(["judgements", judgements]), () => showJudgements(judgements)]]
      : problem ? [] : [["loading", () => h("p.quiet", {}, "Reading the judgements …")]]),
    ...(job ? [[JSON.stringify(["job", job]), () => showJob(job)]] : []),
    ...(state ? [[JSON.stringify(["act", job?.state, job?.resumable, judgements.needed, judgements.problems, pending, name]), () => showActions(judgements, job, name)]] : []),
  ]);
  showComparison(candidate);
  const served = state?.models.find(({ id }) => id === name);
  update($("improve-use"), [
    ...(candidate ? [[JSON.stringify(["use", candidate, pending]), () => showVotes(candidate)]] : []),
    ...(served?.old ? [[JSON.stringify(["old", served, pending]), () => showOld(served)]] : []),
  ]);
}

/** The model to improve: the chosen one, or that of the job. */
const modelName = () => (state?.models.some(({ id }) => id === settings.model) ? settings.model : state?.models[0].id ?? "");

function showJudgements({ kinds, total, liked, disliked, pairs, needed, left_out: leftOut, problems }) {
  const parts = [[liked, "good"], [disliked, "bad"], [pairs, pairs === 1 ? "choice between two" : "choices between two"]];
  const rows = Object.entries(kinds).map(([kind, count]) => [KINDS[kind] ?? kind, String(count)]);
  return h("section", {},
    h("h3", {}, "Judgements"),
    h("p", {}, total ? `${total} judgement${total === 1 ? "" : "s"}: ${parts.filter(([count]) => count).map(([count, what]) => `${count} ${what}`).join(", ")}.` : "There are no judgements yet."),
    rows.length ? terms(rows) : null,
    needed ? h("p.needed", {}, `Still needed: ${needed}.`) : null,
    ...leftOut.map((text) => h("p.quiet", {}, text)),
    ...problems.map((text) => h("p.problem", {}, `${text} The file must be corrected on the server.`)));
}

function showActions({ needed, problems }, job, name) {
  if (isRunning(job)) {
    const isEnding = job.state === "cancelling";
    return row(button(isEnding ? "Stopping …" : "Cancel", () => act(api.improvement.cancel), { disabled: isEnding || pending }));
  }
  const text = job?.resumable ? "Continue" : job ? "Improve again" : "Start improving";
  const disabled = pending || needed !== "" || problems.length > 0;
  return row(button(text, () => { stop(); act(() => api.improvement.begin(name)); }, { disabled, className: job?.state === "done" ? "" : "main" }));
}

function describe({ state: now, error, progress, version, result }) {
  const { step, steps, seconds } = progress;
  const at = step ? `step ${step}${steps ? ` of ${steps}` : ""}${seconds ? `, ${time(seconds)}` : ""}` : "it reads the judgements and the model";
  return {
    running: `${version} is being trained: ${at}.`,
    cancelling: `${version} is being stopped after its current step.`,
    cancelled: `${version} was stopped at ${step ? `step ${step}` : "the start"}. Continue resumes it.`,
    interrupted: `${version} was interrupted at ${step ? `step ${step}` : "the start"}, because the server or the job was stopped. Continue resumes it.`,
    failed: `${version} failed: ${error}`,
    done: result?.steps === 0 ? `Nothing was learned: ${version} is the model as it was.` : `${version} is trained.`,
  }[now];
}

function showJob(job) {
  const { state: now, progress, result } = job;
  const { step, steps, losses = [], perplexities = [], allowed_perplexity: allowed } = progress;
  const curves = losses.length + perplexities.length > 2 ? h("div.pair", {}, curve("Loss", losses), curve("Validation perplexity", perplexities, allowed)) : null;
  return h("section", {},
    h("h3", {}, "Training"),
    h(now === "failed" ? "p.problem" : "p", now === "failed" ? { role: "alert" } : {}, describe(job)),
    isRunning(job) ? h("progress.wide", { "aria-label": "Progress of the training", max: steps ?? undefined, value: steps ? step : undefined }) : null,
    progress.problem ? h("p.problem", {}, progress.problem) : null,
    ...(result ? showResult(result) : []),
    !curves || !result ? curves : h("details", {}, h("summary", {}, "Curves"), curves));
}

/** What the job reports at its end; it may lack anything. */
function showResult({ used, held_out: heldOut, before = {}, after = {}, guard, seconds, steps }) {
  const at = guard && steps ? ` step ${steps}` : "";
  const kept = steps === 0 ? " The model was kept as it was." : steps ? ` The model after step ${steps} was kept.` : ""; // not in older reports
  const rows = [
    ["Judgements", isNumber(used) ? `${used} trained on, ${heldOut ?? 0} held out` : null],
    ["Validation perplexity", isNumber(before.perplexity) && isNumber(after.perplexity) ? `${number(before.perplexity)} before, ${number(after.perplexity)} after${at}` : null],
    ["Responses that end by themselves", isNumber(before.ends) && isNumber(after.ends) ? `${percent(before.ends)} before, ${percent(after.ends)} after` : null],
    ["Time", isNumber(seconds) ? time(seconds) : null],
  ].filter(([, text]) => text);
  return [
    guard ? h("p.problem", {}, `Stopped early: ${guard.replace(/\.?$/, ".")}${kept}`) : null,
    terms(rows),
  ];
}

/** Shows the place of the comparison, which stays while the rest is redrawn. */
function showComparison(candidate) {
  const place = $("improve-compare");
  const key = candidate ? `${candidate.id} ${candidate.old} ${candidate.state}` : "";
  if (place.key === key) return;
  stop();
  place.key = key;
  refused = [];
  position = candidate ? candidate.votes.wins + candidate.votes.losses + candidate.votes.neither : 0;
  place.hidden = !candidate;
  if (!candidate) return;
  const content = {
    loading: () => [h("p.quiet", {}, "The new version is being loaded …")],
    failed: () => [h("p.problem", { role: "alert" }, `The new version cannot be loaded: ${candidate.error}`)],
    ready: () => [
      h("p", {}, "Both respond to a conversation that was not trained on, in a random order. Choose the better response without knowing which version wrote it."),
      h("div", { id: "improve-pair" }, row(button("Show two responses", compareNext, { className: "main" }))),
    ],
  }[candidate.state]();
  fill(place, h("h3", { id: "improve-which" }, "Old or new?"), ...content);
}

const API_ROLES = ["system", "developer", "user", "assistant"];

const isOfContext = ({ kind }) => ["refused", "long"].includes(kind);

/** Shows pairs of responses until the view or the comparison is closed. */
async function compareNext() {
  const { candidate } = state;
  const attempt = position;
  position += 1;
  const held = candidate.contexts[attempt % candidate.contexts.length] ?? { context: [{ role: "user", content: OPENERS[attempt % OPENERS.length] }], responder: "assistant" };
  const turns = held.context.map(({ role, content }) => ({ role: API_ROLES.includes(role) ? role : "user", speaker: role, text: content }));
  const talk = { id: `improve-${attempt}`, pinned: [], names: { me: "user", them: held.responder } };
  const side = (model) => ({ model, like: candidate.model, temperature: value("temperature", candidate.model), topP: value("topP", candidate.model), attempt });
  const order = shuffled([side(candidate.model), side(candidate.id)]);
  const place = $("improve-pair");
  const request = comparing = new AbortController();
  const texts = ["", ""];
  const pair = h("div", {});
  fill(place, h("blockquote", { tabIndex: 0, "aria-label": "The conversation" }, ...turns.map(({ speaker, text }) => h("p", {}, h("b", {}, `${speaker}: `), text))), pair,
    voted ? h("p.quiet", {}, "Your vote was saved.") : null,
    refused.length ? h("p.quiet", {}, `${count(refused.length, "conversation was", "conversations were")} left out: ${refused.at(-1)}`) : null,
    row(button("Skip", () => { stop(); compareNext(); })));
  const [quote] = place.children;
  quote.focus();
  quote.scrollTop = 1e6;
  place.scrollIntoView();
  if (voted) say("Your vote was saved.");
  voted = false;
  try {
    const onText = (index, text) => { texts[index] += text; };
    const winner = await respond(pair, talk, turns, order, { signal: request.signal, onText, onEnd: () => {} })
      .catch((error) => { throw Object.assign(error, { isOfResponse: true }); });
    refused = [];
    await api.vote({
      context: turns.map(({ role, speaker, text }) => ({ role, content: text, ...(speaker === role ? {} : { name: speaker }) })),
      models: [candidate.old, candidate.id],
      responses: order[0].model === candidate.model ? texts : [...texts].reverse(),
      winner: winner === null ? null : order[winner].model === candidate.model ? candidate.old : candidate.id,
      comparison: true, // which is not trained on
    });
    await load();
    voted = comparing === request;
    if (voted) compareNext();
  } catch (error) {
    if (comparing !== request || error.name === "AbortError") return;
    if (error.isOfResponse && isOfContext(error) && refused.push(error.message) < (candidate.contexts.length || OPENERS.length)) {
      compareNext();
      return;
    }
    refused = [];
    fill(place, h("p.problem", { role: "alert" }, error.message), row(button("Try again", compareNext)));
  }
}

const VERDICTS = { better: "The new version is better.", worse: "The old version is better.", undecided: "This may be chance: vote more to be sure." };

function showVotes({ model, id, old, state: now, votes }) {
  const { wins, losses, neither, rate, verdict, reason, can_use: canUse } = votes;
  const total = wins + losses + neither;
  const won = rate === null ? "" : ` The new version won ${interval(votes)}. ${VERDICTS[verdict]}`;
  const why = canUse ? `${id} is then served as ${model}; you can go back at any time.` : `${reason[0].toUpperCase()}${reason.slice(1)} before it can be used.`;
  return h("section", { hidden: now !== "ready" },
    h("p", {}, total ? `Votes: ${wins} for the new version (${id}), ${losses} for the old one (${old}), ${neither} for neither.${won}` : "There are no votes yet."),
    row(h("p.quiet", { id: "improve-why" }, why),
      button(pending ? "Please wait …" : "Use the new model", () => act(() => api.improvement.use(model, "new")), { disabled: !canUse || pending, className: canUse ? "main" : "", "aria-describedby": "improve-why" })));
}

function showOld({ id, version, old }) {
  return h("section", {},
    h("p", {}, `${version} is served as ${id}, in place of ${old === id ? "the model as it was at first" : old}.`),
    row(button(pending ? "Please wait …" : "Back to the old one", () => act(() => api.improvement.use(id, "old")), { disabled: pending })));
}
