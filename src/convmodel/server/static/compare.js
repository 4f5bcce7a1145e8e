// Two models or two settings respond side by side; their names are shown after the vote.

import * as api from "./api.js";
import { $, button, fill, h, say } from "./dom.js";
import { field, modelChoice, models, request, settings, slider, value } from "./settings.js";

/** The two sides, or null if nothing is compared. */
export let sides = null;

const label = ({ model, temperature, topP }) => `${model} · temperature ${temperature} · top-p ${topP}`;

/** Opens the dialog that chooses the two sides; `changed` is called when they have changed. */
export function open(changed) {
  const dialog = $("compare-dialog");
  const first = { model: settings.model, temperature: value("temperature"), topP: value("topP") };
  const other = models.find((each) => each.id !== settings.model)?.id ?? settings.model;
  const chosen = sides ?? [first, { ...first, model: other, temperature: other === settings.model ? Math.min(2, first.temperature + 0.4) : first.temperature }];
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
    h("div.row", {},
      button(sides ? "Stop comparing" : "Cancel", () => { sides = null; dialog.close(); changed(); }),
      button("Start", start, { className: "main" })));
  dialog.showModal();
}

/**
 * Streams both responses into a place and waits for the vote.
 * @returns {Promise<{texts: string[], names: string[], winner: number, summary: string}>} the responses, the names of
 *   their models, the index of the better one, and a summary of all votes
 */
export async function respond(place, talk, turns, signal) {
  const [a, b] = sides;
  const order = crypto.getRandomValues(new Uint8Array(1))[0] % 2 ? [b, a] : [a, b];
  const texts = ["", ""];
  const columns = order.map((_, index) => h("div.side", {}, h("h3", {}, index ? "Right" : "Left"), h("p.text", {})));
  const votes = h("div.row", {});
  fill(place, h("div.pair", {}, ...columns), votes);
  place.scrollIntoView({ block: "end" });
  await Promise.all(order.map((side, index) => api.respond(request(talk, turns, side), {
    signal,
    session: talk.id,
    onText: (text) => {
      texts[index] += text;
      columns[index].lastChild.textContent = texts[index];
    },
  })));
  say("Both have responded. Which is better?");
  const winner = await new Promise((resolve, reject) => {
    const vote = (index) => button(index === null ? "Neither" : index ? "Right is better" : "Left is better", () => resolve(index), { className: index === null ? "" : "main" });
    fill(votes, vote(0), vote(null), vote(1));
    votes.scrollIntoView({ block: "end" });
    votes.firstChild.focus();
    signal.addEventListener("abort", () => reject(new DOMException("", "AbortError")));
  });
  const counts = await api.vote({
    context: turns.map((turn) => turn.text),
    models: [label(a), label(b)],
    responses: order[0] === a ? texts : [texts[1], texts[0]],
    winner: winner === null ? null : label(order[winner]),
  });
  return { texts, winner: winner ?? 0, names: order.map(label), summary: summarize(counts) };
}

function summarize({ models: [first, second], wins, losses, neither, rate, low, high }) {
  const percent = (rate) => `${Math.round(rate * 100)} %`;
  const total = `Votes so far: ${losses} for A (${first}), ${wins} for B (${second}), ${neither} for neither.`;
  if (rate === null) return total;
  const verdict = low > 0.5 ? "B is better." : high < 0.5 ? "A is better." : "This may be chance: vote more.";
  return `${total} B won ${percent(rate)} (95 % confidence interval: ${percent(low)} to ${percent(high)}). ${verdict}`;
}
