// The client of what "Train" needs of the server: files, preparations of data, and jobs.

import { AWAY, Problem, json, key, problemFrom, request } from "./api.js";

const part = encodeURIComponent;
const send = (path, method) => request(path, { method });

/** Data that are read, checked and made ready for training. */
export const preparations = {
  all: async () => (await json("/train/preparations?limit=100")).data,
  get: (id) => json(`/train/preparations/${part(id)}`),
  begin: (body) => json("/train/preparations", { body }),
  remove: (id) => send(`/train/preparations/${part(id)}`, "DELETE"),
};

/** Trainings; `get` and `all` return what is shown of them. */
export const jobs = {
  all: async () => (await json("/train/jobs?limit=100")).data,
  get: (id) => json(`/train/jobs/${part(id)}`),
  begin: (body) => json("/v1/fine_tuning/jobs", { body }),
  pause: (id) => send(`/v1/fine_tuning/jobs/${part(id)}/pause`, "POST"),
  resume: (id) => send(`/v1/fine_tuning/jobs/${part(id)}/resume`, "POST"),
  cancel: (id) => send(`/v1/fine_tuning/jobs/${part(id)}/cancel`, "POST"),
};

export const removeFile = (id) => send(`/v1/files/${part(id)}`, "DELETE");
export const removeModel = (id) => send(`/v1/models/${part(id)}`, "DELETE");

/**
 * Sends a file, which the browser reads from the disk while it is sent.
 * @param {File} file
 * @param {{signal: AbortSignal, onProgress: (sent: number) => void}} listener
 * @returns {Promise<Object>} the server's record of the file
 */
export function upload(file, { signal, onProgress }) {
  const form = new FormData();
  form.append("purpose", "user_data");
  form.append("file", file, file.name);
  const sending = new XMLHttpRequest(); // `fetch` reports no progress of what it sends
  return new Promise((resolve, reject) => {
    sending.open("POST", "/v1/files");
    if (key.get()) sending.setRequestHeader("Authorization", `Bearer ${key.get()}`);
    sending.upload.onprogress = ({ loaded }) => onProgress(Math.min(loaded, file.size));
    sending.onload = () => {
      const answer = read(sending.responseText);
      if (sending.status === 200) resolve(answer);
      else reject(problemFrom(sending.status, answer.error ?? {}, Number(sending.getResponseHeader("Retry-After")) || 0));
    };
    sending.onerror = () => reject(new Problem("away", `${file.name} was not sent completely. ${AWAY} Or the file was changed or moved meanwhile: choose it again.`));
    sending.onabort = () => reject(new DOMException("", "AbortError"));
    signal.addEventListener("abort", () => sending.abort());
    sending.send(form);
  });
}

function read(text) {
  try {
    return JSON.parse(text);
  } catch {
    return {};
  }
}
