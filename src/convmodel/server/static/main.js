// The page: the actions of buttons and keys, and streaming of responses.

import * as api from "./api.js";
import * as compare from "./compare.js";
import { $, ask, copy, download, fill, keepEnd, say } from "./dom.js";
import * as feedback from "./feedback.js";
import * as files from "./files.js";
import * as inspect from "./inspect.js";
import * as preferences from "./settings.js";
import * as store from "./store.js";
import * as tree from "./tree.js";
import * as view from "./view.js";

const { settings } = preferences;
const state = { busy: false, editing: null };
const OPEN = "convmodel.open"; // the id of the conversation that this tab shows
const DRAFT = "convmodel.draft"; // what is written in this tab, across a reload
const SAVED_EVERY = 1000; // ms, while a response streams
let { talks, damaged } = store.all();
const opened = store.session.getItem(OPEN);
let talk = talks.find(({ id }) => id === opened) ?? (opened === null && talks[0] || tree.make());
let current = null;
let retrySeconds = 0;

const act = {
  answer: (turn) => answer(turn.id),
  begin: (text) => { $("draft").value = text; send(); },
  change, edit, regenerate: (turn) => answer(turn.parent),
  copy: async (turn, pressed) => {
    if (!await copy(turn.text, $(`turn-${turn.id}`).querySelector(".text"))) {
      view.notice("The browser does not allow this page to copy: select the text and copy it yourself.");
      return;
    }
    say("Copied.");
    pressed.textContent = "Copied";
    setTimeout(() => { pressed.textContent = "Copy"; }, 2000);
  },
  step: (turn, by) => { tree.step(talk, turn, by); changed(); },
  feedback: (turn, own) => feedback.buttons(own, turn, { changed: () => changedIn(own), failed: (error) => trouble(error, null) }),
  open: (chosen) => { go(chosen); $("title").focus(); },
  rename: async (chosen) => {
    const title = await ask({ title: "Rename this conversation", value: chosen.title });
    if (title?.trim()) { tree.change(chosen, { title: title.trim().slice(0, 200) }); keep(chosen); show(); }
  },
  export: (chosen) => save([chosen]),
  remove: async (chosen) => {
    const sure = await ask({ title: "Delete this conversation?", text: `“${chosen.title || "New conversation"}” and all its branches will be deleted.`, yes: "Delete" });
    if (!sure) return;
    store.forget(chosen);
    drop(chosen);
  },
};

/** Stores a conversation, and shows an error if that is not possible. */
function keep(chosen) {
  if (!talks.includes(chosen)) talks.push(chosen);
  const error = store.keep(chosen);
  talks.sort((one, other) => other.updated - one.updated);
  if (error) view.notice(error);
}

/** Takes a deleted conversation off the page. */
function drop(chosen) {
  talks = talks.filter((each) => each !== chosen);
  if (chosen === talk) go(talks[0] ?? tree.make());
  else show();
}

/** Redraws what has changed. */
function show() {
  const scroll = keepEnd();
  view.showTalk(talk, act, state);
  view.showModel((id) => { settings.model = id; preferences.save(); show(); inspect.show(talk); });
  view.showList(talks, talk, $("search").value.trim(), act);
  view.showContext(talk);
  view.showStored();
  scroll();
  store.session.setItem(OPEN, talks.includes(talk) ? talk.id : "");
  $("send").hidden = state.busy;
  $("stop").hidden = !state.busy;
  $("improve").hidden = !preferences.facts().training;
  $("train").hidden = !mayTrain();
  $("compare").setAttribute("aria-pressed", String(Boolean(compare.sides)));
  $("compare").textContent = compare.sides ? "Comparing" : "Compare";
}

// The code of views that few servers allow is loaded once they are used.
const openImprove = () => import("./improve.js").then((view) => view.open(() => connect()), notLoaded);
const openTrain = () => import("./train.js").then((view) => view.open(trained), notLoaded);
const notLoaded = () => view.notice("The server does not answer, so that this view cannot be opened: reload the page once it does.");

const mayTrain = () => preferences.models.some(({ id }) => preferences.facts(id).fine_tuning);

/** What the view "Train" does to the rest of the page. */
const trained = {
  reload: () => connect(),
  chat: (id) => {
    compare.end();
    settings.model = id;
    preferences.save();
    newTalk();
    show();
    inspect.show(talk);
  },
  compare: (...ids) => {
    compare.begin(ids);
    newTalk();
    show();
    view.notice(`Say something: ${ids.map(preferences.modelTitle).join(" and ")} both respond, and you choose the better response without knowing which is which.`);
  },
};

/** Stores and redraws the conversation after a change. */
function changed() {
  keep(talk);
  show();
  inspect.show(talk);
}

/** Does so if the conversation is still shown; one that is not is only stored. */
function changedIn(own) {
  if (own === talk) changed();
  else if (talks.includes(own)) keep(own);
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
  if (state.busy) say("The response is not complete yet; Escape stops it.");
  if (!text || state.busy) return;
  $("draft").value = "";
  grow();
  const last = tree.path(talk).at(-1);
  feedback.continued(talk, last, view.notice);
  const turn = tree.add(talk, last?.id ?? null, { role: "user", speaker: preferences.names(talk).me, text });
  changed();
  toEnd();
  answer(turn.id);
}

function edit(turn) {
  const before = state.editing;
  state.editing = turn?.id ?? null;
  show();
  if (turn) $("turns").querySelector("textarea")?.focus(); // at once, so that no key is lost
  else if (before) $(`turn-${before}`)?.querySelector(".tools button")?.focus();
}

function change(turn, text) {
  state.editing = null;
  if (!text.trim() || text === turn.text) { show(); return; }
  const { role, speaker, model } = turn;
  feedback.edited(talk, turn, text.trim(), view.notice);
  const added = tree.add(talk, turn.parent, { role, speaker, text: text.trim(), ...(role === "user" ? {} : { model, edited: true }) });
  changed();
  if (role === "user") answer(added.id);
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
    await (compare.sides ? respondTwice : respondOnce)(own, turns, parent, request.signal);
    retrySeconds = 0;
  } catch (error) {
    if (error.name !== "AbortError") trouble(error, () => answer(parent));
  } finally {
    if (current === request) {
      current = null;
      state.busy = false;
    }
    changedIn(own);
    show();
  }
}

function upTo(own, id) {
  const turns = [];
  for (let turn = own.turns[id]; turn; turn = own.turns[turn.parent]) turns.unshift(turn);
  tree.choose(own, turns.at(-1));
  return turns;
}

/** Adds a turn that is being generated. */
function begin(own, parent, model, more = {}) {
  const { version } = preferences.facts(model);
  return tree.add(own, parent, { role: "assistant", speaker: preferences.names(own).them, model, version, text: "", streaming: true, ...more });
}

let saved = 0;

/** Adds a text to a turn, and stores it from time to time: a crash loses a second at most. */
function extend(own, turn, text) {
  turn.text += text;
  if (Date.now() - saved > SAVED_EVERY) keepPartial(own);
}

function keepPartial(own) {
  saved = Date.now();
  Object.values(own.turns).filter((turn) => turn.streaming).forEach((turn) => tree.change(turn, {}));
  keep(own);
}

/** Ends a turn that was being generated: what there is of it is kept. */
function end(own, turn, fields) {
  tree.change(turn, { streaming: undefined, voting: undefined, ...fields });
  if (!turn.text.trim()) tree.remove(own, turn);
}

const failure = (error) => ({ [error.name === "AbortError" ? "stopped" : "broken"]: true });

async function respondOnce(own, turns, parent, signal) {
  const attempt = tree.after(own, parent);
  const turn = begin(own, parent, settings.model);
  show();
  toEnd();
  const onText = (text) => { extend(own, turn, text); if (own === talk) view.showText(turn); };
  try {
    end(own, turn, await api.respond(preferences.request(own, turns, { attempt }), { signal, session: own.id, onText }));
    say(`${view.nameOf(turn)}: ${turn.text}`);
  } catch (error) {
    end(own, turn, failure(error));
    throw error;
  }
}

async function respondTwice(own, turns, parent, signal) {
  const pair = compare.sides;
  const order = compare.shuffled(pair);
  const added = order.map((side) => begin(own, parent, side.model, { whose: compare.label(side), voting: true }));
  show();
  toEnd();
  const onText = (index, text) => extend(own, added[index], text);
  const onEnd = (index, fields) => tree.change(added[index], { streaming: undefined, ...fields });
  let winner = null;
  try {
    winner = await compare.respond($("comparing"), own, turns, order, { signal, onText, onEnd });
  } catch (error) {
    added.forEach((turn) => end(own, turn, turn.streaming ? failure(error) : {}));
    throw error;
  } finally {
    fill($("comparing"));
  }
  const texts = added.map(({ text }) => text);
  added.forEach((turn) => end(own, turn, {}));
  const chosen = [added[winner ?? 0], ...added].find(({ id }) => own.turns[id]);
  if (chosen) tree.choose(own, chosen);
  try {
    view.notice(await compare.vote(pair, order, preferences.messages(own, turns), texts, winner), [["Stop comparing", openCompare]]);
  } catch (error) {
    view.notice(`The vote was not saved: ${error.message}`);
  }
}

/** Opens the choice of what is compared; without a comparison, nobody is asked for a vote any more. */
function openCompare() {
  compare.open(() => {
    if (!compare.sides && $("comparing").firstChild) stop();
    show();
  });
}

/** Shows an error, and a way to continue. */
function trouble(problem, again) {
  const retry = again ? [["Try again", again]] : [];
  if (problem.kind === "key") view.notice(problem.message, [["Open settings", openSettings]]);
  else if (problem.kind === "model") view.notice(problem.message, [["Try again", () => connect(again ?? undefined)]]);
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
  const lines = chosen.map(files.toLine).join("");
  if (!lines) view.notice("There is nothing to export yet.");
  else download(chosen.length === 1 ? "conversation.jsonl" : "conversations.jsonl", lines);
}

async function load(file) {
  const { records, bad } = files.read(await file.text());
  const isStored = (each) => { store.restore(each); return store.keep(each); };
  const { added, changed, present, unstored } = files.merge(records, talks, isStored);
  talks = [...added, ...talks].sort((one, other) => other.updated - one.updated);
  const first = [...added, ...changed, ...present][0];
  if (first) go(first);
  const count = (list, text) => (list.length ? [`${list.length} ${text}`] : []);
  const parts = [`${added.length} conversation${added.length === 1 ? "" : "s"} imported`, ...count(changed, "updated"),
    ...count(present, "here already"), ...count(unstored, "not imported, since the browser's storage is full")];
  const lines = bad.slice(0, 5).map(({ line, why }) => `line ${line}: ${why}`).join("; ");
  const skipped = bad.length ? ` ${bad.length} skipped (${lines}${bad.length > 5 ? "; …" : ""}).` : "";
  const fix = records.length ? "" : " `convmodel import` converts chat exports and other data to files that this page reads.";
  view.notice(`${parts.join(", ")}.${skipped}${fix}`);
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
store.listen({ // what other tabs do
  changed: (other) => {
    const own = talks.find(({ id }) => id === other.id);
    if (!own) talks.push(other);
    else {
      tree.merge(own, other);
      if (tree.exceeds(tree.stored(own), other)) store.keep(own);
    }
    talks.sort((one, another) => another.updated - one.updated);
    show();
    if (own === talk) inspect.show(talk);
  },
  removed: (id) => {
    const own = talks.find((each) => each.id === id);
    if (!own) return;
    const isOpen = own === talk;
    drop(own);
    if (isOpen) view.notice("The conversation was deleted in another tab.");
  },
});
window.addEventListener("pagehide", () => {
  if (current && talks.includes(talk)) keepPartial(talk);
  store.session.setItem(DRAFT, $("draft").value);
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
$("compare").addEventListener("click", () => { if (preferences.model()) openCompare(); });
$("improve").addEventListener("click", openImprove);
$("train").addEventListener("click", openTrain);
$("export-all").addEventListener("click", () => save(talks));
$("import").addEventListener("click", () => $("file").click());
$("file").addEventListener("change", async (event) => { for (const file of event.target.files) await load(file); event.target.value = ""; });
$("open-side").addEventListener("click", () => { document.body.classList.add("listing"); $("search").focus(); });
$("close-side").addEventListener("click", () => { document.body.classList.remove("listing"); $("open-side").focus(); });

preferences.save();
show();
toEnd();
connect(() => {
  const wasOpen = (view) => store.session.getItem(view) !== null; // asked now: a click may open it while its code is loaded
  if (preferences.facts().training && wasOpen(store.IMPROVE)) openImprove();
  if (mayTrain() && wasOpen(store.TRAIN)) openTrain();
  if (damaged) view.notice(`${damaged} stored conversation${damaged === 1 ? " is" : "s are"} damaged and not shown.`);
  if (store.local.isTemporary) view.notice("The browser stores nothing for this page: export conversations before you close it.");
});
$("draft").value ||= store.session.getItem(DRAFT) ?? "";
grow();
$("draft").focus();
