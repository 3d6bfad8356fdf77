// SPDX-License-Identifier: Apache-2.0
// The start of the page of a span, and its search.

const TIMELINE_KEYS = [
  ["← →", "in the lanes: the cursor, to the event before and the next; with Shift: the time in sight"],
  ["PgUp PgDn", "the cursor, by a tenth of what is in sight"], ["Home End", "the cursor, to the first and the last event"],
  ["↑ ↓", "the lane before and the next"], ["Enter", "the cursor, to the birth of the chosen process; in the search: the next one found"],
  ["+ − 0", "zoom in and out, all; so does the wheel with Ctrl, and a double click at a lane"],
  ["/", "search, at any time: words, or pid:5 session:3 group:3 user:root"], ["Esc", "end the search, then the choice"],
];

const showsAllUnfound = true;  // a search that finds nothing at the cursor leaves the tree as it is

/** Tell the lanes of a search, and how many it has found. */
function searched() {
  findLives(search.value.trim());
  keepLane(anchorLane(), relane);
  sayFound();
  drawTimes();
}

/** Say how many lives a search has found. */
function sayFound() {
  if (!found) return;
  const now = [...found].filter((index) => living.has(index)).length;
  document.getElementById("found").textContent = `${found.size} found, ${now} of them at the cursor`;
}

/** Choose the next life that the search has found, and go to a time at which it is there. */
function nextFound(by) {
  const some = lanes.filter((index) => found && found.has(index));
  if (!some.length) return;
  const at = some.indexOf(chosenLife);
  const next = lives[some[at < 0 && by < 0 ? some.length - 1 : (at + by + some.length) % some.length]];
  if (next.born > cursor.stop || (next.gone !== NONE && next.gone <= cursor.stop)) goTo(next.born);
  showTree();
  chooseLife(next.index);
}

async function copyCommand() {
  const code = document.getElementById("command");
  const range = document.createRange();
  range.selectNodeContents(code);
  getSelection().removeAllRanges();
  getSelection().addRange(range);
  try {
    await navigator.clipboard.writeText(code.textContent);
    document.getElementById("copy").textContent = "Copied";
  } catch {
    document.getElementById("copy").textContent = "Selected";  // a browser may not allow it: the reader can copy it then
  }
  setTimeout(() => { document.getElementById("copy").textContent = "Copy"; }, 1500);
}

function startTimeline() {
  startTools(told, TIMELINE_KEYS);
  readInks();
  dark.addEventListener("change", () => { readInks(); drawTimes(); });
  document.getElementById("colour").addEventListener("change", () => { tints = new Map(); });
  document.querySelector("#colour option[value=namespace]").remove();  // no event tells of one
  document.getElementById("threads-label").hidden = !lives.some((life) => life.leader !== NONE);
  document.getElementById("threads").addEventListener("change", () => { keepLane(anchorLane(), relane); drawTimes(); });
  which.addEventListener("change", () => { keepLane(anchorLane(), relane); drawTimes(); });
  document.getElementById("clock").addEventListener("change", () => { sayInstant(); showDetails(chosen); drawTimes(); });
  document.getElementById("nearer").addEventListener("click", () => zoom(0.6));
  document.getElementById("farther").addEventListener("click", () => zoom(1 / 0.6));
  document.getElementById("whole").addEventListener("click", whole);
  document.getElementById("copy").addEventListener("click", copyCommand);
  document.getElementById("command").addEventListener("click", copyCommand);
  place.addEventListener("scroll", drawTimes);
  place.addEventListener("keydown", lanesKey);
  place.setAttribute("aria-valuemax", String(STOPS - 1));
  startPointer();
  startOverview();
  new ResizeObserver(drawTimes).observe(place);
  new ResizeObserver(drawTimes).observe(overview);
  addEventListener("hashchange", fromAddress);
  const top = standing(0).tops;
  if (top.length === 1 && top[0].facts[SESSION] !== top[0].number) outerSession = top[0].facts[SESSION] || null;
  for (const key of [SESSION, GROUP]) {  // colours do not depend on where the cursor has been
    const kind = key === SESSION ? "session" : "group";
    for (const life of lives) {
      const number = life.first[key];
      const name = `${kind} ${!number ? 0 : number === outerSession ? INHERITED : tagOf(number)}`;
      if (!PALETTE.has(name)) PALETTE.set(name, sizes[kind]++);
    }
  }
  relane();
  const fate = lives.length && told.root !== null ? piecesOf(lives[0]) && lives[0].death : null;
  goTo(fate ? fate.stop - 1 : STOPS - 1);  // where the root is gone, to the last instant at which it ran
  showTree();
  fromAddress();
  draw();
  place.focus({ preventScroll: true });
  document.documentElement.dataset.ready = Math.round(performance.now());  // milliseconds until the page obeys
}

startTimeline();
