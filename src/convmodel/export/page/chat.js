// The page: the conversation, its storage in this browser, and the buttons and keys.

import { Layout } from "./layout.js";
import { Model, generate, pause, readArrays } from "./model.js";
import { Tokenizer } from "./tokenizer.js";

const $ = (id) => document.getElementById(id);
const facts = JSON.parse($("facts").textContent);
const KEPT = `convmodel.page.${facts.id}`; // where the conversation and the settings are stored, for each model
const SLIDERS = [["temperature", "temperature"], ["top-p", "topP"]];

const state = { turns: [], sampling: {}, draft: "", ...stored() };
let model = null; // until it is loaded
let layout = null;
let tokenizer = null;
let busy = null; // while a response is generated: whether it is to stop

/** Returns what is stored; nothing if it is damaged, or the browser does not allow storage. */
function stored() {
  try {
    const { turns, sampling, draft } = JSON.parse(localStorage.getItem(KEPT));
    const isTurn = ({ role, text }) => ["user", "assistant"].includes(role) && typeof text === "string" && text !== "";
    const numbers = Object.entries(sampling).filter(([, value]) => Number.isFinite(value));
    return { turns: turns.filter(isTurn), sampling: Object.fromEntries(numbers), draft };
  } catch {
    return {};
  }
}

function store(kept = state) {
  try {
    localStorage.setItem(KEPT, JSON.stringify({ ...kept, draft: $("draft").value }));
  } catch { /* the conversation lasts as long as the page */ }
}

/** Shows what another tab has stored; the last change counts, and that of this tab is not made yet. */
function adopt() {
  if (busy !== null) return;
  const { turns, sampling } = stored();
  Object.assign(state, turns && { turns, sampling });
  show();
  showSettings();
}

/** Creates an element; its children are elements and texts. */
function h(tag, properties, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children.filter((child) => child !== null));
  return element;
}

const button = (text, onclick) => h("button", { type: "button", onclick }, text);
const sampling = () => ({ ...facts.sampling, ...state.sampling });
const lastResponse = () => (state.turns.at(-1)?.role === "assistant" ? state.turns.at(-1) : null);

/** Shows a message above the draft, with a button if there is something to do. */
function notice(text, action = null) {
  $("notice").replaceChildren(text, ...(action ? [button(...action)] : []));
}

/** Redraws the conversation. */
function show() {
  const hadFocus = document.activeElement !== document.body;
  const articles = state.turns.map(article);
  $("turns").replaceChildren(...(articles.length ? articles : [welcome()]));
  $("send").hidden = busy !== null;
  $("send").disabled = model === null;
  $("stop").hidden = busy === null;
  $("talk").scrollTop = $("talk").scrollHeight;
  // A button that was pressed by key is gone now. On a phone, focus would open the keyboard.
  const isLost = hadFocus && document.activeElement === document.body && matchMedia("(pointer: fine)").matches;
  if (isLost) $(busy === null ? "draft" : "stop").focus();
}

function welcome() {
  const text = "Write below. The model continues the conversation word by word. It was trained on conversations, not on facts: do not rely on what it says.";
  return h("div", { className: "welcome" }, h("h2", {}, `Chat with ${facts.title}`), h("p", {}, text));
}

function article(turn) {
  const isMine = turn.role === "user";
  const isLast = turn === state.turns.at(-1);
  const isStreaming = busy !== null && isLast;
  const name = isMine ? "You" : facts.title;
  const element = h("article", { className: isMine ? "mine" : "theirs" },
    h("h2", {}, name),
    h("p", { className: "text", dir: "auto" }, turn.text || "…"));
  if (!isStreaming || isMine) {
    element.append(h("div", { className: "tools" },
      button("Copy", (event) => copy(turn, element, event.target)),
      isLast && busy === null ? button(isMine ? "Get a response" : "Regenerate", respond) : null,
      isMine ? null : h("span", { className: "quiet" }, notes(turn))));
  }
  element.setAttribute("aria-label", name);
  return element;
}

function notes({ stopped, reason, tokens, speed, leftOut }) {
  const parts = [];
  if (stopped) parts.push("stopped");
  if (reason === "length") parts.push("ended at the maximum length");
  if (tokens) parts.push(`${tokens} token${tokens === 1 ? "" : "s"}`);
  if (speed) parts.push(`${Math.round(speed)} per second`);
  if (leftOut) parts.push(leftOut === 1 ? "the oldest turn no longer fits" : `the ${leftOut} oldest turns no longer fit`);
  return parts.join(" · ");
}

async function copy(turn, element, pressed) {
  try {
    await navigator.clipboard.writeText(turn.text);
  } catch { // some browsers have no clipboard for files, but the selection can be copied
    getSelection().selectAllChildren(element.querySelector(".text"));
    if (!document.execCommand("copy")) {
      notice("The browser does not allow this page to copy: select the text and copy it yourself.");
      return;
    }
  }
  pressed.textContent = "Copied";
  setTimeout(() => { pressed.textContent = "Copy"; }, 2000);
}

function send() {
  const text = layout?.trim($("draft").value);
  if (!text || busy !== null || model === null) return;
  const turns = [...state.turns, { role: "user", text }];
  if (!promptFor(turns)) return;
  state.turns = turns;
  $("draft").value = "";
  grow();
  respond();
}

/** Returns the prompt for a response to turns; null, after a notice, if the last one is too long. */
function promptFor(turns) {
  const prompt = layout.prompt(turns, facts.budget, facts.spare);
  if (!prompt) notice(`This is too long for the model, which reads ${facts.budget} tokens: shorten it.`);
  return prompt;
}

/** Generates a response to the last turn of the user, in place of the one that there is. */
async function respond() {
  if (model === null || busy !== null || !state.turns.length) return;
  const before = lastResponse();
  const turns = before ? state.turns.slice(0, -1) : state.turns;
  const prompt = promptFor(turns);
  if (!prompt) return;
  const turn = { role: "assistant", text: "", leftOut: prompt.leftOut, tokens: 0 };
  state.turns = [...turns, turn];
  const run = busy = { stops: false };
  notice("");
  show();
  try {
    await stream(turn, prompt, run);
  } finally {
    busy = null;
    const place = state.turns.indexOf(turn); // -1 if another conversation was begun
    // As in Python, an empty response is none; one that it was to replace stays.
    if (place >= 0 && !layout.trim(turn.text)) state.turns.splice(place, 1, ...(before ? [before] : []));
    store();
    show();
  }
  $("spoken").textContent = `${facts.title}: ${turn.text}`;
}

async function stream(turn, prompt, run) {
  const { newTokens, stopIds } = facts;
  const ids = [];
  let began = 0;
  for await (const { id, read } of generate(model, prompt, { newTokens, stopIds, ...sampling() })) {
    if (run.stops) break;
    if (id === undefined) {
      showText(turn, `Reading … ${Math.round(100 * read)} %`);
      continue;
    }
    ids.push(id);
    began ||= performance.now();
    turn.tokens = ids.length;
    turn.text += layout.withoutLead(tokenizer.decodeWhole(ids)).slice(turn.text.length);
    showText(turn, turn.text || "…");
  }
  const seconds = (performance.now() - began) / 1000;
  if (ids.length > 1) turn.speed = (ids.length - 1) / seconds;
  if (run.stops) turn.stopped = true;
  else if (ids.length === newTokens) turn.reason = "length";
}

/** Updates the text of the turn that is generated; the conversation stays at its end if that is visible. */
function showText(turn, text) {
  const place = $("turns").lastElementChild?.querySelector(".text");
  if (state.turns.at(-1) !== turn || !place) return;
  const talk = $("talk");
  const isAtEnd = talk.scrollHeight - talk.scrollTop - talk.clientHeight < 120;
  place.textContent = text;
  if (isAtEnd) talk.scrollTop = talk.scrollHeight;
}

function stop() {
  if (busy !== null) busy.stops = true;
}

function begin() {
  stop();
  const { turns } = state;
  state.turns = [];
  store();
  show();
  if (turns.length) notice("A new conversation; the one before was deleted.", ["Undo", () => restore(turns)]);
  $("draft").focus();
}

function restore(turns) {
  stop();
  state.turns = turns.filter(({ text }) => text);
  notice("");
  store();
  show();
}

/** Fits the height of the draft to its text. */
function grow() {
  const field = $("draft");
  field.rows = 1;
  while (field.scrollHeight > field.clientHeight + 2 && field.rows < 8) field.rows += 1;
}

function showSettings() {
  for (const [id, name] of SLIDERS) {
    $(id).value = sampling()[name];
    $(`${id}-value`).textContent = sampling()[name];
  }
}

/** Decodes the model, and compares its tokens for one prompt with those of Python. */
async function load() {
  notice("Loading the model …");
  const arrays = await readArrays($("weights").textContent, facts.arrays);
  $("weights").remove(); // so that the memory is freed
  tokenizer = new Tokenizer(facts.tokens, arrays.merges, facts.classes);
  layout = new Layout(facts.layout, (text) => tokenizer.encode(text));
  const loaded = new Model(facts.shape, arrays);
  if (!await isRight(loaded)) error("The self-check failed: this browser computes other tokens than Python does. Responses may be wrong.");
  model = loaded;
  notice("");
}

function error(text) {
  $("error").textContent = text;
}

async function isRight(loaded) {
  const { texts, budget, ids, tokens } = facts.probe;
  const turns = texts.map((text, place) => ({ role: place % 2 ? "assistant" : "user", text }));
  const prompt = layout.prompt(turns, budget, facts.spare);
  if (String(prompt?.ids) !== String(ids)) return false;
  const options = { newTokens: tokens.length, leastTokens: tokens.length, stopIds: facts.stopIds, temperature: 0 };
  const generated = [];
  for await (const { id } of generate(loaded, prompt, options)) if (id !== undefined) generated.push(id);
  return String(generated) === String(tokens);
}

$("draft").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); send(); }
});
$("draft").addEventListener("input", grow);
$("composer").addEventListener("submit", (event) => { event.preventDefault(); send(); });
$("stop").addEventListener("click", stop);
$("new").addEventListener("click", begin);
$("defaults").addEventListener("click", () => { state.sampling = {}; store(); showSettings(); });
for (const [id, name] of SLIDERS) {
  $(id).addEventListener("input", () => {
    state.sampling[name] = Number($(id).value);
    store();
    showSettings();
  });
}
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") {
    if (busy !== null) stop();
    $("settings").open = false;
  }
  const act = { KeyN: begin, KeyR: () => lastResponse() && respond() }[event.code];
  if (event.altKey && !event.ctrlKey && act) { event.preventDefault(); act(); }
});
document.addEventListener("click", (event) => { if (!$("settings").contains(event.target)) $("settings").open = false; });
window.addEventListener("storage", ({ key }) => { if (key === KEPT) adopt(); }); // another tab's change
// A page in the background may not have heard of a change.
window.addEventListener("pagehide", () => store(busy === null ? { ...state, ...stored() } : state));
window.addEventListener("pageshow", ({ persisted }) => { if (persisted) adopt(); });

$("draft").value = state.draft ?? "";
showSettings();
show();
grow();
$("draft").focus();
load().then(show, ({ message }) => {
  error(`This browser cannot run the model: ${message}. Try another browser, or a newer version.`);
  notice("");
});
