// The scripts of an exported page compute what Python does. PAGE is the page, CASES a JSON file of what Python computes.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

const { Layout } = await import(`${process.env.SCRIPTS}/layout.js`);
const { Int8Linear } = await import(`${process.env.SCRIPTS}/layers.js`);
const { Model, generate, readArrays } = await import(`${process.env.SCRIPTS}/model.js`);
const { choose } = await import(`${process.env.SCRIPTS}/sampling.js`);
const { Tokenizer } = await import(`${process.env.SCRIPTS}/tokenizer.js`);

const page = readFileSync(process.env.PAGE, "utf8");
const cases = JSON.parse(readFileSync(process.env.CASES, "utf8"));
const block = (id) => page.match(new RegExp(`<script id="${id}"[^>]*>([^<]*)</script>`))[1];
const facts = JSON.parse(block("facts"));
const arrays = await readArrays(block("weights"), facts.arrays);
const tokenizer = new Tokenizer(facts.tokens, arrays.merges, facts.classes);
const layout = new Layout(facts.layout, (text) => tokenizer.encode(text));
const model = new Model(facts.shape, arrays);

async function greedy(prompt, newTokens, leastTokens = 1) {
  const tokens = [];
  const options = { newTokens, leastTokens, stopIds: facts.stopIds, temperature: 0 };
  for await (const { id } of generate(model, prompt, options)) if (id !== undefined) tokens.push(id);
  return tokens;
}

test("texts have the same ids", () => {
  for (const [text, ids] of cases.texts) assert.deepEqual(tokenizer.encode(text), ids, JSON.stringify(text));
});

test("texts are split into the same words", () => {
  for (const [text, words] of cases.words) assert.deepEqual(text.match(tokenizer.words) ?? [], words, JSON.stringify(text));
});

test("ids have the same text", () => {
  for (const [ids, text, whole] of cases.ids) {
    assert.equal(tokenizer.decode(ids), text);
    assert.equal(tokenizer.decodeWhole(ids), whole);
  }
});

test("halves of surrogate pairs are replacement characters", () => {
  assert.deepEqual(tokenizer.encode("a\uD83Db"), tokenizer.encode("a\uFFFDb"));
});

test("prompts are the same, also if turns are left out", () => {
  for (const { turns, budget, spare, ids, types, leftOut } of cases.prompts) {
    const expected = ids && { ids, types: types ?? ids.map(() => null), leftOut };
    assert.deepEqual(layout.prompt(turns, budget, spare), expected, JSON.stringify({ turns, budget, spare }));
  }
});

test("blanks are Python's", () => {
  for (const [text, method, trimmed] of cases.trims) assert.equal(layout.trim(text, method), trimmed);
});

test("what a template puts before a response is dropped once", () => {
  const spaced = new Layout({ ...facts.layout, leads: { assistant: " " } }, () => []);
  const texts = ["", " ", " Hi", "  Hi", "Hi "];
  assert.deepEqual(texts.map((text) => spaced.withoutLead(text)), ["", "", "Hi", " Hi", "Hi "]);
  assert.deepEqual(texts.map((text) => layout.withoutLead(text)), texts);
});

test("logits are those of the int8 model", () => {
  const { ids, types, logits } = cases.logits;
  model.keepPrefix([], []);
  ids.forEach((id, place) => model.read(id, types ? types[place] : null));
  const results = model.logits();
  const errors = logits.map((logit, id) => Math.abs(results[id] - logit));
  assert.ok(Math.max(...errors) < cases.logits.tolerance, `${Math.max(...errors)}, not ${cases.logits.tolerance}`);
});

test("activations are rounded to the nearest integer, halves to even ones", () => {
  const layer = new Int8Linear({ w: new Int8Array(16), "w.scales": new Float32Array(2), "w.columns": new Float32Array(6).fill(1) }, "w", 6);
  layer.round(Float32Array.from([layer.largest, 0.5, 1.5, 2.5, -0.5, -1.6]));
  assert.deepEqual([...layer.integers], [32258, 0, 2, 2, 0, -2, 0, 0]);
});

test("greedy responses have the same tokens", async () => {
  for (const { turns, tokens } of cases.responses) {
    assert.deepEqual(await greedy(layout.prompt(turns, facts.budget, facts.spare), facts.newTokens), tokens, JSON.stringify(turns));
  }
});

test("a prompt that was partly read before has the same response", async () => {
  const { turns, tokens } = cases.responses.at(-1);
  const prompt = layout.prompt(turns, facts.budget, facts.spare);
  assert.deepEqual(await greedy(prompt, facts.newTokens), tokens);
  model.keepPrefix([], []);
  assert.deepEqual(await greedy(prompt, facts.newTokens), tokens);
});

test("the probe is right", async () => {
  const { texts, budget, ids, tokens } = facts.probe;
  const prompt = layout.prompt(texts.map((text, place) => ({ role: place % 2 ? "assistant" : "user", text })), budget, facts.spare);
  assert.deepEqual(prompt.ids, ids);
  assert.equal(tokens.length, 8);
  assert.deepEqual(await greedy(prompt, 8, 8), tokens);
});

test("sampling keeps the same tokens", () => {
  for (const { logits, sampling, kept } of cases.sampling) {
    const chosen = new Map();
    for (let draw = 0; draw < 4000; draw += 1) {
      const id = choose(Float32Array.from(logits), sampling, () => (draw + 0.5) / 4000);
      chosen.set(id, (chosen.get(id) ?? 0) + 1);
    }
    kept.forEach((probability, id) => {
      const drawn = (chosen.get(id) ?? 0) / 4000;
      assert.ok(Math.abs(drawn - probability) < 0.001, `${id}: ${drawn} ${probability} ${JSON.stringify(sampling)}`);
      assert.ok(probability > 0 || drawn === 0);
    });
  }
});

test("integer products are exact for large sums, and any number of rows and columns", () => {
  for (const [outputs, inputs] of [[2, 3], [7, 2500], [5, 1024]]) {
    const width = 4 * Math.ceil(inputs / 4);
    const weight = (row, i) => ((row + i) % 3 ? 127 : -126);
    const rows = Int8Array.from({ length: outputs * width }, (_, at) => (at % width < inputs ? weight(Math.floor(at / width), at % width) : 0));
    const [scales, columns] = [new Float32Array(outputs).fill(1), new Float32Array(inputs).fill(1)];
    const layer = new Int8Linear({ w: rows, "w.scales": scales, "w.columns": columns }, "w", inputs);
    const values = Float32Array.from({ length: inputs }, (_, i) => (i % 2 ? layer.largest : 1 - layer.largest));
    const results = layer.multiply(values);
    for (let row = 0; row < outputs; row += 1) {
      assert.equal(results[row], Math.fround(values.reduce((sum, value, i) => sum + weight(row, i) * value, 0)));
    }
  }
});
