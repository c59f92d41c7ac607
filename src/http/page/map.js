// The map: drawn by the node once, for all days asked for; coloured here, hour by hour.

import { askJson, askPicture, byId, complain, element, fillTable, iso, number, orComplain } from "./node.js";

/** The categories of the air quality index, as the node has them. */
export const CATEGORIES = [
  { last: 50, name: "Good", colour: "#00E400" },
  { last: 100, name: "Moderate", colour: "#FFFF00" },
  { last: 150, name: "Unhealthy for sensitive groups", colour: "#FF7E00" },
  { last: 200, name: "Unhealthy", colour: "#FF0000" },
  { last: 300, name: "Very unhealthy", colour: "#8F3F97" },
  { last: 32767, name: "Hazardous", colour: "#7E0023" },
];
const NO_VALUE = "#9AA7B2";
/** Milliseconds that an hour is shown. */
const FRAME_MS = 220;
/** Days whose hours are kept: 30 days of 1,000 sites take about two megabytes. */
const MOST_DAYS_KEPT = 30;
const HOW_TO_CHOOSE = byId("site-said").textContent;

/** The query of the map, its days, and the hours of those that were asked for. */
let opened = { parameters: {}, days: [], kept: new Map() };
let circles = new Map();
let shown = { day: 0, hour: 0, data: null };
let chosen = null;
/** Of whoever plays now: a loop that finds another one here, or none, has ended. */
let playing = null;
let onChoose = () => {};
let asking;

/** Calls back with a site that was chosen: its name, agency and degrees. */
export function whenChosen(callback) {
  onChoose = callback;
}

/** Draws the map of a query anew; `wanted` are its days. What was there stays, with its own days, until all of the new is. */
export async function openMap(query, wanted, signal) {
  const made = { parameters: query, days: wanted, kept: new Map() };
  const [picture, first] = await Promise.all([askPicture("/api/v1/map.svg", query, signal), hoursOf(0, made, signal)]);
  signal.throwIfAborted();
  swap(made, picture, first);
}

/** Leaves nothing of the last map, but why there is no other. */
export function closeMap(why) {
  swap({ parameters: {}, days: [], kept: new Map() }, element("p", { class: "muted" }, why), null);
  byId("moment").textContent = "";
}

function swap(made, picture, first) {
  stop();
  // Whatever is still on its way belongs to the map before.
  asking = Symbol();
  [opened, chosen] = [made, null];
  byId("map").replaceChildren(picture);
  circles = new Map([...picture.querySelectorAll("circle[data-site]")].map((circle) => [circle.dataset.site, circle]));
  const day = byId("day");
  [day.max, day.value, day.disabled] = [Math.max(made.days.length - 1, 0), 0, made.days.length < 2];
  byId("site-said").textContent = circles.size === 0 ? "" : HOW_TO_CHOOSE;
  put(0, 0, first);
}

/** Name, agency, degrees of each site on the map. */
export function sites() {
  return [...circles.values()].map(saidOf);
}

const saidOf = (circle) => {
  const [name, agency] = circle.querySelector("title").textContent.split("\n");
  // Degrees stay the words of the node: no digit of them is lost here.
  return { name, agency, latitude: circle.dataset.lat, longitude: circle.dataset.lon };
};

/** The hours of a day, asked for once. */
function hoursOf(index, { parameters, days, kept } = opened, signal = undefined) {
  const day = days[index];
  if (day === undefined) return Promise.resolve(null);
  if (!kept.has(day)) {
    const asked = askJson("/api/v1/hours", { ...parameters, from: day, to: undefined }, signal);
    asked.catch(() => kept.delete(day));
    kept.set(day, asked);
    if (kept.size > MOST_DAYS_KEPT) kept.delete(kept.keys().next().value);
  }
  return kept.get(day);
}

/** Shows an hour of a day, counted among those that the day has; not if something else, or nothing, is wanted by then. */
async function show(day, hour, isWanted = () => true) {
  const mine = (asking = Symbol());
  const data = await hoursOf(day);
  if (mine === asking && isWanted()) put(day, hour, data);
}

function put(day, hour, data) {
  const count = data?.hours.length ?? 0;
  hour = Math.min(Math.max(hour, 0), Math.max(count - 1, 0));
  shown = { day, hour, data };
  colour();
  const [daySlider, hourSlider] = [byId("day"), byId("hour")];
  daySlider.value = day;
  [hourSlider.max, hourSlider.value, hourSlider.disabled] = [Math.max(count - 1, 0), hour, count < 2];
  const date = opened.days[day];
  daySlider.setAttribute("aria-valuetext", date === undefined ? "no day" : iso(date));
  hourSlider.setAttribute("aria-valuetext", count === 0 ? "no hour" : `${clock()} UTC`);
  byId("moment").textContent = momentSaid();
  hoursOf(day + 1).catch(() => {});
}

const clock = () => `${String(shown.data.hours[shown.hour].hour).padStart(2, "0")}:00`;

function momentSaid() {
  const day = opened.days[shown.day];
  if (day === undefined) return "no day of the data lies between these dates";
  const parameter = shown.data?.parameter ?? "";
  if (!shown.data?.hours.length) return `${iso(day)}: no ${parameter} was measured that matches`;
  return `${iso(day)} ${clock()} UTC · ${parameter}`;
}

function categoryOf(aqi) {
  return CATEGORIES.findIndex((category) => aqi <= category.last);
}

function values() {
  const hour = shown.data?.hours[shown.hour];
  return new Map(hour === undefined ? [] : shown.data.sites.map((site, index) => [site, hour.aqi[index]]));
}

function colour() {
  const now = values();
  const counts = CATEGORIES.map(() => 0);
  const bad = [];
  for (const [id, circle] of circles) {
    const aqi = now.get(id) ?? null;
    const category = aqi === null ? -1 : categoryOf(aqi);
    if (category >= 0) counts[category] += 1;
    if (category >= 2) bad.push([aqi, circle]);
    circle.setAttribute("fill", category < 0 ? NO_VALUE : CATEGORIES[category].colour);
    circle.setAttribute("r", category < 0 ? 2.5 : 4 + category);
    circle.classList.toggle("silent", category < 0);
  }
  // The worst lie on top.
  bad.sort((a, b) => a[0] - b[0]);
  for (const [, circle] of bad) circle.parentNode.append(circle);
  legend(counts, circles.size - counts.reduce((sum, count) => sum + count, 0));
  if (chosen !== null) describe(chosen);
  if (byId("map-details").open && playing === null) table();
}

function legend(counts, without) {
  const list = byId("legend");
  if (list.children.length === 0) {
    const range = (index) => `${index === 0 ? 0 : CATEGORIES[index - 1].last + 1}${index === 5 ? "+" : `–${CATEGORIES[index].last}`}`;
    const item = (name, words, index) => {
      const swatch = element("span", { class: "swatch", "data-category": index + 1 });
      return element("li", {}, swatch, element("b", {}, "0"), ` ${name} `, element("span", { class: "muted" }, words));
    };
    list.append(...CATEGORIES.map((category, index) => item(category.name, range(index), index)), item("no AQI", "", -1));
  }
  [...counts, without].forEach((count, index) => {
    list.children[index].querySelector("b").textContent = number(count);
  });
}

function table() {
  const now = values();
  const rows = [...circles].map(([id, circle]) => {
    const aqi = now.get(id) ?? null;
    const { name, agency } = saidOf(circle);
    return [name, agency, aqi, aqi === null ? "none" : CATEGORIES[categoryOf(aqi)].name, id];
  });
  const cells = ([name, agency, aqi, category, id]) => {
    const button = element("button", { type: "button", class: "small", "data-site": id, "aria-label": `Time series of ${name || "a site without a name"}` }, "Show");
    return [name, agency, aqi ?? "–", category, button];
  };
  rows.sort((a, b) => (b[2] ?? -1) - (a[2] ?? -1) || a[0].localeCompare(b[0]));
  fillTable(byId("map-table"), momentSaid(), ["Site", "Agency", "#AQI", "Category", "Series"], rows.map(cells));
}

function aqiSaid(id) {
  const aqi = values().get(id) ?? null;
  return aqi === null ? "no AQI at this hour" : `AQI ${aqi}, ${CATEGORIES[categoryOf(aqi)].name}`;
}

function describe(id) {
  const circle = circles.get(id);
  const { name, agency } = saidOf(circle);
  for (const other of byId("map").querySelectorAll(".chosen")) other.classList.remove("chosen");
  circle.classList.add("chosen");
  chosen = id;
  byId("site-said").textContent = `${name} (${agency}): ${aqiSaid(id)}`;
}

/**
 * The nearest site in a direction: what lies aside counts twice. Sites at one place follow each other by their ids, on the way
 * right or down up from the least, so that none is passed over.
 */
function next([dx, dy]) {
  const at = (circle) => [Number(circle.getAttribute("cx")), Number(circle.getAttribute("cy"))];
  if (chosen === null) return circles.keys().next().value;
  const [x, y] = at(circles.get(chosen));
  const isBefore = (id, other) => (dx + dy > 0 ? id < other : id > other);
  let [best, nearest] = [chosen, Infinity];
  for (const [id, circle] of circles) {
    const [cx, cy] = at(circle);
    const [ahead, aside] = [(cx - x) * dx + (cy - y) * dy, Math.abs((cx - x) * dy) + Math.abs((cy - y) * dx)];
    const isSamePlace = cx === x && cy === y;
    if (isSamePlace ? !isBefore(chosen, id) : ahead <= 0) continue;
    const far = ahead + 2 * aside;
    if (far < nearest || (far === nearest && isBefore(id, best))) [best, nearest] = [id, far];
  }
  return best;
}

async function step(isWanted) {
  const isLast = shown.hour + 1 >= (shown.data?.hours.length ?? 0);
  if (!isLast) return show(shown.day, shown.hour + 1, isWanted);
  if (shown.day + 1 >= opened.days.length) return stop();
  return show(shown.day + 1, 0, isWanted);
}

async function play() {
  const mine = (playing = Symbol());
  const isMine = () => playing === mine;
  const isAtEnd = shown.day + 1 >= opened.days.length && shown.hour + 1 >= (shown.data?.hours.length ?? 0);
  const button = byId("play");
  button.setAttribute("aria-pressed", "true");
  button.textContent = "Pause";
  byId("site-said").setAttribute("aria-live", "off");
  try {
    if (isAtEnd) await show(0, 0, isMine);
    while (isMine()) {
      const began = performance.now();
      await step(isMine);
      await new Promise((goOn) => setTimeout(goOn, Math.max(0, FRAME_MS - (performance.now() - began))));
    }
  } catch (problem) {
    if (!isMine()) return;
    stop();
    complain(`The next hour of the map: ${problem.message}`);
  }
}

function stop() {
  playing = null;
  const button = byId("play");
  button.setAttribute("aria-pressed", "false");
  button.textContent = "Play";
  byId("site-said").setAttribute("aria-live", "polite");
  // It was not kept up to date while it would have changed four times a second.
  if (byId("map-details").open) table();
}

byId("play").addEventListener("click", () => (playing === null ? play() : stop()));
byId("day").addEventListener("input", (event) => orComplain("This day of the map", show(Number(event.target.value), shown.hour)));
byId("hour").addEventListener("input", (event) => orComplain("This hour of the map", show(shown.day, Number(event.target.value))));
byId("map-details").addEventListener("toggle", () => byId("map-details").open && table());

byId("map-table").addEventListener("click", (event) => {
  const id = event.target.dataset?.site;
  if (id === undefined) return;
  describe(id);
  onChoose(saidOf(circles.get(id)));
});

byId("map").addEventListener("keydown", (event) => {
  const directions = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  if (event.key in directions && circles.size > 0) {
    event.preventDefault();
    describe(next(directions[event.key]));
  } else if (event.key === "Enter" && chosen !== null) {
    onChoose(saidOf(circles.get(chosen)));
  }
});
byId("map").addEventListener("pointerover", (event) => {
  const id = event.target.dataset?.site;
  if (id === undefined) return;
  const { name, agency } = saidOf(event.target);
  event.target.querySelector("title").textContent = `${name}\n${agency}\n${aqiSaid(id)}`;
  describe(id);
});
byId("map").addEventListener("click", (event) => {
  const id = event.target.dataset?.site;
  if (id === undefined) return;
  describe(id);
  onChoose(saidOf(event.target));
});
