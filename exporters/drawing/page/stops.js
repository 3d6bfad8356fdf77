// SPDX-License-Identifier: Apache-2.0
// The lives of a span, its stops, and what is there at a stop. A stop is an instant between two records at which the tree
// differs from the stop before. Times are nanoseconds since the first stop.

const told = JSON.parse(document.getElementById("image").textContent);
const NONE = -1;
const PARENT = 0, GROUP = 1, SESSION = 2, NAME = 3, ARGUMENTS = 4, ENDED = 5, STOPPED = 6, EXIT_SIGNAL = 7, UID = 8, GID = 9;
const SUBREAPER = 10, PROGRAM = 11;  // facts of a life, and the mark of an exec
const IS_ASSUMED = 16;  // added to a fact where no record told the moment of its change
const KEPT = 256;  // changes from one kept state of a life to the next

const STOPS = told.times.length;
const times = new Float64Array(STOPS);
told.times.forEach((more, stop) => { times[stop] = (stop ? times[stop - 1] : 0) + more; });
const LAST = times[STOPS - 1];

const lives = told.lives.map((row, index) => {
  const [numbers, leader, parent, creator, creatorNumber, born, gone, marks, flags, start, first, changes] = row;
  return {
    index, numbers, leader, parent, creator, creatorNumber, born, gone, flags, start, first, changes,
    assumed: !!(marks & 1), entered: !!(marks & 2), present: !!(marks & 4), left: !!(marks & 8),
    path: numbers.join("/"), kept: null, low: "",
    begins: times[born], ends: gone === NONE ? Infinity : times[gone],
  };
});
const goings = lives.filter((life) => life.gone !== NONE).map((life) => life.index).sort((a, b) => lives[a].gone - lives[b].gone);

const living = new Set();  // indices of the lives that are there at the last stop that was asked for
let come = 0;
let gone = 0;

/** Return the indices of the lives that are there at a stop. */
function livingAt(stop) {
  while (come < lives.length && lives[come].born <= stop) living.add(come++);
  while (gone < goings.length && lives[goings[gone]].gone <= stop) living.delete(goings[gone++]);
  while (gone > 0 && lives[goings[gone - 1]].gone > stop) living.add(goings[--gone]);
  while (come > 0 && lives[come - 1].born > stop) living.delete(--come);
  return living;
}

/** Return the facts of a life at a stop. */
function factsAt(life, stop) {
  const { changes } = life;
  let at = 0;
  let facts = life.first;
  if (changes.length > 3 * KEPT) {
    if (!life.kept) keep(life);
    let low = 0;
    let high = life.kept.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (changes[middle * 3 * KEPT - 3] <= stop) low = middle; else high = middle - 1;
    }
    at = low * 3 * KEPT;
    facts = life.kept[low];
  }
  facts = facts.slice();
  change(facts, changes, at, changes.length, stop);
  return facts;
}

function keep(life) {
  const facts = life.first.slice();
  life.kept = [life.first];
  for (let at = 0; at + 3 * KEPT <= life.changes.length; at += 3 * KEPT) {
    change(facts, life.changes, at, at + 3 * KEPT, STOPS);
    life.kept.push(facts.slice());
  }
}

function change(facts, changes, from, to, stop) {
  for (let at = from; at < to && changes[at] <= stop; at += 3) {
    const fact = changes[at + 1] % IS_ASSUMED;
    if (fact < PROGRAM) facts[fact] = changes[at + 2];
  }
}

/** Return the life that leads the process of a life. */
function leading(life) {
  return life.leader === NONE ? life : lives[life.leader];
}

/** Return the last place of an ascending list whose value is not above one; -1: there is none. */
function lastUpTo(size, valueAt, value) {
  let low = -1;
  let high = size - 1;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (valueAt(middle) <= value) low = middle; else high = middle - 1;
  }
  return low;
}

/** Return the stop that holds at a time. */
function stopAt(ns) {
  return Math.max(0, lastUpTo(STOPS, (stop) => times[stop], ns));
}

/** Return the value of a list of [stop, value] that holds at a stop. */
function holding(list, stop) {
  return list[Math.max(0, lastUpTo(list.length, (place) => list[place][0], stop))];
}

/** Return the number of the first record that is not in a stop. */
function numberOf(stop) {
  return BigInt(holding(told.runs, stop)[1]) + BigInt(told.numbers[stop]);
}

/** Return CLOCK_REALTIME of a time, in nanoseconds. */
function realtime(ns, stop = stopAt(ns)) {
  return BigInt(told.realtime_ns) + BigInt(Math.round(ns)) + BigInt(holding(told.clocks, stop)[1]);
}

/** Return true where another run of numbers may have the number of a stop, too, so that it names no instant. */
function isAmbiguous(stop) {
  const number = numberOf(stop);
  return told.runs.some(([first, base], place) => {
    const next = told.runs[place + 1];
    if (first <= stop && (!next || stop < next[0])) return false;
    return BigInt(base) <= number && (!next || number <= numberOf(next[0] - 1));
  });
}

/** Return the text of a place in the list of texts; undefined where it is not known. */
function textOf(place) {
  return place === NONE ? undefined : told.texts[place];
}

const two = (amount) => String(amount).padStart(2, "0");

/** Return CLOCK_REALTIME as a TIME of the command line, in UTC, with all its digits. */
function writtenTime(ns) {
  const whole = new Date(Number(ns / 1000000n)).toISOString().slice(0, 19);
  return `${whole}.${String(ns % 1000000000n).padStart(9, "0")}Z`;
}

/** Return CLOCK_REALTIME as a time of day, with some digits of the second; `local`: of this browser's zone. */
function clockTime(ns, digits, local) {
  const date = new Date(Number(ns / 1000000n));
  const parts = local ? [date.getHours(), date.getMinutes(), date.getSeconds()]
    : [date.getUTCHours(), date.getUTCMinutes(), date.getUTCSeconds()];
  const rest = digits ? `.${String(ns % 1000000000n).padStart(9, "0").slice(0, digits)}` : "";
  return parts.map(two).join(":") + rest;
}
