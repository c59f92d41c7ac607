// Which view is shown, and whether the node wants a token.

import { byId, hasToken, keepToken, whenUnauthenticated } from "./node.js";
import { openExplore } from "./explore.js";
import { lookNow, openOverlay } from "./overlay.js";

const VIEWS = { overlay: openOverlay, explore: openExplore };

function show() {
  const wanted = location.hash.slice(1);
  if (wanted === "main") return byId("main").focus();
  const view = Object.hasOwn(VIEWS, wanted) ? wanted : "overlay";
  for (const name of Object.keys(VIEWS)) {
    byId(name).hidden = name !== view;
    const link = byId(`to-${name}`);
    if (name === view) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `${byId(`${view}-title`).textContent} · Air-quality overlay`;
  // Not to the view's own place: that lies behind the header.
  scrollTo(0, 0);
  VIEWS[view]();
}

whenUnauthenticated((detail) => {
  const form = byId("token-form");
  if (form.hidden) {
    form.hidden = false;
    byId("token").focus();
  }
  // What is written here is read out, even if it is the same again.
  const problem = hasToken() ? detail : "";
  if (byId("token-problem").textContent !== problem) byId("token-problem").textContent = problem;
});

// Whoever sees the nodes needs no other token.
document.addEventListener("topology", () => (byId("token-form").hidden = true));

byId("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  keepToken(byId("token").value.trim());
  byId("token").value = "";
  byId("token-form").hidden = true;
  lookNow();
  show();
});

window.addEventListener("hashchange", show);
// Whichever view is shown first: both need to know the nodes.
lookNow();
show();
