// SPDX-License-Identifier: Apache-2.0
// The lanes: one for each process, below the one that was its parent at its birth; those that are shown, and the part of the
// time that is in sight.

const LANE = 22;  // pixels
const place = document.getElementById("lanes");
const canvas = document.getElementById("painting");
const which = document.getElementById("which");
const AIR = Math.max(LAST * 0.02, 1000);  // ns before and behind the span
const LEAST = 100;  // ns that are in sight at least

let from = -AIR;  // the time in sight
let to = LAST + AIR;
let lanes = [];  // indices of the lives that have a lane, in order
const laneOf = new Int32Array(lives.length).fill(NONE);  // by life
const depths = new Int32Array(lives.length);
let found = null;  // the lives that a search has found; null: no search is on

const family = orderOfBirths();

/** Return the lives in the order of lanes, and note how deep each stands: threads behind their leader, then its children. */
function orderOfBirths() {
  const threads = new Map();
  const children = new Map();
  const tops = [];
  for (const life of lives) {
    const above = life.parent === NONE ? null : leading(lives[life.parent]);
    if (life.leader !== NONE) add(threads, life.leader, life);
    else if (above && above.index < life.index) add(children, above.index, life);
    else tops.push(life);
  }
  const list = [];
  const todo = tops.reverse();
  while (todo.length) {
    const life = todo.pop();
    list.push(life.index);
    const under = [...(threads.get(life.index) || []), ...(children.get(life.index) || [])];
    for (let at = under.length - 1; at >= 0; at--) {
      depths[under[at].index] = depths[life.index] + 1;
      todo.push(under[at]);
    }
  }
  return list;
}

/** Compute which lives have a lane. */
function relane() {
  const threads = withThreads() || found !== null;
  const kept = found && withAncestors(found);
  const narrow = !found && which.value === "sight";
  const now = !found && which.value === "cursor" ? livingAt(cursor.stop) : null;
  lanes = family.filter((index) => {
    const life = lives[index];
    if (kept ? !kept.has(index) : !threads && life.leader !== NONE) return false;
    if (now && !now.has(index)) return false;
    return !narrow || (life.begins <= to && life.ends >= from);
  });
  laneOf.fill(NONE);
  lanes.forEach((index, at) => { laneOf[index] = at; });
  document.getElementById("lanes-space").style.height = `${headHeight() + lanes.length * LANE + LANE}px`;
}

function withAncestors(some) {
  const kept = new Set(some);
  for (const index of some) {
    let life = lives[index];
    for (;;) {
      life = life.leader !== NONE ? lives[life.leader] : life.parent === NONE ? null : leading(lives[life.parent]);
      if (!life || kept.has(life.index)) break;
      kept.add(life.index);
    }
  }
  return kept;
}

/** Show another part of the time; the lane under `anchor`, a life, stays where it is. */
function look(begin, end, anchor = anchorLane()) {
  const wide = Math.min(LAST + 2 * AIR, Math.max(LEAST, end - begin));
  from = Math.max(-AIR, Math.min(LAST + AIR - wide, begin));
  to = from + wide;
  if (which.value === "sight" && !found) keepLane(anchor, relane);
  drawTimes();
}

/** Do what changes the lanes, and scroll so that the lane of a life stays where it is. */
function keepLane(life, work) {
  const before = life === null ? 0 : laneOf[life] * LANE - place.scrollTop;
  work();
  if (life !== null && laneOf[life] !== NONE) place.scrollTop = laneOf[life] * LANE - before;
}

/** Return the life whose lane should stay: the chosen one, if it is in sight, or the first that is. */
function anchorLane() {
  const first = Math.floor(place.scrollTop / LANE);
  const last = first + Math.ceil(place.clientHeight / LANE);
  const own = chosenLife === null ? NONE : laneOf[leading(lives[chosenLife]).index];
  if (own !== NONE && own >= first && own <= last) return lanes[own];
  return lanes[first] ?? null;
}

function zoom(factor, about) {
  const centre = about ?? (cursor.ns >= from && cursor.ns <= to ? cursor.ns : (from + to) / 2);
  look(centre - (centre - from) * factor, centre + (to - centre) * factor);
}

function pan(by) {
  look(from + by, to + by);
}

function whole() {
  look(-AIR, LAST + AIR);
}

/** Scroll to the lane of a life. */
function showLane(index) {
  let at = laneOf[index];
  if (at === NONE) at = laneOf[leading(lives[index]).index];
  if (at === NONE) return;
  const top = at * LANE;
  const room = place.clientHeight - headHeight();
  if (top < place.scrollTop) place.scrollTop = Math.max(0, top - LANE);
  else if (top + 2 * LANE > place.scrollTop + room) place.scrollTop = top + 2 * LANE - room;
}

/** Return the names that a life has had, one after the other. */
function namesOf(life) {
  const names = [textOf(life.first[NAME])];
  for (let at = 0; at < life.changes.length; at += 3) {
    if (life.changes[at + 1] % IS_ASSUMED === NAME) names.push(textOf(life.changes[at + 2]));
  }
  return names;
}

function lifeWords(life) {
  if (!life.low) {
    const words = [life.path, ...namesOf(life), textOf(life.first[ARGUMENTS]) || ""];
    for (let at = 0; at < life.changes.length; at += 3) {
      if (life.changes[at + 1] % IS_ASSUMED === PROGRAM) words.push(textOf(life.changes[at + 2]) || "");
    }
    life.low = [...new Set(words)].join("\n").toLowerCase();
  }
  return life.low;
}

/** Return true if a life ever had a fact of a value. */
function everHad(life, fact, test) {
  if (test(life.first[fact])) return true;
  return life.changes.some((code, at) => at % 3 === 1 && code % IS_ASSUMED === fact && test(life.changes[at + 1]));
}

const LIFE_FIELDS = {
  pid: (life, value) => life.path === value || life.path.split("/").includes(value),
  session: (life, value) => everHad(leading(life), SESSION, (id) => String(id) === value),
  group: (life, value) => everHad(leading(life), GROUP, (id) => String(id) === value),
  user: (life, value) => everHad(life, UID, (id) => [String(id), (told.users[id] ?? "").toLowerCase()].includes(value)),
};

/** Find the lives of a query, at any time: all words must hold, as in the search of the tree. */
function findLives(query) {
  const tests = query.toLowerCase().split(/\s+/).filter(Boolean).map((word) => {
    const [, field, value] = word.match(/^(\w+):(.+)$/) || [];
    const test = Object.hasOwn(LIFE_FIELDS, field) ? LIFE_FIELDS[field] : null;
    return test ? (life) => test(life, value) : (life) => lifeWords(life).includes(word);
  });
  found = tests.length ? new Set(lives.filter((life) => tests.every((test) => test(life))).map((life) => life.index)) : null;
}
