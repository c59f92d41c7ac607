// The node that serves this page, and the elements that its answers are shown in.
//
// What a node says is only ever text here: elements are made, never parsed, but for pictures, which the node draws itself and
// which lose whatever is not a picture.

const TOKEN = "overlay-token";
let onUnauthenticated = () => {};

/** What a node answered instead: a problem document, or that it does not answer. */
export class Problem extends Error {
  constructor(status, detail, wantsToken = false) {
    super(detail);
    this.status = status;
    this.wantsToken = wantsToken;
  }
}

/** Calls back whenever a token is needed, with what was wrong with the last one. */
export function whenUnauthenticated(callback) {
  onUnauthenticated = callback;
}

/** Keeps a token until the tab is closed. */
export function keepToken(token) {
  sessionStorage.setItem(TOKEN, token);
}

export function hasToken() {
  return sessionStorage.getItem(TOKEN) !== null;
}

/** Asks the node, by path and parameters; empty ones say nothing. */
export async function ask(path, parameters = {}, signal = undefined) {
  const token = sessionStorage.getItem(TOKEN);
  const headers = token === null ? {} : { authorization: `Bearer ${token}` };
  let response;
  try {
    response = await fetch(url(path, parameters), { headers, signal, cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, error.name === "TimeoutError" ? "the node does not answer in time" : "the node does not answer");
  }
  if (response.ok) return response;
  let detail = `${response.status} ${response.statusText}`;
  try {
    detail = (await response.json()).detail ?? detail;
  } catch {
    // It is no problem document: the status has to do.
  }
  const isOfWrongRole = response.status === 403 && token !== null;
  if (isOfWrongRole) detail = `the token that was sent has another role: ${detail}`;
  const wantsToken = response.status === 401 || isOfWrongRole;
  // An answer may come late: what it says of the token that was is not said of the one that is.
  if (wantsToken && token === sessionStorage.getItem(TOKEN)) onUnauthenticated(detail);
  throw new Problem(response.status, detail, wantsToken);
}

export async function askJson(path, parameters, signal) {
  return (await ask(path, parameters, signal)).json();
}

/** A picture, ready to be put into the page. */
export async function askPicture(path, parameters, signal) {
  const text = await (await ask(path, parameters, signal)).text();
  const parsed = new DOMParser().parseFromString(text, "image/svg+xml");
  const picture = parsed.documentElement;
  if (picture.localName !== "svg" || parsed.querySelector("parsererror")) throw new Problem(0, "the picture is damaged");
  for (const stranger of picture.querySelectorAll("script, foreignObject, style, a, image, use")) stranger.remove();
  return document.importNode(picture, true);
}

export function url(path, parameters = {}) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(parameters)) {
    if (value !== "" && value !== undefined && value !== null) query.set(name, value);
  }
  const text = query.toString();
  return text === "" ? path : `${path}?${text}`;
}

export const byId = (id) => document.getElementById(id);

/** An element with attributes, and with children that are elements or texts. */
export function element(name, attributes = {}, ...children) {
  return filled(document.createElement(name), attributes, children);
}

/** The same of a picture. */
export function shape(name, attributes = {}, ...children) {
  return filled(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);
}

function filled(made, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children.map((child) => (child instanceof Node ? child : String(child))));
  return made;
}

/** Fills a table: columns are names, those of numbers with `#` before it; rows are lists of texts or elements, the first its header. */
export function fillTable(table, caption, columns, rows) {
  const style = (index) => (columns[index].startsWith("#") ? { class: "number" } : {});
  const cell = (content, index) => {
    const shown = typeof content === "number" ? number(content) : content;
    return index === 0 ? element("th", { scope: "row" }, shown) : element("td", style(index), shown);
  };
  const head = (name, index) => element("th", { scope: "col", ...style(index) }, name.replace("#", ""));
  const body = rows.map((row) => element("tr", {}, ...row.map(cell)));
  const names = columns.join();
  if (table.tBodies.length === 0 || table.dataset.columns !== names || table.caption.textContent !== caption) {
    table.dataset.columns = names;
    table.replaceChildren(
      element("caption", { class: "visually-hidden" }, caption),
      element("thead", {}, element("tr", {}, ...columns.map(head))),
      element("tbody"),
    );
  }
  renew(table.tBodies[0], body, (row, made) => renew(row, [...made.children]));
}

/** Puts children that differ into the place of those that are there: who reads, hears or points at the others is not disturbed. */
export function renew(parent, children, change = (old, made) => old.replaceWith(made)) {
  if (parent.children.length !== children.length) return parent.replaceChildren(...children);
  [...parent.children].forEach((old, index) => old.isEqualNode(children[index]) || change(old, children[index]));
}

/** Tells those who hear the page. */
export function say(text) {
  byId("status").textContent = text;
}

/** Shows everybody what went wrong, until something else is tried; an empty text takes it away. */
export function complain(text) {
  byId("complaint").hidden = text === "";
  byId("complaint").textContent = text;
}

/** Complains of what fails, unless nobody waits for it any more. */
export async function orComplain(what, trying) {
  complain("");
  try {
    await trying;
  } catch (problem) {
    if (problem.name !== "AbortError") complain(`${what}: ${problem.message}`);
  }
}

const NUMBERS = new Intl.NumberFormat("en", { maximumFractionDigits: 2 });
export const number = (value) => NUMBERS.format(value);

/** `1.2 MB`. */
export function bytes(count) {
  if (count < 1000) return `${Math.round(count)} B`;
  const units = ["kB", "MB", "GB"];
  let unit = -1;
  do {
    count /= 1000;
    unit += 1;
  } while (count >= 1000 && unit < units.length - 1);
  return `${count < 10 ? count.toFixed(1) : Math.round(count)} ${units[unit]}`;
}

/** `2020-09-10` of `20200910`. */
export const iso = (day) => `${day.slice(0, 4)}-${day.slice(4, 6)}-${day.slice(6)}`;
