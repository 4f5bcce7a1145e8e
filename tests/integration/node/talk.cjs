// Asks a server with OpenAI's client for Node, and prints what came as JSON.
// node talk.cjs URL; the package is found where NODE_PATH points.
const OpenAI = require("openai").default;

const messages = [{ role: "user", content: "Hello 😀" }];
const asked = { model: "tiny", messages, seed: 7, max_completion_tokens: 20 };

async function main(url) {
  const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "none", maxRetries: 0 });
  const found = { models: [], pieces: [], reasons: [], events: [] };

  for await (const model of client.models.list()) found.models.push(model.id);

  const whole = await client.chat.completions.create(asked);
  found.whole = whole.choices[0].message.content;

  const options = { stream: true, stream_options: { include_usage: true } };
  for await (const chunk of await client.chat.completions.create({ ...asked, ...options })) {
    for (const choice of chunk.choices) {
      if (choice.delta.content) found.pieces.push(choice.delta.content);
      if (choice.finish_reason) found.reasons.push(choice.finish_reason);
    }
    if (chunk.usage) found.usage = chunk.usage.completion_tokens;
  }
  found.wholeUsage = whole.usage.completion_tokens;

  const helped = await client.chat.completions.stream(asked).finalContent();
  found.helped = helped;

  for await (const event of await client.responses.create({ model: "tiny", input: "Hello", stream: true, max_output_tokens: 5 })) {
    found.events.push(event.type);
  }

  const leaving = await client.chat.completions.create({ ...asked, max_completion_tokens: 100, stream: true });
  for await (const chunk of leaving) {
    leaving.controller.abort();
    found.left = true;
    break;
  }

  try {
    await client.chat.completions.create({ ...asked, prediction: { type: "content", content: "Hi" } });
  } catch (error) {
    found.error = [error.constructor.name, error.status, error.param, error.code];
  }
  console.log(JSON.stringify(found));
}

main(process.argv[2]).catch((error) => {
  console.error(error);
  process.exit(1);
});
