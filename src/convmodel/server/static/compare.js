// Two models or two settings respond side by side; their names are shown after the vote.

import * as api from "./api.js";
import { $, button, fill, h, keepEnd, row, say } from "./dom.js";
import { interval } from "./format.js";
import { field, modelChoice, models, request, settings, slider, modelTitle, value } from "./settings.js";

/** The two sides, or null if nothing is compared. */
export let sides = null;

/** Returns the name of a side in the votes. */
export const label = ({ model, temperature, topP }) => `${model} · temperature ${temperature} · top-p ${topP}`;

/** Opens the dialog that chooses the two sides; calls `changed` when they have changed. */
export function open(changed) {
  const dialog = $("compare-dialog");
  const first = { model: settings.model, temperature: value("temperature"), topP: value("topP") };
  const other = models.find((each) => each.id !== settings.model)?.id ?? settings.model;
  const chosen = sides?.map((side) => ({ ...side })) ?? [first, { ...first, model: other, temperature: other === settings.model ? Math.min(2, first.temperature + 0.4) : first.temperature }];
  const wrong = h("p", { role: "alert" });
  const column = (name, side) => h("fieldset", {}, h("legend", {}, name),
    field("Model", "", modelChoice(side.model, (id) => { side.model = id; })),
    slider("Temperature", "", { min: 0, max: 2, step: 0.05, value: side.temperature }, (event) => { side.temperature = Number(event.target.value); }),
    slider("Top-p", "", { min: 0.05, max: 1, step: 0.05, value: side.topP }, (event) => { side.topP = Number(event.target.value); }));
  const start = () => {
    if (label(chosen[0]) === label(chosen[1])) {
      wrong.textContent = "Choose two different models or settings.";
      return;
    }
    sides = chosen;
    dialog.close();
    changed();
  };
  fill(dialog,
    h("h2", { id: "compare-title" }, "Compare"),
    h("p", {}, "Both respond to your turn, side by side and in a random order. You choose the better response without knowing which model wrote it. Then the names are shown, and the conversation continues with your choice."),
    h("div.pair", {}, column("A", chosen[0]), column("B", chosen[1])),
    wrong,
    row(
      button(sides ? "Stop comparing" : "Cancel", () => { sides = null; dialog.close(); changed(); }),
      button("Start", start, { className: "main" })));
  dialog.showModal();
}

/** Begins to compare models with the settings that each of them has. */
export function begin(ids) {
  sides = ids.map((model) => ({ model, temperature: value("temperature", model), topP: value("topP", model) }));
}

/** Ends the comparison. */
export function end() {
  sides = null;
}

/** Returns a pair in a random order. */
export const shuffled = (pair) => (crypto.getRandomValues(new Uint8Array(1))[0] % 2 ? [...pair].reverse() : [...pair]);

/**
 * Streams two responses into a place and waits for the vote.
 * @param {Object[]} order the sides, as they are shown
 * @param {(index: number, text: string) => void} onText
 * @param {(index: number, end: Object) => void} onEnd
 * @returns {Promise<number|null>} the index of the better response
 */
export async function respond(place, talk, turns, order, { signal, onText, onEnd }) {
  const columns = order.map((_, index) => h("div.side", {}, h("h3", {}, index ? "Right" : "Left"), h("p.text", {}, "…")));
  const votes = row();
  const scroll = keepEnd();
  fill(place, h("div.pair", {}, ...columns), votes);
  scroll();
  const failed = new AbortController(); // one response that fails ends the other
  const stream = async (side, index) => {
    let shown = "";
    onEnd(index, await api.respond(request(talk, turns, side), { signal: AbortSignal.any([signal, failed.signal]), session: talk.id, onText: (text) => {
      const scroll = keepEnd();
      shown += text;
      columns[index].lastChild.textContent = shown;
      scroll();
      onText(index, text);
    } }));
  };
  await Promise.all(order.map(stream)).catch((error) => { failed.abort(); throw error; });
  say("Both have responded. Which is better?");
  return new Promise((resolve, reject) => {
    const vote = (index, text, properties) => button(text, () => resolve(index), properties);
    const scroll = keepEnd();
    fill(votes, vote(0, "Left is better", { className: "main" }), vote(null, "Neither"), vote(1, "Right is better", { className: "main" }));
    scroll(); // the focus stays where the user may be typing
    signal.addEventListener("abort", () => reject(new DOMException("", "AbortError")));
  });
}

/** Saves a vote after some messages; returns a summary of all votes for the two sides, which may not be chosen any more. */
export async function vote([a, b], order, context, responses, winner) {
  const wins = await api.vote({
    context,
    models: [label(a), label(b)],
    responses: order[0] === a ? responses : [...responses].reverse(),
    winner: winner === null ? null : label(order[winner]),
  });
  return summarize(wins, ...[a, b].map((side) => label({ ...side, model: modelTitle(side.model) })));
}

function summarize(votes, first, second) {
  const { wins, losses, neither, rate, low, high } = votes;
  const total = `Votes so far: ${losses} for A (${first}), ${wins} for B (${second}), ${neither} for neither.`;
  if (rate === null) return total;
  const verdict = low > 0.5 ? "B is better." : high < 0.5 ? "A is better." : "This may be chance: vote more.";
  return `${total} B won ${interval(votes)}. ${verdict}`;
}
