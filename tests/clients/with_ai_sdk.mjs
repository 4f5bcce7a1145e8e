// Vercel's AI SDK, with its provider for compatible servers.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { embed, generateText, Output, streamText, tool } from "ai";
import { z } from "zod";
import { check, equal, key, lockedUrl, long, main, model as id, ok, raised, url } from "./checking.mjs";

const provider = (baseURL, apiKey) =>
  createOpenAICompatible({ name: "convmodel", baseURL, apiKey, includeUsage: true, supportsStructuredOutputs: true });
const at = provider(url, "none");
const asked = { model: at(id), prompt: "Hello", maxRetries: 0 };
const schema = z.strictObject({ city: z.string(), sky: z.enum(["clear", "rain"]) });
const pet = z.strictObject({ name: z.string(), kind: z.enum(["cat", "dog"]), tags: z.array(z.string()), home: schema.nullable() });
const weather = tool({ description: "Reports the weather.", inputSchema: z.strictObject({ city: z.string() }), execute: async () => "clear" });

check("chat", async () => {
  ok((await generateText(asked)).usage.outputTokens > 0);
  const messages = [{ role: "user", content: "Hello" }, { role: "assistant", content: "Hi" }, { role: "user", content: "Fine" }];
  await generateText({ model: at(id), system: "Be kind.", messages, maxRetries: 0 });
});

check("options", async () => {
  const settings = { seed: 7, maxOutputTokens: 8, stopSequences: ["zq"], topP: 0.9, temperature: 0.5 };
  equal((await generateText({ ...asked, ...settings })).text, (await generateText({ ...asked, ...settings })).text);
});

check("further parameters", async () => {
  await generateText({ ...asked, providerOptions: { convmodel: { top_k: 5, candidates: 2 } } });
  equal((await raised(generateText({ ...asked, providerOptions: { convmodel: { bogus: 1 } } }))).statusCode, 400);
});

check("stream", async () => {
  const result = streamText(asked);
  for await (const text of result.textStream) ok(text);
  ok((await result.usage).outputTokens > 0);
  const controller = new AbortController();
  for await (const text of streamText({ ...asked, abortSignal: controller.signal }).textStream) {
    controller.abort();
    break;
  }
});

check("schemas", async () => {
  pet.parse((await generateText({ ...asked, output: Output.object({ schema: pet }) })).output);
  ok(["a", "b"].includes((await generateText({ ...asked, output: Output.choice({ options: ["a", "b"] }) })).output));
  pet.parse(await streamText({ ...asked, output: Output.object({ schema: pet }) }).output);
});

check("tools", async () => {
  const call = await generateText({ ...asked, tools: { weather }, toolChoice: "required" });
  equal(call.toolResults[0].output, "clear");
  const messages = [{ role: "user", content: "Hello" }, ...call.response.messages];
  await generateText({ model: at(id), messages, tools: { weather }, maxRetries: 0 });
  // Either a call or an object, as the model chooses.
  const both = await generateText({ ...asked, tools: { weather }, output: Output.object({ schema }), seed: 7 });
  if (!both.toolCalls.length) schema.parse(both.output);
});

check("completions", async () => {
  ok((await generateText({ ...asked, model: at.completionModel(id) })).text);
});

check("errors", async () => {
  equal((await raised(generateText({ ...asked, model: at("gpt-5") }))).statusCode, 404);
  equal((await raised(generateText({ ...asked, prompt: long }))).statusCode, 400);
  equal((await raised(generateText({ ...asked, model: provider(lockedUrl, "wrong")(id) }))).statusCode, 401);
  equal((await raised(embed({ model: at.embeddingModel(id), value: "Hello", maxRetries: 0 }))).statusCode, 404);
});

check("retries", async () => {
  const patient = { ...asked, model: provider(lockedUrl, key)(id), maxRetries: 30 };
  await Promise.all(Array.from({ length: 16 }, () => generateText(patient)));
});

await main();
