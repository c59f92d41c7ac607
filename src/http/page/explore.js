// A query: asked, and its answer shown as a map, a time series, a plan with its coverage, rows, and commands.

import { ask, askJson, askPicture, byId, bytes, complain, element, fillTable, hasToken, iso, number, orComplain, say, url } from "./node.js";
import { lastLook } from "./overlay.js";
import { closeMap, openMap, sites, whenChosen } from "./map.js";
import { curl, python, shell } from "./commands.js";

const ROWS_SHOWN = 50;
const COLUMNS = {
  timestamp: "Time", site_name: "Site", parameter: "Parameter", value: "#Value", unit: "Unit", aqi: "#AQI", category: "#Category",
  agency_name: "Agency", latitude: "#Latitude", longitude: "#Longitude", full_aqs_id: "AQS id",
};
const DEGREES = ["latitude", "longitude"];

let opened = false;
let isSuggested = false;
let running = new AbortController();
/** What the last run asked: the form may say something else by now. */
let askedLast = {};
/** The time series has its own, for sites are clicked faster than some are answered: the last click counts. */
let drawing = new AbortController();
/** The site that the time series is of; `null`: all of them. */
let seriesSite = null;

export function openExplore() {
  if (opened) return;
  const topology = lastLook();
  if (topology === undefined) {
    document.addEventListener("topology", openExplore, { once: true });
    return;
  }
  if (byId("explore").hidden) return;
  opened = true;
  prepare(topology);
  run();
}

/** The form knows teams and days; it starts with the last month that has data. */
function prepare(topology) {
  const [first, last] = extent(topology);
  for (const name of ["from", "to"]) [byId(name).min, byId(name).max] = [iso(first), iso(last)];
  const month = `${last.slice(0, 6)}01`;
  byId("from").value = iso(month > first ? month : first);
  byId("to").value = iso(last);
  byId("team").append(...topology.teams.map((team) => element("option", { value: team.name }, team.name)));
}

/** The first and the last day that anybody owns. */
function extent(topology) {
  const owned = topology.teams.filter((team) => team.last_day !== null);
  return [owned.map((team) => team.first_day).sort()[0], owned.map((team) => team.last_day).sort().at(-1)];
}

/** What the form says, by the names of the node; without what says nothing. */
function query() {
  const said = Object.fromEntries(new FormData(byId("query")));
  const day = (name) => said[name].replaceAll("-", "");
  const asked = { ...said, from: day("from"), to: day("to") };
  return Object.fromEntries(Object.entries(asked).map(([name, value]) => [name, value.trim()]).filter(([, value]) => value !== ""));
}

/** Without names of `left`: pictures take no limit. */
function without(asked, ...left) {
  return Object.fromEntries(Object.entries(asked).filter(([name]) => !left.includes(name)));
}

async function run() {
  // Nothing is known of teams and days yet; the first look asks.
  if (lastLook() === undefined) return;
  running.abort();
  drawing.abort();
  running = new AbortController();
  const { signal } = running;
  const asked = (askedLast = query());
  commands(asked);
  offer(true);
  complain("");
  // Again, as long as it failed.
  if (!isSuggested) suggest();
  seriesSite = null;
  const answer = byId("answer");
  answer.dataset.state = "running";
  answer.textContent = "asking …";
  byId("explore").setAttribute("aria-busy", "true");
  const why = (problem) => element("p", { class: "muted" }, problem.message);
  const tables = ["coverage-table", "hops-table", "rows", "series-table"];
  // First of all, for the others then find their rows in the cache.
  await unless(coverage(asked, answer, signal), (problem) => {
    answer.dataset.state = "failed";
    answer.textContent = problem.message;
    // What the node refuses it refuses elsewhere, too.
    offer(problem.status !== 400);
    // Nothing of the last answer stays beside the commands of this query.
    for (const table of tables) byId(table).replaceChildren();
  });
  if (signal.aborted) return;
  await Promise.all([
    unless(coveragePicture(asked, signal), (problem) => byId("coverage").replaceChildren(why(problem))),
    unless(map(asked, signal), (problem) => closeMap(problem.message)),
    drawSeries(),
    unless(rows(asked, signal), (problem) => {
      byId("rows-said").textContent = problem.message;
      byId("rows").replaceChildren();
    }),
  ]);
  if (!signal.aborted) byId("explore").removeAttribute("aria-busy");
}

/** Each part of an answer fails on its own: this one's problem is shown, unless nobody waits for it any more. */
async function unless(part, show) {
  try {
    await part;
  } catch (problem) {
    if (problem.name !== "AbortError") show(problem);
  }
}

async function coverage(asked, answer, signal) {
  const found = await askJson("/api/v1/coverage", asked, signal);
  const served = found.days.filter((day) => day.outcome.kind === "served");
  const nodes = [...new Set(served.map((day) => day.outcome.node))].sort();
  const parts = [
    `${number(found.total_rows)} rows${found.limit_reached ? " (limit reached)" : ""} in ${Math.round(found.elapsed_ms)} ms`,
    found.hops.length === 0 ? "from the cache" : `of ${number(found.rows_to_scan)} scanned`,
    `${served.length} of ${found.days.length} days answered by ${nodes.join(", ") || "nobody"}`,
  ];
  if (found.missing_days.length > 0) parts.push(`missing: ${found.missing_days.join(", ")}`);
  if (found.waited_ms >= 1) parts.push(`waited ${Math.round(found.waited_ms)} ms for ${found.limiting_factor}`);
  answer.dataset.state = found.missing_days.length > 0 ? "partial" : "done";
  answer.replaceChildren(...parts.map((part) => element("span", {}, part)));
  const rows = found.days.map((day) => {
    const outcome = day.outcome;
    const why = outcome.by ?? outcome.why ?? (outcome.node ? `by ${outcome.node}` : "");
    return [
      iso(day.day), day.team, day.holders.join(", "), day.planned ?? "–", outcome.kind.replace("_", " "), why,
      outcome.attempt ?? "–", outcome.rows_matched ?? "–", element("code", {}, outcome.version?.slice(0, 8) ?? "–"),
    ];
  });
  const columns = ["Day", "Team", "Holders", "Planned", "Outcome", "How", "#Attempt", "#Rows", "Version"];
  fillTable(byId("coverage-table"), "What became of each planned day", columns, rows);
  const hops = found.hops.map((hop) => [
    hop.node, Math.round(hop.elapsed_ms), hop.queue_ms, hop.scan_ms, hop.encode_ms, hop.rows_scanned, bytes(hop.bytes), hop.attempts,
  ]);
  const times = ["Node", "#Elapsed ms", "#Queue ms", "#Scan ms", "#Encode ms", "#Rows scanned", "#Bytes", "#Attempts"];
  fillTable(byId("hops-table"), "Where the time of the query went; empty if it came from the cache", times, hops);
}

async function coveragePicture(asked, signal) {
  byId("coverage").replaceChildren(await askPicture("/api/v1/coverage.svg", asked, signal));
}

async function map(asked, signal) {
  const days = planned(asked);
  await openMap(without(asked, "limit"), days, signal);
  const names = [...new Set(sites().map((site) => site.name))].sort();
  byId("sites").replaceChildren(...names.map((name) => element("option", { value: name })));
}

/** Every day of the query that somebody owns. */
function planned(asked) {
  const topology = lastLook();
  const teams = topology.teams.filter((team) => team.last_day !== null && (asked.team ?? team.name) === team.name);
  const days = [];
  for (const team of teams) {
    const first = asked.from > team.first_day ? asked.from : team.first_day;
    const last = asked.to < team.last_day ? asked.to : team.last_day;
    const [end, day] = [new Date(`${iso(last)}T00:00Z`), new Date(`${iso(first)}T00:00Z`)];
    for (; day <= end; day.setUTCDate(day.getUTCDate() + 1)) days.push(day.toISOString().slice(0, 10).replaceAll("-", ""));
  }
  return days.sort();
}

function seriesQuery(asked) {
  return { ...without(asked, "limit"), of: byId("series-of").value, ...(seriesSite === null ? {} : onlyOf(seriesSite)) };
}

/** Just this site: its name is part of others' names, and others may have the same; they stand elsewhere. */
function onlyOf({ name, agency, latitude, longitude }) {
  const only = { bbox: [longitude, latitude, longitude, latitude].join() };
  if (name !== "") only.site = name;
  if (agency !== "") only.agency = agency;
  return only;
}

/** Draws the time series, instead of whichever is still asked for. */
async function series(asked) {
  drawing.abort();
  drawing = new AbortController();
  const { signal } = drawing;
  const chip = byId("series-site");
  [chip.hidden, byId("series-all").hidden] = [seriesSite === null, seriesSite === null];
  chip.textContent = seriesSite?.name ?? "";
  const picture = await askPicture("/api/v1/series.svg", seriesQuery(asked), signal);
  signal.throwIfAborted();
  byId("series").replaceChildren(picture);
  if (byId("series-details").open) await orComplain("The hours of the time series", seriesTable(asked, signal));
}

async function seriesTable(asked, signal) {
  const hourly = { parameter: "PM2.5", ...seriesQuery(asked), group_by: "day,hour", format: "json" };
  const hours = await askJson("/api/v1/aggregate", hourly, signal);
  signal.throwIfAborted();
  const rows = hours.map((hour) => [`${iso(hour.date)} ${String(hour.hour).padStart(2, "0")}:00`, hour.count, hour.min, hour.mean, hour.max]);
  fillTable(byId("series-table"), "Hours of the time series", ["Hour, UTC", "#Rows", "#Lowest", "#Mean", "#Highest"], rows);
}

async function rows(asked, signal) {
  const limit = Math.min(Number(asked.limit ?? ROWS_SHOWN) || ROWS_SHOWN, ROWS_SHOWN);
  const response = await ask("/api/v1/query", { ...asked, limit, format: "json" }, signal);
  const found = await response.json();
  const parts = found.length > 0 ? [`The first ${number(found.length)}, in the order of day, file and row.`] : [];
  const note = response.headers.get("overlay-note");
  if (note !== null) parts.push(`Note: ${note}.`);
  byId("rows-said").textContent = parts.join(" ") || "No row matches.";
  // Two digits of a degree are a kilometre.
  const shown = (name, value) => (DEGREES.includes(name) && typeof value === "number" ? value.toFixed(6) : value ?? "–");
  const cells = found.map((row) => Object.keys(COLUMNS).map((name) => shown(name, row[name])));
  fillTable(byId("rows"), "Rows", Object.values(COLUMNS), cells);
}

function commands(asked) {
  byId("shell").textContent = shell(asked, location, hasToken());
  byId("python").textContent = python(asked, location, hasToken());
  byId("curl").textContent = curl(asked, location, hasToken());
  for (const link of byId("downloads").querySelectorAll("a")) {
    link.href = url("/api/v1/query", { ...asked, format: link.dataset.format });
  }
}

/** Whether the query can be asked elsewhere. */
function offer(isGood) {
  for (const id of ["commands", "downloads"]) byId(id).hidden = !isGood;
}

/** Names to choose from, and the formats that this node writes. */
async function suggest() {
  isSuggested = true;
  try {
    const document_ = await askJson("/api/v1/openapi.json");
    const formats = document_.components.parameters.format.schema.enum;
    const links = formats.map((format) => element("a", { class: "button", "data-format": format, href: "#", download: `observations.${format}` }, format));
    for (const old of byId("downloads").querySelectorAll("a")) old.remove();
    byId("downloads").append(...links);
    commands(askedLast);
    const agencies = await askJson("/api/v1/aggregate", { group_by: "agency", format: "json", parameter: query().parameter });
    byId("agencies").replaceChildren(...agencies.map((agency) => element("option", { value: agency.agency_name })));
  } catch (problem) {
    isSuggested = false;
    complain(`The formats and agencies to choose from: ${problem.message}`);
  }
}

/** A link shows no token: what needs one is fetched, and then kept as a file. */
async function download(event) {
  const link = event.target.closest("a[data-format]");
  if (link === null || !hasToken()) return;
  event.preventDefault();
  const file = URL.createObjectURL(await (await ask(link.getAttribute("href"))).blob());
  const saved = element("a", { href: file, download: link.download });
  saved.click();
  setTimeout(() => URL.revokeObjectURL(file), 60_000);
}

function drawSeries(saying = "") {
  const drawn = series(askedLast).then(() => saying && say(saying));
  return unless(drawn, (problem) => {
    byId("series").replaceChildren(element("p", { class: "muted" }, problem.message));
    byId("series-table").replaceChildren();
  });
}

function showSeries(site) {
  seriesSite = site;
  return drawSeries(site === null ? "Time series of all sites" : `Time series of ${site.name}`);
}

byId("query").addEventListener("submit", (event) => {
  event.preventDefault();
  run();
});
byId("downloads").addEventListener("click", (event) => orComplain("The download", download(event)));
byId("series-of").addEventListener("change", () => showSeries(seriesSite));
byId("series-all").addEventListener("click", () => showSeries(null));
byId("series-details").addEventListener("toggle", () => {
  if (!byId("series-details").open) return;
  orComplain("The hours of the time series", seriesTable(askedLast, drawing.signal));
});
whenChosen(showSeries);

for (const button of document.querySelectorAll("[data-copies]")) {
  button.addEventListener("click", async () => {
    const text = byId(button.dataset.copies);
    try {
      await navigator.clipboard.writeText(text.textContent);
      say("Copied");
      button.textContent = "Copied";
      setTimeout(() => (button.textContent = "Copy"), 1500);
    } catch {
      // Not over plain HTTP from another host: then it is marked, to be copied by hand.
      getSelection().selectAllChildren(text);
    }
  });
}
