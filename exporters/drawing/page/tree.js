// SPDX-License-Identifier: Apache-2.0
// The tree: a list of the rows that are unfolded, of which only those in sight are in the document.

const ROW = 24;  // pixels, as in the style sheet
const INDENT = 16;
const DEEPEST = 40;  // generations that are indented; deeper rows have the number of their generation
const MORE = 20;  // rows above and below those in sight

const box = document.getElementById("tree");
const rowsBox = document.getElementById("rows");
const search = document.getElementById("search");
const folded = new Set();
let rows = [];  // nodes, and texts of sections
let matches = [];
let matching = null;  // the set of found nodes, while a search is on
let chosen = null;
let over = null;

/** Return the nodes below one: its children, and its threads with theirs where these are shown. */
function below(node, threads) {
  if (threads || !node.threads.length) return node.threads.length ? [...node.threads, ...node.children] : node.children;
  const inner = node.threads.flatMap((thread) => thread.children);
  return inner.length ? [...node.children, ...inner].sort((a, b) => a.place - b.place) : node.children;
}

/** Return the row that is above a node. */
function above(node, threads) {
  const parent = node.parent;
  return parent && parent.kind === "thread" && !threads ? parent.parent : parent;
}

const withThreads = () => matching !== null || document.getElementById("threads").checked;

/** Return the rows of the tree, in order; `kept`: only these nodes, all unfolded. */
function flatten(kept) {
  const threads = withThreads();
  const list = [];
  const todo = [];
  const push = (node, level) => {
    if (kept && !kept.has(node)) return;
    node.level = level;
    todo.push(node);
  };
  for (let place = roots.length - 1; place >= 0; place--) push(roots[place], 0);
  while (todo.length) {
    const node = todo.pop();
    list.push(node);
    if (!kept && folded.has(node)) continue;
    const under = below(node, threads);
    for (let place = under.length - 1; place >= 0; place--) push(under[place], node.level + 1);
  }
  for (const [kind, title] of [["ghost", "Pids without a task here"], ["gone", "Gone, and others were born of them"]]) {
    const some = nodes.filter((node) => node.kind === kind && (!kept || kept.has(node)));
    if (some.length) list.push(title, ...some);
  }
  return list;
}

/** Compute the rows anew, after a fold or another search. */
function relist() {
  const query = search.value.trim();
  let kept = null;
  matching = null;
  if (query) {
    const test = matcher(query);
    const found = nodes.filter(test);
    if (found.length || !showsAllUnfound) {
      matching = new Set(found);
      kept = new Set(found);
    }
    for (const node of found) for (let up = node.parent; up && !kept.has(up); up = up.parent) kept.add(up);
  }
  rows = flatten(kept);
  rows.forEach((row, place) => { if (typeof row !== "string") row.at = place; });
  matches = matching ? rows.filter((row) => matching.has(row)) : [];
  document.getElementById("found").textContent = matching ? `${matches.length} found` : "";
  document.getElementById("space").style.height = `${rows.length * ROW}px`;
  draw();
}

let drawn = false;
function draw() {
  if (drawn) return;
  drawn = true;
  requestAnimationFrame(() => { drawn = false; drawNow(); });
}

function drawNow() {
  const first = Math.max(0, Math.floor(box.scrollTop / ROW) - MORE);
  const last = Math.min(rows.length, Math.ceil((box.scrollTop + box.clientHeight) / ROW) + MORE);
  rowsBox.style.top = `${first * ROW}px`;
  rowsBox.replaceChildren(...rows.slice(first, last).map(rowOf));
  if (chosen && isShown(chosen)) box.setAttribute("aria-activedescendant", "chosen");
  else box.removeAttribute("aria-activedescendant");
}

const isShown = (node) => rows[node.at] === node;

/** Return a text with the words of the search marked. */
function marked(className, text) {
  const made = el("span", className);
  const words = matching ? search.value.toLowerCase().split(/\s+/).filter((word) => word && !/^\w+:./.test(word)) : [];
  let rest = 0;
  const low = text.toLowerCase();
  while (words.length && low.length === text.length) {
    const [at, word] = words.map((each) => [low.indexOf(each, rest), each]).filter(([place]) => place >= 0)
      .sort((a, b) => a[0] - b[0])[0] || [-1, ""];
    if (at < 0) break;
    made.append(text.slice(rest, at), el("mark", "", text.slice(at, at + word.length)));
    rest = at + word.length;
  }
  made.append(text.slice(rest));
  return made;
}

function rowOf(node) {
  if (typeof node === "string") return el("div", "row section", node);
  const row = el("div", "row");
  row.setAttribute("role", "treeitem");
  row.setAttribute("aria-level", node.level + 1);
  row.setAttribute("aria-selected", node === chosen);
  if (node === chosen) { row.classList.add("chosen"); row.id = "chosen"; }
  if (node === over) row.classList.add("over");
  if (matching && !matching.has(node)) row.classList.add("passed");
  row.style.paddingLeft = `${6 + Math.min(node.level, DEEPEST) * INDENT}px`;
  row.node = node;
  const under = below(node, withThreads()).length;
  const fold = el("span", "fold", under ? (folded.has(node) && !matching ? "▸" : "▾") : "");
  if (under) row.setAttribute("aria-expanded", !folded.has(node) || matching !== null);
  row.append(fold, labelOf(node));
  if (node.task) {
    const { start, uid } = node.task;
    const age = ageOf(node.task);
    const said = [age !== null ? span(age) : start === undefined ? "" : `+${span(start)}`, uid === undefined ? "" : image.users[uid] ?? `uid ${uid}`];
    const side = el("span", "side", said.filter(Boolean).join(" · "));
    side.title = age !== null ? "age, user" : "start after boot, user";
    row.append(side);
  }
  return row;
}

function labelOf(node) {
  const { task } = node;
  const what = el("span", "what");
  if (node.level > DEEPEST) what.append(el("span", "badge", `${node.level} deep`));
  const dot = el("span", "dot");
  dot.style.background = colourOf(node);
  const number = marked(task && [task.sid, task.pgid].includes(task.pid) ? "number leads" : "number", node.path);
  number.style.color = colourOf(node);
  what.append(dot, number);
  if (!task) {
    what.append(el("span", "badge", absence(node)));
    if (node.uses) what.append(el("span", "argv", node.uses.join(" · ")));
    return what;
  }
  if (task.comm !== undefined) what.append(marked("comm", node.kind === "thread" ? `{${task.comm}}` : task.comm));
  for (const [kind, text] of task.notes || []) what.append(el("span", kind === "state" ? `badge state ${task.state}` : "badge", text));
  if (node.threads.length && !withThreads()) {
    what.append(el("span", "badge", counted(node.threads.length, "thread", "threads")));
  }
  if (folded.has(node) && !matching) what.append(el("span", "badge", `${countBelow(node)} below`));
  if (task.argv) what.append(marked("argv", task.argv.slice(0, 300)));
  return what;
}

/** Return the number of processes below a node. */
function countBelow(node) {
  let count = 0;
  const todo = [...below(node, true)];
  while (todo.length) {
    const each = todo.pop();
    if (each.kind === "process") count++;
    todo.push(...below(each, true));
  }
  return count;
}

/** Unfold what is above a node, and show its row. */
function reveal(node) {
  const threads = withThreads();
  let changed = false;
  for (let up = above(node, threads); up; up = above(up, threads)) changed = folded.delete(up) || changed;
  if (!isShown(node) && node.kind === "thread" && !threads) {
    document.getElementById("threads").checked = true;
    changed = true;
  }
  if (!isShown(node) && matching) {
    search.value = "";
    changed = true;
  }
  if (changed) relist();
  if (!isShown(node)) return;
  const top = node.at * ROW;
  if (top < box.scrollTop) box.scrollTop = Math.max(0, top - ROW);
  else if (top + 2 * ROW > box.scrollTop + box.clientHeight) box.scrollTop = top + 2 * ROW - box.clientHeight;
}

/** Choose a node in the tree; `quiet`: the address stays. */
function choose(node, { quiet = false } = {}) {
  chosen = node;
  if (node) reveal(node);
  draw();
  wasChosen(node, quiet);
}

function hover(node) {
  if (node === over) return;
  over = node;
  overWas(node);
  for (const row of rowsBox.children) row.classList.toggle("over", row.node === node && node !== null);
  drawTimes();
}

function setFold(node, on) {
  if (!below(node, withThreads()).length) return;
  if (on) folded.add(node); else folded.delete(node);
  relist();
}

function foldAll() {
  for (const node of nodes.slice(1)) if (node.children.length || node.threads.length) folded.add(node);
  search.value = "";
  relist();
  if (chosen) for (let up = chosen; up; up = up.parent) if (isShown(up)) { choose(up); break; }
}

/** Move the choice by rows, over the titles of sections. */
function move(by) {
  let at = chosen && isShown(chosen) ? chosen.at + by : by > 0 ? 0 : rows.length - 1;
  at = Math.max(0, Math.min(rows.length - 1, at));
  while (typeof rows[at] === "string") at += by > 0 ? 1 : -1;
  if (rows[at]) choose(rows[at]);
}

function nextMatch(by) {
  if (!matches.length) return;
  const at = chosen ? matches.indexOf(chosen) : -1;
  choose(matches[(at + by + matches.length) % matches.length]);
}

function treeKey(event) {
  const node = chosen && isShown(chosen) ? chosen : null;
  const page = Math.max(1, Math.floor(box.clientHeight / ROW) - 2);
  const inner = node ? below(node, withThreads()) : [];
  const open = node && (matching !== null || !folded.has(node));
  const acts = {
    ArrowDown: () => move(1),
    ArrowUp: () => move(-1),
    PageDown: () => move(page),
    PageUp: () => move(-page),
    Home: () => choose(rows[0]),
    End: () => choose(rows.at(-1)),
    ArrowRight: () => node && inner.length && (open ? move(1) : setFold(node, false)),
    ArrowLeft: () => {
      if (!node) return;
      if (inner.length && open && !matching) setFold(node, true);
      else if (node.parent) choose(above(node, withThreads()));
    },
    Enter: () => (matching ? nextMatch(event.shiftKey ? -1 : 1) : node && setFold(node, open)),
    " ": () => node && setFold(node, open),
  };
  if (!Object.hasOwn(acts, event.key) || event.ctrlKey || event.altKey || event.metaKey) return;
  event.preventDefault();
  if (rows.length) acts[event.key]();
}
