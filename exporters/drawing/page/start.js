// SPDX-License-Identifier: Apache-2.0
// The start of the page of a snapshot, and its address.

const KEYS = [
  ["/", "search: words, or session:3 group:3 namespace:4026531836 user:root state:zombie pid:5"],
  ["Enter", "in the search: the next one found; in the tree: fold, or the next one found"],
  ["Esc", "end the search, then the choice"],
  ["↑ ↓", "move"], ["← →", "fold and unfold, to the parent and the first child"],
  ["PgUp PgDn Home End", "move far"], ["+ − ← →", "on the axis of births: zoom, the birth before and the next"],
];

function noteAddress() {
  history.replaceState(null, "", chosen ? `#pid=${chosen.path}` : "#");
}

function fromAddress() {
  const [, path] = decodeURIComponent(location.hash).match(/^#pid=([\d/]+)$/) || [];
  const node = path === undefined ? null : byNumbers.get(path);
  if (node && node !== chosen) choose(node, { quiet: true });
  else if (path !== undefined && !node) document.getElementById("found").textContent = `no pid ${path} here`;
}

/** Note a choice: in the panel, on the axis of births and in the address. */
function wasChosen(node, quiet) {
  showDetails(node);
  drawTimes();
  if (!quiet) noteAddress();
}

const moreFacts = () => [];  // of a node; the image has no others
const showsAllUnfound = false;  // a search that finds nothing shows nothing
const searched = drawTimes;
const nextFound = nextMatch;
const overWas = () => {};  // the axis of births draws it anyway

function start() {
  startTools(image, KEYS);
  document.getElementById("threads-label").hidden = !nodes.some((node) => node.kind === "thread");
  document.getElementById("fold").addEventListener("click", foldAll);
  document.getElementById("unfold").addEventListener("click", () => { folded.clear(); relist(); if (chosen) reveal(chosen); });
  addEventListener("hashchange", fromAddress);
  startTimes();
  showLegend();
  relist();
  showDetails(null);
  drawNow();
  fromAddress();
  box.focus({ preventScroll: true });
  document.documentElement.dataset.ready = Math.round(performance.now());  // milliseconds until the page obeys
}

start();
