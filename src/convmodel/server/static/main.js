// The page: the actions of buttons and keys, and streaming of responses.

import * as api from "./api.js";
import * as compare from "./compare.js";
import { $, ask, download, say } from "./dom.js";
import * as feedback from "./feedback.js";
import * as inspect from "./inspect.js";
import * as preferences from "./settings.js";
import * as store from "./store.js";
import * as tree from "./tree.js";
import * as view from "./view.js";

const { settings } = preferences;
const state = { busy: false, editing: null };
let talks = store.all();
let talk = talks[0] ?? tree.make();
let current = null;
let retrySeconds = 0;

const act = {
  answer: (turn) => answer(turn.id),
  begin: (text) => { $("draft").value = text; send(); },
  change, edit, regenerate: (turn) => answer(turn.parent),
  copy: async (turn) => {
    try {
      await navigator.clipboard.writeText(turn.text);
      say("Copied.");
    } catch {
      view.notice("The browser does not allow this page to copy: select the text and copy it yourself.");
    }
  },
  step: (turn, by) => { tree.step(talk, turn, by); changed(); },
  feedback: (turn) => feedback.buttons(talk, turn, { changed, failed: (error) => trouble(error, null) }),
  open: (chosen) => { go(chosen); $("title").focus(); },
  rename: async (chosen) => {
    const title = await ask({ title: "Rename this conversation", value: chosen.title });
    if (title?.trim()) { chosen.title = title.trim().slice(0, 200); keep(chosen); show(); }
  },
  export: (chosen) => save([chosen]),
  remove: async (chosen) => {
    const sure = await ask({ title: "Delete this conversation?", text: `“${chosen.title || "New conversation"}” and all its branches will be deleted.`, yes: "Delete" });
    if (!sure) return;
    store.forget(chosen);
    talks = talks.filter((each) => each !== chosen);
    if (chosen === talk) go(talks[0] ?? tree.make());
    else show();
  },
};

function keep(chosen) {
  if (!talks.includes(chosen)) talks.unshift(chosen);
  talks.sort((one, other) => other.updated - one.updated);
  const error = store.keep(chosen);
  if (error) view.notice(error);
}

/** Redraws everything. */
function show() {
  view.showTalk(talk, act, state);
  view.showList(talks, talk, $("search").value.trim(), act);
  view.showContext(talk);
  $("send").hidden = state.busy;
  $("stop").hidden = !state.busy;
  $("compare").setAttribute("aria-pressed", String(Boolean(compare.sides)));
  $("compare").textContent = compare.sides ? "Comparing" : "Compare";
}

/** Stores and redraws the conversation after a change. */
function changed() {
  keep(talk);
  show();
  inspect.show(talk);
}

function go(chosen) {
  stop();
  talk = chosen;
  state.editing = null;
  document.body.classList.remove("listing");
  view.clearNotice();
  show();
  inspect.show(talk);
  toEnd();
}

const toEnd = () => { $("talk").scrollTop = $("talk").scrollHeight; };

function send() {
  const text = $("draft").value.trim();
  if (!text || state.busy) return;
  $("draft").value = "";
  grow();
  const last = tree.path(talk).at(-1);
  const turn = tree.add(talk, last?.id ?? null, { role: "user", speaker: settings.me, text });
  changed();
  answer(turn.id);
}

function edit(turn) {
  const before = state.editing;
  state.editing = turn?.id ?? null;
  show();
  if (!turn && before) $(`turn-${before}`)?.querySelector(".tools button")?.focus();
}

function change(turn, text) {
  state.editing = null;
  if (!text.trim() || text === turn.text) { show(); return; }
  const added = tree.add(talk, turn.parent, { role: turn.role, speaker: turn.speaker, text: text.trim() });
  if (turn.role === "user") answer(added.id);
  else changed();
}

function stop() {
  current?.abort();
}

/** Requests a response to a turn; null is the start of the conversation. */
async function answer(parent) {
  stop();
  if (!preferences.model()) { await connect(() => answer(parent)); return; }
  view.clearNotice();
  const own = talk;
  const request = current = new AbortController();
  const turns = parent ? upTo(own, parent) : [];
  Object.assign(state, { busy: true, editing: null });
  try {
    if (compare.sides) await respondTwice(own, turns, parent, request.signal);
    else await respondOnce(own, turns, parent, request.signal);
    retrySeconds = 0;
  } catch (error) {
    if (error.name !== "AbortError") trouble(error, () => answer(parent));
  } finally {
    if (current === request) {
      current = null;
      state.busy = false;
    }
    if (own === talk) { changed(); toEnd(); } else if (talks.includes(own)) keep(own);
    show();
  }
}

function upTo(own, id) {
  const turns = [];
  for (let turn = own.turns[id]; turn; turn = own.turns[turn.parent]) turns.unshift(turn);
  tree.choose(own, turns.at(-1));
  return turns;
}

async function respondOnce(own, turns, parent, signal) {
  const attempt = tree.after(own, parent);
  const turn = tree.add(own, parent, { role: "assistant", speaker: settings.them, text: "", streaming: true });
  keep(own);
  show();
  toEnd();
  try {
    const onText = (text) => { turn.text += text; if (own === talk) view.showText(turn); };
    Object.assign(turn, await api.respond(preferences.request(own, turns, { attempt }), { signal, session: own.id, onText }));
    say(`${turn.speaker} says: ${turn.text}`);
  } catch (error) {
    if (turn.text.trim()) turn[error.name === "AbortError" ? "stopped" : "broken"] = true;
    throw error;
  } finally {
    delete turn.streaming;
    if (!turn.text.trim()) tree.remove(own, turn);
  }
}

async function respondTwice(own, turns, parent, signal) {
  keep(own);
  show();
  const { texts, names, winner, summary } = await compare.respond($("comparing"), own, turns, signal);
  const added = texts.map((text, index) => (text.trim()
    ? tree.add(own, parent, { role: "assistant", speaker: settings.them, text, whose: names[index] }) : null));
  const chosen = added[winner] ?? added.find(Boolean);
  if (chosen) tree.choose(own, chosen);
  view.notice(summary, [["Stop comparing", () => compare.open(show)]]);
}

/** Shows an error, and a way to continue. */
function trouble(problem, again) {
  const retry = again ? [["Try again", again]] : [];
  if (problem.kind === "key") view.notice(problem.message, [["Open settings", openSettings]]);
  else if (["busy", "loading"].includes(problem.kind)) view.notice(problem.message, retry, again ? problem.seconds : 0);
  else if (problem.kind === "away" && again) {
    retrySeconds = Math.min(30, retrySeconds * 2 || 3);
    const when = problem.seconds || retrySeconds;
    view.notice(`${problem.message} Your text is kept.`, [["Try again", () => connect(again)]], when);
  } else if (problem.kind === "broken") view.notice(problem.message, again ? [["Regenerate", again]] : []);
  else view.notice(problem.message ?? String(problem), retry);
}

/** Loads the server's models, and then continues. */
async function connect(then = () => {}) {
  try {
    await preferences.load();
    view.clearNotice();
    show();
    then();
  } catch (error) {
    trouble(error, () => connect(then));
  }
}

function openSettings() {
  preferences.open(talk, (again) => { if (talks.includes(talk)) keep(talk); show(); inspect.show(talk); if (again) connect(); });
}

function save(chosen) {
  const lines = chosen.map(store.toLine).join("");
  if (!lines) view.notice("There is nothing to export yet.");
  else download(chosen.length === 1 ? "conversation.jsonl" : "conversations.jsonl", lines);
}

async function load(file) {
  const { talks: imported, bad } = store.fromLines(await file.text());
  imported.forEach(keep);
  if (imported.length) go(imported[0]);
  const lines = bad.slice(0, 5).map(({ line, why }) => `line ${line}: ${why}`).join("; ");
  const skipped = bad.length ? ` ${bad.length} skipped (${lines}${bad.length > 5 ? "; …" : ""}).` : "";
  view.notice(`${imported.length} conversation${imported.length === 1 ? "" : "s"} imported.${skipped}`);
}

/** Fits the height of the draft to its text. */
function grow() {
  const field = $("draft");
  field.rows = 1;
  while (field.scrollHeight > field.clientHeight + 2 && field.rows < 10) field.rows += 1;
}

function newTalk() {
  if (tree.path(talk).length) go(tree.make());
  document.body.classList.remove("listing");
  $("draft").focus();
}

const again = () => { const last = tree.path(talk).at(-1); if (last?.role === "assistant" && !state.busy) act.regenerate(last); };
const find = () => { document.body.classList.add("listing"); $("search").focus(); };
const KEYS = { KeyN: newTalk, KeyR: again, KeyI: () => inspect.toggle(talk), Comma: openSettings, Slash: find };

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && state.busy && !document.querySelector("dialog[open]")) stop();
  if (event.altKey && !event.ctrlKey && KEYS[event.code]) { event.preventDefault(); KEYS[event.code](); }
});
window.addEventListener("storage", () => { // another tab has changed a conversation
  talks = store.all().map((each) => (each.id === talk.id ? talk : each));
  show();
});
document.addEventListener("click", (event) => {
  document.querySelectorAll("#list details[open]").forEach((each) => { if (!each.contains(event.target) || event.target.closest(".menu")) each.open = false; });
});
$("draft").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); send(); }
});
$("draft").addEventListener("input", grow);
$("composer").addEventListener("submit", (event) => { event.preventDefault(); send(); });
$("stop").addEventListener("click", stop);
$("new").addEventListener("click", newTalk);
$("search").addEventListener("input", show);
$("settings").addEventListener("click", openSettings);
$("inspect").addEventListener("click", () => inspect.toggle(talk));
$("compare").addEventListener("click", () => { if (preferences.model()) compare.open(show); });
$("export-all").addEventListener("click", () => save(talks));
$("import").addEventListener("click", () => $("file").click());
$("file").addEventListener("change", async (event) => { for (const file of event.target.files) await load(file); event.target.value = ""; });
$("open-side").addEventListener("click", () => { document.body.classList.add("listing"); $("search").focus(); });
$("close-side").addEventListener("click", () => { document.body.classList.remove("listing"); $("open-side").focus(); });

preferences.save();
show();
connect();
$("draft").focus();
