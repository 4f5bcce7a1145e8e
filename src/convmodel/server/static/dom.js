// Creates elements. No other file does; text is inserted as text, never as HTML.

/** Returns the element with an id. */
export const $ = (id) => document.getElementById(id);

/**
 * Creates an element.
 * @param {string} tag its name, with classes after dots: "p.quiet"
 * @param {Object} properties properties, attributes (aria-…, data-…, for, role) and listeners (onclick, …)
 * @param {...(Node|string|null)} children its content; strings become text
 */
export function h(tag, properties = {}, ...children) {
  const [name, ...classes] = tag.split(".");
  const element = document.createElement(name);
  element.classList.add(...classes);
  for (const [key, value] of Object.entries(properties)) {
    if (value === undefined || value === null) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key.includes("-") || key === "for" || key === "role") element.setAttribute(key, value);
    else element[key] = value;
  }
  fill(element, ...children);
  return element;
}

/** Creates a row of buttons. */
export const row = (...children) => h("div.row", {}, ...children);

/** Creates a list of names, each with what belongs to it. */
export const terms = (rows) => h("dl", {}, ...rows.flatMap(([name, what]) => [h("dt", {}, name), h("dd", {}, what)]));

/** Creates an element of a drawing. */
export function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  fill(element, ...children);
  return element;
}

/** Replaces the content of an element. */
export function fill(element, ...children) {
  element.replaceChildren(...children.flat().filter((child) => child !== null && child !== undefined));
}

/**
 * Updates the content of an element, and leaves what is unchanged alone: its focus, its selection, what is typed in it.
 * @param {Element} element
 * @param {[string, () => Element][]} items a key that tells all that an element shows, and a function that creates it
 */
export function update(element, items) {
  const focused = element.contains(document.activeElement) ? document.activeElement : null;
  const place = [...element.children].findIndex((child) => child.contains(focused));
  const old = new Map([...element.children].map((child) => [child.key, child]));
  const wanted = items.map(([key, create]) => old.get(key) ?? Object.assign(create(), { key }));
  const stays = new Set(wanted);
  for (const child of old.values()) if (!stays.has(child)) child.remove();
  wanted.forEach((child, index) => { if (element.children[index] !== child) element.insertBefore(child, element.children[index] ?? null); });
  if (!focused || focused.isConnected) return;
  const name = (each) => each.getAttribute("aria-label") ?? each.textContent;
  const buttons = [...element.children[place]?.querySelectorAll("button:enabled") ?? []];
  (buttons.find((each) => name(each) === name(focused)) ?? buttons[0])?.focus();
}

/** Returns a function that scrolls to the end of the conversation, if its end is visible now. */
export function keepEnd() {
  const talk = $("talk");
  const isAtEnd = talk.scrollHeight - talk.scrollTop - talk.clientHeight < 120;
  return () => { if (isAtEnd) talk.scrollTop = talk.scrollHeight; };
}

/** Creates a button. */
export function button(text, onclick, properties = {}) {
  return h("button", { type: "button", onclick, ...properties }, text);
}

/** Announces a text to screen readers. */
export function say(text) {
  const place = document.querySelector("dialog[open] [role=status]") ?? $("said"); // a dialog makes the rest inert
  place.textContent = "";
  requestAnimationFrame(() => { place.textContent = text; });
}

/** Copies a text, which an element shows; returns whether the browser allows it. */
export async function copy(text, element) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch { // over plain HTTP from another machine there is no clipboard, but the selection can be copied
    getSelection().selectAllChildren(element);
    return document.execCommand("copy");
  }
}

/** Downloads a text as a file. */
export function download(name, text) {
  const url = URL.createObjectURL(new Blob([text], { type: "application/jsonl" }));
  const link = h("a", { href: url, download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

/** Asks one question in a dialog; resolves to the answer, or to null. */
export function ask({ title, text = "", value = null, yes = "OK", no = "Cancel", rows = 1 }) {
  const dialog = $("ask-dialog");
  return new Promise((resolve) => {
    const field = value === null ? null : h("textarea", { value, rows, "aria-label": title });
    const answer = (value) => { dialog.onclose = null; dialog.close(); resolve(value); };
    const form = h("form", { onsubmit: (event) => { event.preventDefault(); answer(field ? field.value : true); } },
      h("h2", { id: "ask-title" }, title),
      text ? h("p", {}, text) : null,
      field,
      row(button(no, () => answer(null)), h("button.main", { type: "submit" }, yes)));
    if (field) {
      field.addEventListener("keydown", (event) => {
        if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); form.requestSubmit(); }
      });
    }
    fill(dialog, form);
    dialog.onclose = () => resolve(null);
    dialog.showModal();
    if (field) field.select();
  });
}
