// What the checks of the clients for Node share; checking.py is the same for Python.
import { deepStrictEqual, ok } from "node:assert";

export const model = "chitchat";
export const hello = [{ role: "user", content: "Hello!" }];
export const long = "word ".repeat(1000);
export const [url, lockedUrl, key] = process.argv.slice(2);
export { ok, deepStrictEqual as equal };

const parameters = { type: "object", properties: { city: { type: "string" } }, required: ["city"], additionalProperties: false };
export const weatherTool = { type: "function", function: { name: "weather", description: "Reports the weather.", parameters } };

const checks = [];

// Adds a check, which throws if the client and the server do not work together.
export function check(name, run) {
  checks.push([name, run]);
}

// Returns the error with which a promise must be rejected.
export async function raised(promise) {
  let value;
  try {
    value = await promise;
  } catch (error) {
    return error;
  }
  throw new Error(`no error, but ${JSON.stringify(value)}`);
}

// Runs the checks and prints the results as JSON, one line per check.
export async function main() {
  for (const [name, run] of checks) {
    const begin = performance.now();
    let problem = "";
    try {
      await run();
    } catch (error) {
      problem = error.stack ?? String(error);
    }
    console.log(JSON.stringify({ check: name, problem, seconds: Math.round(performance.now() - begin) / 1000 }));
  }
}
