// The client of the server: requests, streams, and errors in words for users.

import { session as tab } from "./store.js";

const KEY = "convmodel.key";

/** What is shown where no answer came. */
export const AWAY = "The server does not answer. It may have been stopped, or the network is down.";

/** An error of a request. `kind` is away, key, busy, loading, long, model, gone, refused, failed or broken. */
export class Problem extends Error {
  constructor(kind, message, seconds = 0) {
    super(message);
    this.kind = kind;
    this.seconds = seconds;
  }
}

/** The API key of this tab; closing the tab deletes it. */
export const key = {
  get: () => tab.getItem(KEY) ?? "",
  set: (value) => (value ? tab.setItem(KEY, value) : tab.removeItem(KEY)),
};

/** Sends a request; raises a `Problem` unless the server accepts it. */
export async function request(path, { body, signal, session, method = body === undefined ? "GET" : "POST" } = {}) {
  const headers = {};
  if (session) headers["X-Session-Id"] = session; // a load balancer keeps a conversation at one server
  if (key.get()) headers.Authorization = `Bearer ${key.get()}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(path, { method, headers, signal, body: JSON.stringify(body) });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem("away", AWAY);
  }
  if (!response.ok) throw await problemOf(response);
  return response;
}

async function problemOf(response) {
  let error = {};
  try {
    error = (await response.json()).error ?? {};
  } catch { /* the status is enough */ }
  return problemFrom(response.status, error, Number(response.headers.get("Retry-After")) || 0);
}

const QUOTA = "too_many_"; // codes of limits that waiting does not lift, whose messages say what does

/** Returns the `Problem` of a status, the error that the server sent with it, and the seconds to wait. */
export function problemFrom(status, error, seconds = 0) {
  const message = error.message ?? `The server answered with ${status}.`;
  if (status === 401) return new Problem("key", "This server needs a key. Enter it in the settings.");
  if (status === 429 && !error.code?.startsWith(QUOTA)) return new Problem("busy", "The server is busy at the moment.", seconds || 2);
  if (status === 503 && error.code === "loading") return new Problem("loading", "The model is still loading.", seconds || 2);
  if (status === 503) return new Problem("away", "The server is shutting down or too busy.", seconds);
  if (error.code === "context_length_exceeded") {
    return new Problem("long", "This is too long for the model: shorten your turn, or lower “Maximum response length” in the settings.");
  }
  if (error.code === "model_not_found") return new Problem("model", message);
  if (status === 404 || error.code === "file_not_found") return new Problem("gone", message);
  return new Problem(status >= 500 ? "failed" : "refused", message);
}

/** Returns the models of the server. */
export async function models() {
  return (await (await request("/v1/models")).json()).data;
}

/** Returns the tokens of a prompt. */
export async function tokenize(body, signal) {
  return (await request("/tokenize", { body, signal })).json();
}

/** Sends a request, and returns its answer. */
export const json = async (path, options) => (await request(path, options)).json();

let saved = Promise.resolve(); // the judgements so far; the server appends each to a file

/** Sends a judgement once those before it are saved, so that the file has them in order. */
function inOrder(path, body) {
  const sent = saved.then(() => json(path, { body }));
  saved = sent.catch(() => {});
  return sent;
}

/** Saves a judgement of a response. */
export const feedback = (body) => inOrder("/feedback", body);

/** Saves a vote, and returns the counts for these two models. */
export const vote = (body) => inOrder("/votes", body);

/** Improving a model; each returns the judgements, the latest improvement, and the new version with its votes. */
export const improvement = {
  state: () => json("/improve"),
  begin: (model) => json("/improve", { body: { model } }),
  cancel: () => json("/improve", { method: "DELETE" }),
  use: (model, version) => json("/improve/use", { body: { model, version } }),
};

/** Returns whether the server is ready. */
export async function isReady() {
  try {
    return (await fetch("/ready")).ok;
  } catch {
    return false;
  }
}

/**
 * Streams a response.
 * @param {Object} body the request, without `stream`
 * @param {{signal: AbortSignal, session: string, onText: (text: string) => void}} listener
 * @returns {Promise<{reason: string, used: number, speed: number, leftOut: number}>} the finish reason, the tokens of the
 *   prompt and the response, tokens per second, and the turns that did not fit
 */
export async function respond(body, { signal, session, onText }) {
  const streamed = { ...body, stream: true, stream_options: { include_usage: true } };
  const response = await request("/v1/chat/completions", { body: streamed, signal, session });
  let reason = null;
  let usage = {};
  try {
    for await (const data of events(response.body)) {
      if (data === "[DONE]") {
        const { tokens_per_second: speed, left_out: leftOut } = usage.convmodel ?? {};
        return { reason: reason ?? undefined, used: usage.prompt_tokens + usage.completion_tokens, speed: speed ?? undefined, leftOut };
      }
      const chunk = JSON.parse(data);
      if (chunk.error) throw new Problem("failed", chunk.error.message);
      usage = chunk.usage ?? usage;
      for (const choice of chunk.choices) {
        if (choice.delta.content) onText(choice.delta.content);
        reason = choice.finish_reason ?? reason;
      }
    }
  } catch (error) {
    if (error.name === "AbortError" || error instanceof Problem) throw error;
  }
  throw new Problem("broken", "The connection was lost. The partial response is kept.");
}

/** Yields the data of server-sent events, without comments. */
export async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      const data = part.split("\n").filter((line) => line.startsWith("data:")).map((line) => line.slice(5).trimStart());
      if (data.length) yield data.join("\n");
    }
  }
}
