// Talking with the server: requests, streams, and problems in words that people understand.

const KEY = "convmodel.key";

/** What went wrong. `kind` is away, key, busy, loading, long, refused, failed or broken. */
export class Problem extends Error {
  constructor(kind, message, seconds = 0) {
    super(message);
    this.kind = kind;
    this.seconds = seconds;
  }
}

/** The key of this tab; it is forgotten with the tab. */
export const key = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (value) => (value ? sessionStorage.setItem(KEY, value) : sessionStorage.removeItem(KEY)),
};

async function request(path, { body, signal, session } = {}) {
  const headers = {};
  if (session) headers["X-Session-Id"] = session; // several servers behind one address keep a conversation together
  if (key.get()) headers.Authorization = `Bearer ${key.get()}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(path, { method: body === undefined ? "GET" : "POST", headers, signal, body: JSON.stringify(body) });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem("away", "The server does not answer. It may have been stopped, or the network is away.");
  }
  if (!response.ok) throw await problemOf(response);
  return response;
}

async function problemOf(response) {
  let error = {};
  try {
    error = (await response.json()).error ?? {};
  } catch { /* the status says enough */ }
  const seconds = Number(response.headers.get("Retry-After")) || 0;
  const said = error.message ?? `The server answered with ${response.status}.`;
  if (response.status === 401) return new Problem("key", "This server needs a key. Type it in the settings.");
  if (response.status === 429) return new Problem("busy", "Many people are talking at the moment.", seconds || 2);
  if (response.status === 503 && error.code === "loading") return new Problem("loading", "The model is being loaded.", seconds || 2);
  if (response.status === 503) return new Problem("away", "The server is about to stop or is too busy.", seconds);
  if (error.code === "context_length_exceeded") {
    return new Problem("long", "This is too long for the model: shorten your turn, or lower “Longest response” in the settings.");
  }
  return new Problem(response.status >= 500 ? "failed" : "refused", said);
}

/** Returns the models that the server has. */
export async function models() {
  return (await (await request("/v1/models")).json()).data;
}

/** Returns the tokens of a prompt. */
export async function tokenize(body, signal) {
  return (await request("/tokenize", { body, signal })).json();
}

/** Saves what somebody thinks of a response. */
export async function feedback(body) {
  return (await request("/feedback", { body })).json();
}

/** Counts a vote, and returns all of these two. */
export async function vote(body) {
  return (await request("/votes", { body })).json();
}

/** Tells whether the server is ready. */
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
 * @returns {Promise<{reason: string, usage: Object}>} why it ended, and what it took
 */
export async function respond(body, { signal, session, onText }) {
  const asked = { ...body, stream: true, stream_options: { include_usage: true } };
  const response = await request("/v1/chat/completions", { body: asked, signal, session });
  let reason = null;
  let usage = null;
  try {
    for await (const data of events(response.body)) {
      if (data === "[DONE]") return { reason, usage };
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
  throw new Problem("broken", "The connection broke in the middle. What came is kept.");
}

/** Yields the data of server-sent events; comments are left out. */
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
