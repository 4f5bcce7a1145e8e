// OpenAI's client for Node.
import OpenAI from "openai";
import { zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";
import { check, equal, hello, key, lockedUrl, long, main, model, ok, raised, url, weatherTool } from "./checking.mjs";

const client = new OpenAI({ baseURL: url, apiKey: "none", maxRetries: 0 });
const create = (options) => client.chat.completions.create({ model, messages: hello, ...options });

check("chat", async () => {
  const { message } = (await create()).choices[0];
  await create({ messages: [...hello, message, ...hello] });
});

check("options", async () => {
  const settings = { seed: 7, n: 2, max_completion_tokens: 8, stop: ["zq"], top_p: 0.9, logprobs: true };
  const [first, second] = [await create(settings), await create(settings)];
  equal(first.choices.map((choice) => choice.message.content), second.choices.map((choice) => choice.message.content));
});

check("stream", async () => {
  let usage;
  for await (const chunk of await create({ stream: true, stream_options: { include_usage: true } })) usage = chunk.usage;
  ok(usage.completion_tokens > 0);
  const left = await create({ stream: true });
  for await (const chunk of left) {
    left.controller.abort();
    break;
  }
});

check("schemas", async () => {
  const pet = z.strictObject({ name: z.string(), kind: z.enum(["cat", "dog"]), home: z.strictObject({ floor: z.number().nullable() }) });
  const { parsed } = (await client.chat.completions.parse({ model, messages: hello, response_format: zodResponseFormat(pet, "pet") })).choices[0].message;
  pet.parse(parsed);
});

check("tools", async () => {
  const { message } = (await create({ tools: [weatherTool], tool_choice: "required" })).choices[0];
  const result = { role: "tool", tool_call_id: message.tool_calls[0].id, content: "clear" };
  await create({ messages: [...hello, message, result], tools: [weatherTool] });
});

check("responses", async () => {
  const types = [];
  for await (const event of await client.responses.create({ model, input: "Hello", stream: true })) types.push(event.type);
  ok(["response.completed", "response.incomplete"].includes(types.at(-1)));
});

check("models", async () => {
  for await (const entry of client.models.list()) equal(entry.id, model);
});

check("errors", async () => {
  ok((await raised(create({ model: "gpt-5" }))) instanceof OpenAI.NotFoundError);
  equal((await raised(create({ messages: [{ role: "user", content: long }] }))).code, "context_length_exceeded");
  ok((await raised(client.embeddings.create({ model, input: "Hello" }))) instanceof OpenAI.NotFoundError);
  const locked = new OpenAI({ baseURL: lockedUrl, apiKey: "wrong", maxRetries: 0 });
  ok((await raised(locked.chat.completions.create({ model, messages: hello }))) instanceof OpenAI.AuthenticationError);
});

check("retries", async () => {
  const patient = new OpenAI({ baseURL: lockedUrl, apiKey: key, maxRetries: 30 });
  await Promise.all(Array.from({ length: 16 }, () => patient.chat.completions.create({ model, messages: hello })));
});

await main();
