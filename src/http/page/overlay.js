// The overlay, live: one look at what the node knows twice a second.
//
// The node asks the others every `limits.probe_ms` (one second), so that a node that dies is seen within one and a half. If it
// dies itself, the next look fails and half a second is enough; if it hangs, nothing fails before `PATIENCE_MS` are over.

import { Problem, askJson, byId, bytes, element, fillTable, number, renew, say } from "./node.js";
import { drawGraph } from "./graph.js";

const EVERY_MS = 500;
/** A look that takes longer is a failed one: connections to a process that hangs stay open. */
const PATIENCE_MS = 1500;
/** Rates are those of this time: loads come once a second, so less would flicker. */
const WINDOW_MS = 3000;
const MOST_EVENTS = 30;

let looks = [];
let known = new Map();
let timer;
/** What is wrong with the node that serves this page; `null` while it answers. */
let lost = null;
/** The look that the next one follows: there is one line of them. */
let current;

export function openOverlay() {
  draw();
}

/** Looks at once, and on from there. */
export function lookNow() {
  clearTimeout(timer);
  look();
}

/** What was seen last; `undefined` before. */
export function lastLook() {
  return looks.at(-1)?.topology;
}

async function look() {
  const [began, mine] = [performance.now(), (current = Symbol())];
  try {
    const topology = await askJson("/api/v1/topology", { brief: true }, AbortSignal.timeout(PATIENCE_MS));
    if (mine !== current) return;
    looks.push({ at: began, topology });
    looks = looks.filter((look) => began - look.at <= WINDOW_MS);
    lost = null;
    note(topology);
    connection("live", `node ${topology.node}, live`);
    document.dispatchEvent(new CustomEvent("topology", { detail: topology }));
    draw();
  } catch (problem) {
    if (mine !== current) return;
    if (problem.wantsToken) {
      connection("waiting", "a token is needed");
      // Asking again makes no token good: whoever enters another one looks at once.
      return;
    }
    lose(problem);
  }
  const next = Math.max(0, EVERY_MS - (performance.now() - began));
  timer = setTimeout(look, next);
}

function connection(state, text) {
  const pill = byId("connection");
  if (pill.dataset.state === state && pill.textContent === text) return;
  if (state === "lost" && pill.dataset.state !== "lost") say(`Connection lost: ${text}`);
  pill.dataset.state = state;
  pill.textContent = text;
}

/** What is known of the others came from this node: without it, nothing is known of them. */
function lose(problem) {
  // Its body may be what does not come: then it is no problem of ours yet.
  const why = problem instanceof Problem ? problem.message : "the node does not answer in time";
  // Whoever refuses is not dead, but tells nothing either.
  lost = { health: problem.status > 0 ? "unknown" : "down", why };
  connection("lost", why);
  const topology = lastLook();
  if (topology === undefined) return;
  const before = known.get(topology.node);
  if (before !== undefined && before.health !== lost.health) {
    known.set(topology.node, { ...before, health: lost.health });
    event(`Node ${topology.node} is ${lost.health}`, `${why}; it serves this page, so nothing is known of the others`);
  }
  draw();
}

/** The nodes as they are known now. */
function nodesOf(topology) {
  const asSeen = topology.nodes.map((node) => ({ ...node, load: isSilent(node) ? null : node.load }));
  if (lost === null) return asSeen;
  const unknown = { health: "unknown", why: `node ${topology.node}, which serves this page, does not tell` };
  return asSeen.map((node) => ({ ...node, ...(node.id === topology.node ? lost : unknown), load: null }));
}

/** Keeps what changed since the last look. */
function note(topology) {
  byId("served-by").textContent = `${topology.node}, version ${topology.version}`;
  for (const node of topology.nodes) {
    const before = known.get(node.id);
    // What a node holds is not known while it is asked again: what it held is compared with what comes then.
    const incarnation = node.incarnation ?? before?.incarnation ?? null;
    const version = node.held?.version ?? before?.version ?? null;
    known.set(node.id, { health: node.health, incarnation, version });
    if (before === undefined) continue;
    if (before.health !== node.health) event(`Node ${node.id} is ${node.health}`, node.why);
    if (before.incarnation === null || before.incarnation === incarnation) continue;
    if (isNewStart(before.incarnation, incarnation)) event(`Node ${node.id} was started again`, "");
    else if (before.version !== version) event(`Node ${node.id} has new data`, "");
    else event(`Node ${node.id} found other files`, "its rows are the same");
  }
}

/** New data add one to an incarnation; a start sets it to the time, 65536 to the millisecond. */
function isNewStart(before, now) {
  const step = BigInt(now) - BigInt(before);
  return step < 0n || step >= 65536n;
}

function event(what, why) {
  say(what);
  const list = byId("events");
  list.querySelector(".muted")?.remove();
  const time = new Date().toLocaleTimeString("en-GB");
  const line = element("li", {}, element("time", {}, time), ` ${what}`);
  if (why) line.append(element("span", { class: "why" }, why));
  list.prepend(line);
  while (list.children.length > MOST_EVENTS) list.lastElementChild.remove();
}

function draw() {
  const topology = lastLook();
  if (topology === undefined || byId("overlay").hidden) return;
  const nodes = nodesOf(topology);
  const edges = topology.edges.map(([a, b]) => ({ a, b, ...traffic(a, b) }));
  tiles(topology, nodes, edges);
  drawGraph(byId("graph"), nodes, edges);
  nodeTable(nodes);
  edgeTable(edges);
}

/** What a node does that does not answer is not known. */
export const isSilent = (node) => node.health === "down" || node.health === "unknown";

/** Requests and bytes a second between two nodes, whoever asked, and since they started. */
function traffic(a, b) {
  if (lost !== null) return { requestRate: null, byteRate: null, requests: null, bytes: null };
  const [first, last] = [looks[0], looks.at(-1)];
  const seconds = Math.max((last.at - first.at) / 1000, 0.5);
  const all = { requestRate: 0, byteRate: 0, requests: 0, bytes: 0 };
  for (const [from, to] of [[a, b], [b, a]]) {
    const [before, now] = [sent(first, from, to), sent(last, from, to)];
    all.requests += now?.requests ?? 0;
    all.bytes += now?.bytes ?? 0;
    // What was sent before anybody knew of it is no rate.
    if (before === null || now === null) continue;
    all.requestRate += Math.max(0, now.requests - before.requests) / seconds;
    all.byteRate += Math.max(0, now.bytes - before.bytes) / seconds;
  }
  return all;
}

/** What a node had sent to another at a look; `null` if its load was not known then. */
function sent(look, from, to) {
  const load = look.topology.nodes.find((node) => node.id === from)?.load ?? null;
  if (load === null) return null;
  return load.traffic.find((traffic) => traffic.node === to) ?? { requests: 0, bytes: 0 };
}

function tiles(topology, nodes, edges) {
  const up = nodes.filter((node) => node.health === "up").length;
  const sum = (name) => nodes.reduce((total, node) => total + (node.load?.[name] ?? 0), 0);
  const differing = topology.version_conflicts;
  const asSeen = [
    ["Nodes up", `${up} of ${nodes.length}`, up === nodes.length ? "good" : "bad"],
    ["Queries active", number(sum("active_queries"))],
    ["Queries waiting", number(sum("waiting_queries"))],
    ["Pieces computing", `${number(sum("computing_pieces"))}, ${number(sum("waiting_pieces"))} waiting`],
    ["Between nodes", `${bytes(edges.reduce((total, edge) => total + edge.byteRate, 0))}/s`],
    ["Versions of the data", differing === 0 ? "equal" : differing === 1 ? "1 day differs" : `${number(differing)} days differ`, differing === 0 ? "" : "bad"],
  ];
  const shown = lost === null ? asSeen : asSeen.map(([name]) => [name, "unknown", name === "Nodes up" ? "bad" : ""]);
  renew(
    byId("tiles"),
    shown.map(([name, value, state]) =>
      element("div", { class: "tile", "data-state": state ?? "" }, element("dt", {}, name), element("dd", {}, value)),
    ),
  );
  const rows = nodes.map((node) => node.held?.rows ?? 0).reduce((most, rows) => Math.max(most, rows), 0);
  byId("overlay-summary").textContent =
    lost === null
      ? `${nodes.length} nodes, ${edges.length} edges, up to ${number(rows)} rows at a node`
      : `Node ${topology.node}, which serves this page: ${lost.why}. Nothing is known of the others.`;
}

function nodeTable(nodes) {
  const rows = nodes.map((node) => {
    const load = node.load;
    const free = node.free_compute_slots ?? "";
    return [
      node.id,
      element("span", { class: "health", "data-health": node.health, title: node.why }, node.health),
      node.role.replace("_", " "),
      node.team,
      load ? load.active_queries : "–",
      load ? load.waiting_queries : "–",
      load ? `${load.computing_pieces} / ${load.waiting_pieces}` : "–",
      load ? load.peer_requests_in_flight : "–",
      isSilent(node) ? "–" : free,
      daysHeld(node),
      node.held?.rows ?? "–",
      element("code", {}, node.held?.version?.slice(0, 8) ?? "–"),
      node.address,
    ];
  });
  const columns = ["Node", "Health", "Role", "Team", "#Active", "#Waiting", "#Pieces run / wait", "#For neighbours", "#Free slots", "Days", "#Rows", "Version", "Address"];
  fillTable(byId("nodes"), "Every node: health, load, queue, days and version of its data", columns, rows);
}

/** `8, 2020-08-10 to 2020-08-20`. */
export function daysHeld(node) {
  const held = node.held;
  if (!held) return "unknown";
  if (held.days === 0) return "none";
  const short = (day) => `${day.slice(4, 6)}-${day.slice(6)}`;
  return `${held.days}, ${short(held.first_day)} to ${short(held.last_day)}`;
}

function edgeTable(edges) {
  const rows = edges.map((edge) => [
    `${edge.a} – ${edge.b}`,
    edge.requestRate === null ? "–" : edge.requestRate < 0.05 ? "0" : edge.requestRate.toFixed(1),
    edge.byteRate === null ? "–" : `${bytes(edge.byteRate)}/s`,
    edge.requests ?? "–",
    edge.bytes === null ? "–" : bytes(edge.bytes),
  ]);
  const columns = ["Edge", "#Requests/s", "#Bytes", "#Requests in all", "#Bytes in all"];
  fillTable(byId("edges"), "Traffic of each edge on behalf of clients", columns, rows);
}
