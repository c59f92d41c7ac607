// The overlay as a graph: the leader on top, then those one edge away, and so on.

import { bytes, number, renew, shape } from "./node.js";
import { daysHeld, isSilent } from "./overlay.js";

const GAP = 10;
/** Narrower cards leave out what is in the table anyway. */
const NARROW = 150;
/** What a label takes of the height between two layers, which has room for three. */
const LABEL = 23;
/** Words fit into no less: wider layers are moved sideways. */
const LEAST = 98;

export function drawGraph(container, nodes, edges) {
  const room = container.clientWidth;
  const layers = layered(nodes, edges);
  const most = Math.max(...layers.map((layer) => layer.length));
  const width = Math.max(room, most * (LEAST + GAP) + GAP);
  const card = Math.min(230, (width - GAP * (most + 1)) / most);
  const [cardHeight, layerHeight] = card < NARROW ? [138, 210] : [112, 190];
  const height = layers.length * layerHeight - (layerHeight - cardHeight) + 2 * GAP;
  const place = new Map();
  layers.forEach((layer, row) => {
    layer.forEach((node, column) => {
      const x = (width * (column + 1)) / (layer.length + 1);
      const evenly = GAP + card / 2 + (column * (width - 2 * GAP - card)) / Math.max(layer.length - 1, 1);
      // Full rows reach from edge to edge where the middle of each share would leave no room.
      place.set(node.id, { x: layer.length === most && most > 2 ? evenly : x, y: GAP + cardHeight / 2 + row * layerHeight });
    });
  });
  const down = new Set(nodes.filter((node) => node.health === "down").map((node) => node.id));
  const title = `${nodes.length} nodes and ${edges.length} edges. ${nodes.map((node) => `${node.id}: ${node.health}`).join(", ")}`;
  const picture = shape(
    "svg",
    { viewBox: `0 0 ${width} ${height}`, role: "img", width, height, "data-room": room },
    shape("title", {}, title),
    ...edges.filter((edge) => place.has(edge.a) && place.has(edge.b)).map((edge) => line(edge, place, down)),
    ...nodes.map((node) => cardOf(node, place.get(node.id), card, cardHeight)),
    ...labels(edges.filter((edge) => edge.byteRate > 0), place),
  );
  const old = container.firstElementChild;
  const isAlike = old && ["viewBox", "data-room"].every((name) => old.getAttribute(name) === picture.getAttribute(name));
  if (isAlike) renew(old, [...picture.children]);
  else container.replaceChildren(picture);
}

/** Nodes by their distance from the leader, each layer in the order of those that it hangs on. */
function layered(nodes, edges) {
  const neighbours = (id) => edges.flatMap(({ a, b }) => (a === id ? [b] : b === id ? [a] : []));
  const leader = nodes.find((node) => node.role === "leader") ?? nodes[0];
  const distance = new Map([[leader.id, 0]]);
  const queue = [leader.id];
  while (queue.length > 0) {
    const id = queue.shift();
    for (const next of neighbours(id)) {
      if (!distance.has(next)) {
        distance.set(next, distance.get(id) + 1);
        queue.push(next);
      }
    }
  }
  const layers = [];
  for (const node of nodes) (layers[distance.get(node.id) ?? 0] ??= []).push(node);
  const order = new Map();
  for (const layer of layers) {
    const above = (node) => {
      const places = neighbours(node.id).filter((id) => order.has(id)).map((id) => order.get(id));
      return places.length === 0 ? 0 : places.reduce((sum, at) => sum + at, 0) / places.length;
    };
    layer.sort((a, b) => above(a) - above(b) || a.id.localeCompare(b.id));
    layer.forEach((node, index) => order.set(node.id, (index + 1) / (layer.length + 1)));
  }
  return layers;
}

function line(edge, place, down) {
  const [from, to] = [place.get(edge.a), place.get(edge.b)];
  const state = down.has(edge.a) || down.has(edge.b) ? "cut" : edge.byteRate > 0 ? "busy" : "idle";
  // From a hair to a rope: one more pixel for each tenfold.
  const thickness = edge.byteRate > 0 ? 2 + Math.max(0, Math.log10(edge.byteRate) - 1) : 1.5;
  const bent = from.y === to.y ? 60 : 0;
  const path = `M${from.x} ${from.y} Q${(from.x + to.x) / 2} ${(from.y + to.y) / 2 + bent} ${to.x} ${to.y}`;
  return shape("path", { d: path, class: `edge ${state}`, "stroke-width": thickness.toFixed(1) });
}

/** Each at the middle of its edge; where another one is, a line lower, for edges part downwards, or higher. */
function labels(edges, place) {
  const made = [];
  for (const edge of edges) {
    const [from, to] = [place.get(edge.a), place.get(edge.b)];
    const text = `${edge.requestRate.toFixed(1)}/s  ${bytes(edge.byteRate)}/s`;
    const half = text.length * 3.3 + 8;
    const at = (higher) => {
      const [wide, high] = [to.x - from.x, to.y - from.y];
      const along = high === 0 ? 0 : (higher * wide) / high;
      return { x: (from.x + to.x) / 2 - along, y: (from.y + to.y) / 2 + (high === 0 ? 38 : 0) - higher, half, text };
    };
    const isFree = ({ x, y }) => made.every((other) => Math.abs(x - other.x) >= half + other.half || Math.abs(y - other.y) >= LABEL);
    made.push([0, -LABEL, LABEL].map(at).find(isFree) ?? at(0));
  }
  return made.map(label);
}

function label({ x, y, half, text }) {
  return shape(
    "g",
    { class: "edge-label" },
    shape("rect", { x: x - half, y: y - 11, width: 2 * half, height: 22, rx: 11 }),
    shape("text", { x, y: y + 4, "text-anchor": "middle" }, text),
  );
}

function cardOf(node, { x, y }, width, height) {
  const [left, top] = [x - width / 2, y - height / 2];
  const isNarrow = width < NARROW;
  const inset = isNarrow ? 10 : 14;
  const role = node.role.replace("_", " ");
  const load = node.load;
  const busy = load ? load.active_queries + load.computing_pieces + load.peer_requests_in_flight : 0;
  const waiting = load ? load.waiting_queries + load.waiting_pieces : 0;
  const mark = { up: "●", suspect: "▲", down: "✕", unknown: "?" }[node.health] ?? "?";
  const words = { up: node.ready === false ? "loading" : "up", suspect: "suspect", down: "down", unknown: "unknown" }[node.health];
  const text = (line, content, more = "") =>
    shape("text", { x: left + inset, y: top + 24 + line * 20, class: more }, content);
  // A node of an older version answers, but does not say what it does.
  const unheard = isSilent(node) ? "no answer" : "load unknown";
  const health = `${mark} ${words}`;
  const lines = [];
  if (isNarrow) {
    // Beside the name there is no room for the longest of these words.
    lines.push(text(1, health, "health"));
    lines.push(text(2, role, "muted"));
    lines.push(text(3, node.team, "muted"));
    lines.push(text(4, load ? `${busy} busy` : unheard));
    lines.push(text(5, load ? `${waiting} waiting` : ""));
  } else {
    lines.push(shape("text", { x: left + width - inset, y: top + 24, "text-anchor": "end", class: "health" }, health));
    lines.push(text(1, `${role} · ${node.team}`, "muted"));
    lines.push(text(2, load ? `${busy} busy · ${waiting} waiting · ${node.free_compute_slots ?? 0} free` : unheard));
    lines.push(text(3, heldIn(node), "muted"));
  }
  return shape(
    "g",
    { class: "node", "data-node": node.id, "data-health": node.health, "data-team": node.team },
    shape("title", {}, `${node.id}, ${role}, ${node.team}, ${node.health} ${node.why}. Days: ${daysHeld(node)}`),
    shape("rect", { x: left, y: top, width, height, rx: 12 }),
    shape("rect", { x: left, y: top + 12, width: 4, height: height - 24, rx: 2, class: "team" }),
    text(0, node.id, "name"),
    ...lines,
  );
}

function heldIn(node) {
  if (!node.held) return "nothing known of its days";
  if (node.held.days === 0) return "holds no days";
  return `${node.held.days} days · ${number(node.held.rows)} rows`;
}
