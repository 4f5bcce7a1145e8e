import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, Output, streamText } from "ai";
import { z } from "zod";

const convmodel = createOpenAICompatible({
  name: "convmodel",
  baseURL: "http://127.0.0.1:8000/v1",
  apiKey: "none",
  includeUsage: true,
  supportsStructuredOutputs: true,
});
const model = convmodel("chitchat");
for await (const text of streamText({ model, prompt: "Hello!" }).textStream) process.stdout.write(text);
const schema = z.object({ city: z.string(), sky: z.enum(["clear", "cloudy", "rain"]) });
const { output } = await generateText({ model, prompt: "How is the weather?", output: Output.object({ schema }) });
console.log(output);
