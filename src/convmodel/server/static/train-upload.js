// The way of files from this computer to the server: choosing, dropping, progress, and cancelling.

import { $, button, h, row, say } from "./dom.js";
import { count, size } from "./format.js";
import { session } from "./store.js";
import { removeFile, upload } from "./train-api.js";

const SENT = "convmodel.train.files"; // ids of files that are of no use if the page is left now

let current = null; // the upload that runs, which continues while the view is closed

export const isUploading = () => current !== null;

/** Returns what `choose` needs in the view. */
export const chooser = (onfiles) => h("input", { id: "train-files", type: "file", multiple: true, hidden: true, "aria-label": "Files to train on",
  onchange: ({ target }) => { if (target.files.length) onfiles([...target.files]); } });

/** Opens the browser's choice of files. */
export function choose() {
  $("train-files").value = ""; // so that the same file can be chosen again
  $("train-files").click();
}

/** Accepts files that are dropped on an element. */
export function acceptDrops(element, onfiles, onproblem) {
  const hasFiles = (event) => event.dataTransfer?.types.includes("Files");
  const mark = (isOver) => element.classList.toggle("dropping", isOver);
  element.ondragover = (event) => { if (hasFiles(event)) { event.preventDefault(); mark(true); } };
  element.ondragleave = (event) => { if (!element.contains(event.relatedTarget)) mark(false); };
  element.ondrop = (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    mark(false);
    const isFolder = [...event.dataTransfer.items].some((item) => item.webkitGetAsEntry?.()?.isDirectory);
    if (isFolder) onproblem("A folder cannot be dropped: compress it to a .zip file, or drop the files in it.");
    else if (event.dataTransfer.files.length) onfiles([...event.dataTransfer.files]);
  };
}

/**
 * Sends files, one after the other; none stays on the server if one fails, or if it is cancelled.
 * @returns {Promise<string[]>} the ids of the files
 */
export async function send(files) {
  const request = new AbortController();
  const total = files.reduce((sum, file) => sum + file.size, 0);
  const bar = h("progress.wide", { max: Math.max(1, total), value: 0, "aria-label": "Progress of the upload" });
  const text = h("p", {});
  current = { bar, text, stop: () => request.abort() };
  const ids = [];
  let before = 0;
  window.addEventListener("beforeunload", warn);
  say(`Sending ${count(files.length, "file")}.`);
  try {
    for (const file of files) {
      const onProgress = (sent) => {
        bar.value = before + sent;
        text.textContent = `Sending ${file.name}: ${size(before + sent)} of ${size(total)}`;
      };
      onProgress(0);
      ids.push((await upload(file, { signal: request.signal, onProgress })).id);
      session.setItem(SENT, JSON.stringify(ids));
      before += file.size;
    }
    return ids;
  } catch (error) {
    await discard(ids);
    throw error;
  } finally {
    current = null;
    window.removeEventListener("beforeunload", warn);
  }
}

const warn = (event) => event.preventDefault();

/** Keeps the files that were sent, since something uses them now. */
export const keep = () => session.removeItem(SENT);

/** Removes what an upload left that ended with the page; returns whether there was one. */
export async function clean() {
  if (current) return false;
  const ids = JSON.parse(session.getItem(SENT) ?? "[]");
  await discard(ids);
  return ids.length > 0;
}

/** Removes files that were sent, and that nothing uses. */
export async function discard(ids) {
  keep();
  await Promise.allSettled(ids.map(removeFile));
}

/** Shows the upload that runs. */
export const showUpload = () => h("section", {}, h("h3", {}, "Upload"), current.text, current.bar,
  row(button("Cancel the upload", current.stop)));

/** Shows where to put files. */
export const showDrop = (onchoose) => h("section.drop", {},
  h("p", {}, button("Choose files", onchoose, { className: "main" }), " or drop them here."),
  h("p.quiet", {}, "Exports of WhatsApp, Telegram, Signal, Discord, Slack, Messenger, Instagram, LINE, KakaoTalk, Google Chat or ChatGPT; or data as JSON, CSV or text. Several files are read as one."),
  h("details", {}, h("summary", {}, "How do I get a file?"),
    h("ul.list", {},
      h("li", {}, h("b", {}, "WhatsApp on Android: "), "open the chat, then the menu, “More”, “Export chat”, “Without media”."),
      h("li", {}, h("b", {}, "WhatsApp on an iPhone: "), "open the chat, tap the name above it, then “Export chat”, “Without media”."),
      h("li", {}, h("b", {}, "Telegram: "), "in Telegram Desktop, “Export chat history” in the chat's menu, as “Machine-readable JSON”; without photos."),
      h("li", {}, h("b", {}, "Anything else: "), "a text file with lines like “Ann: Hello”, and a line of --- where another conversation begins.")),
    h("p.quiet", {}, "Send the file to this computer, and drop it here as it is, a .zip file too. The person to imitate should have written at least a few hundred messages.")));
