// SPDX-License-Identifier: Apache-2.0
// The picture of the lanes in sight. Only these are drawn, so its time does not depend on how many there are.

const RULER = 26;  // pixels of the axis
const STRIP = 18;  // of the names of gaps, where there are any
const BAR = 14;
const DEEPEST_LANE = 14;  // generations that are indented
const STEP = 11;  // pixels of indentation
const SMALL = "11px system-ui, 'Liberation Sans', 'DejaVu Sans', sans-serif";
const PLAIN = "12px system-ui, 'Liberation Sans', 'DejaVu Sans', sans-serif";
const BOLD = `600 ${PLAIN}`;
let inks = {};
let tints = new Map();
let hatch = null;

const headHeight = () => RULER + (told.troubles.length ? STRIP : 0);
const gutter = () => Math.round(Math.min(270, Math.max(96, canvas.clientWidth * 0.27)));
const xOf = (ns) => gutter() + (ns - from) / (to - from) * (canvas.clientWidth - gutter());
const nsOf = (x) => from + (x - gutter()) / (canvas.clientWidth - gutter()) * (to - from);

/** Read the colours of the style sheet again. */
function readInks() {
  const style = getComputedStyle(document.documentElement);
  inks = {};
  for (const name of ["ground", "panel", "ink", "dim", "line", "chosen", "over", "accent", "alarm", "stopped", "plain", "birth", "gap"]) {
    inks[name] = style.getPropertyValue(`--${name}`).trim();
  }
  tints = new Map();
  const tile = document.createElement("canvas");
  tile.width = tile.height = 8;
  const pen = tile.getContext("2d");
  pen.strokeStyle = inks.gap;
  pen.lineWidth = 1.2;
  for (const at of [-8, 0, 8]) {
    pen.beginPath();
    pen.moveTo(at, 8);
    pen.lineTo(at + 8, 0);
    pen.stroke();
  }
  hatch = tile;
}

let timesDrawn = false;
function drawTimes() {
  if (timesDrawn) return;
  timesDrawn = true;
  requestAnimationFrame(() => { timesDrawn = false; drawLanes(); drawOverview(); });
}

/** Make a canvas as large as it is shown, and return its pen. */
function penOf(board) {
  const scale = devicePixelRatio || 1;
  const [width, height] = [Math.round(board.clientWidth * scale), Math.round(board.clientHeight * scale)];
  if (board.width !== width) board.width = width;
  if (board.height !== height) board.height = height;
  const pen = board.getContext("2d");
  pen.setTransform(scale, 0, 0, scale, 0, 0);
  pen.clearRect(0, 0, board.clientWidth, board.clientHeight);
  return pen;
}

function drawLanes() {
  const pen = penOf(canvas);
  const { clientWidth: width, clientHeight: height } = canvas;
  const head = headHeight();
  const side = gutter();
  const first = Math.max(0, Math.floor(place.scrollTop / LANE));
  const last = Math.min(lanes.length, Math.ceil((place.scrollTop + height - head) / LANE));
  const top = (at) => head + at * LANE - place.scrollTop;
  const here = livingAt(cursor.stop);

  drawGround(pen, first, last, top, width);
  pen.save();
  pen.beginPath();
  pen.rect(side, head, width - side, height - head);
  pen.clip();
  drawGrid(pen, head, height);
  drawTroubles(pen, head, height);
  for (let at = first; at < last; at++) drawBirth(pen, lives[lanes[at]], top(at), top, head);
  for (let at = first; at < last; at++) drawLife(pen, lives[lanes[at]], top(at), width);
  pen.restore();
  drawLabels(pen, first, last, top, here);
  drawRuler(pen, width);
  drawCursor(pen, width, height);
}

function drawGround(pen, first, last, top, width) {
  for (let at = first; at < last; at++) {
    const life = lives[lanes[at]];
    const own = chosenLife !== null && (life.index === chosenLife || (laneOf[chosenLife] === NONE && leading(lives[chosenLife]) === life));
    if (!own && life.index !== overLife) continue;
    pen.fillStyle = own ? inks.chosen : inks.over;
    pen.fillRect(0, top(at), width, LANE);
  }
}

/** Return the steps of the ruler: their distance in ns, and the digits of the second that they need. */
function steps() {
  const wide = (to - from) / Math.max(2, (canvas.clientWidth - gutter()) / 110);
  const units = [1, 2, 5];
  let size = 1;
  for (let power = 0; size < wide && power < 10; power++) {
    for (const unit of units) {
      size = unit * 10 ** power;
      if (size >= wide) break;
    }
  }
  if (size < wide) size = [10, 15, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600, 43200, 86400].map((s) => s * 1e9).find((s) => s >= wide) || Math.ceil(wide / 864e11) * 864e11;
  return [size, size >= 1e9 ? 0 : Math.min(9, Math.ceil(-Math.log10(size / 1e9) - 1e-9))];
}

/** Yield time and text of each step of the ruler in sight. */
function* ticks() {
  const [size, digits] = steps();
  const kind = document.getElementById("clock").value;
  if (kind === "since") {
    for (let ns = Math.ceil(from / size) * size; ns <= to; ns += size) yield [ns, `${(ns / 1e9).toFixed(digits)} s`];
    return;
  }
  // Whole times of the clock, as it goes in the middle of what is in sight.
  const base = realtime(0, stopAt((from + to) / 2));
  const big = BigInt(Math.round(size));
  const shift = kind === "local" && size > 9e11 ? BigInt(new Date(Number(base / 1000000n)).getTimezoneOffset()) * 60000000000n : 0n;
  let at = (base + BigInt(Math.ceil(from)) - shift) / big * big + shift;
  for (let count = 0; count < 200; count++, at += big) {
    const ns = Number(at - base);
    if (ns > to) return;
    if (ns >= from) yield [ns, clockTime(at, digits, kind === "local")];
  }
}

function drawGrid(pen, head, height) {
  pen.fillStyle = inks.line;
  pen.globalAlpha = 0.45;
  for (const [ns] of ticks()) pen.fillRect(Math.round(xOf(ns)), head, 1, height - head);
  pen.globalAlpha = 1;
}

/** Return the part of the canvas that a trouble takes: from and to. */
function troubleSpan([, begin, end]) {
  return [xOf(begin), Math.max(xOf(begin) + 1.5, xOf(end ?? to))];
}

function drawTroubles(pen, head, height) {
  for (const trouble of told.troubles) {
    const [left, right] = troubleSpan(trouble);
    if (right < 0 || left > canvas.clientWidth) continue;
    if (trouble[0] === "clock") {
      pen.fillStyle = inks.accent;
      for (let y = head; y < height; y += 7) pen.fillRect(left, y, 1.5, 4);
      continue;
    }
    pen.fillStyle = inks[trouble[0] === "suspend" ? "dim" : "alarm"];
    pen.globalAlpha = trouble[0] === "suspend" ? 0.16 : 0.1;
    pen.fillRect(left, head, right - left, height - head);
    pen.globalAlpha = 1;
    if (trouble[0] === "suspend") continue;
    const pattern = pen.createPattern(hatch, "repeat");
    pattern.setTransform(new DOMMatrix().translate(left, 0));
    pen.fillStyle = pattern;
    pen.fillRect(left, head, right - left, height - head);
  }
}

function tintOf(key, id) {
  const name = `${key} ${id}`;
  let tint = tints.get(name);
  if (!tint) tints.set(name, tint = colourOfId(key, id));
  return tint;
}

/** Return the colour of a life with some facts. */
function tintOfFacts(facts) {
  const key = document.getElementById("colour").value;
  if (key === "user") return tintOf(key, facts[UID]);
  const number = facts[key === "session" ? SESSION : GROUP];
  return tintOf(key, !number ? 0 : number === outerSession ? INHERITED : tagOf(number));
}

/** Draw the line of a birth, from the lane of the creator to that of the child. */
function drawBirth(pen, life, y, top, head) {
  if (life.present || life.begins < from || life.begins > to || life.creator === NONE) return;
  const x = xOf(life.begins);
  let at = laneOf[life.creator];
  if (at === NONE) at = laneOf[leading(lives[life.creator]).index];
  if (at === NONE || lanes[at] === life.index) return;
  const end = y + LANE / 2;
  const edge = top(at) + LANE / 2 + (top(at) < y ? BAR / 2 : -BAR / 2);
  const begin = Math.max(edge, head);
  const own = chosenLife !== null && [life.index, life.creator].includes(chosenLife);
  pen.strokeStyle = pen.fillStyle = own ? inks.accent : inks.birth;
  pen.lineWidth = own ? 1.6 : 1;
  pen.beginPath();
  pen.moveTo(x, begin);
  pen.lineTo(x, end);
  pen.stroke();
  if (edge < head) return;
  pen.beginPath();
  pen.arc(x, edge, own ? 3 : 2.2, 0, 7);
  pen.fill();
}

/** Return the pieces of a life: begin, facts, and marks at each change. Threads have the session of their birth. */
function piecesOf(life) {
  if (life.pieces) return life.pieces;
  const pieces = [{ stop: life.born, begins: life.begins, facts: life.first, marks: [] }];
  const { changes } = life;
  for (let at = 0; at < changes.length; at += 3) {
    const [stop, code, value] = [changes[at], changes[at + 1], changes[at + 2]];
    const fact = code % IS_ASSUMED;
    let piece = pieces.at(-1);
    if (piece.stop !== stop) {
      piece = { stop, begins: times[stop], facts: piece.facts.slice(), marks: [] };
      pieces.push(piece);
    } else if (piece.facts === life.first) piece.facts = life.first.slice();
    if (fact < PROGRAM) piece.facts[fact] = value;
    piece.marks.push([fact, value, code >= IS_ASSUMED]);
  }
  life.pieces = pieces;
  life.death = ended(pieces.at(-1).facts) ? pieces.findLast((piece) => piece.marks.some(([fact]) => fact === ENDED)) : null;
  return pieces;
}

const ended = (facts) => facts[ENDED] !== NONE;

function drawLife(pen, life, y, width) {
  const end = Math.min(life.ends, LAST);
  if (life.begins > to || end < from) return;
  const pieces = piecesOf(life);
  const high = y + (LANE - BAR) / 2;
  const right = xOf(end);
  const upTo = (ns) => Math.max(0, lastUpTo(pieces.length, (at) => pieces[at].begins, ns));
  let texts = gutter() + 2;  // where the next text may begin
  let name = null;
  for (let at = upTo(from); at < pieces.length && pieces[at].begins <= to;) {
    const x = xOf(pieces[at].begins);
    const last = Math.max(at, upTo(nsOf(x + 0.5)));  // pieces that no pixel shows are passed over
    const next = pieces[last + 1];
    const { facts } = pieces[last];
    drawPiece(pen, life, facts, x, next ? xOf(next.begins) : Math.max(right, x + 1.5), high);
    const marks = last - at < 4 ? pieces.slice(at, last + 1).flatMap((piece) => piece.marks) : pieces[last].marks;
    drawMarks(pen, marks, x, high);
    if (!ended(facts) && (name !== facts[NAME] || marks.some(([fact]) => fact === PROGRAM))) {
      const stop = drawProgram(pen, life, facts, Math.max(x + 5, texts), pieceEnd(pieces, last, right, width), high);
      texts = Math.max(texts, stop);
    }
    name = facts[NAME];
    at = last + 1;
  }
  const death = life.death;
  if (death && death.begins <= to) drawEnd(pen, life, death.facts, xOf(death.begins), right, high, texts, width);
  if (life.left && life.ends <= to && life.ends >= from) {
    pen.font = SMALL;
    const at = beside(pen, LEFT, right, right, texts, width);
    pen.fillStyle = inks.dim;
    if (at !== null) pen.fillText(LEFT, at, high + 11);
  }
}

/** Return where the room for the text of a piece ends: at the next program, or the end. */
function pieceEnd(pieces, place, right, width) {
  for (let at = place + 1; at < Math.min(pieces.length, place + 50); at++) {
    const { facts, marks, begins } = pieces[at];
    if (ended(facts) || facts[NAME] !== pieces[place].facts[NAME] || marks.some(([fact]) => fact === PROGRAM)) return Math.min(xOf(begins), width);
  }
  return Math.min(right, width);
}

function drawPiece(pen, life, facts, x, stop, high) {
  const left = Math.max(x, gutter() - 2);
  const tint = tintOfFacts(life.leader === NONE ? facts : lives[life.leader].first);
  const dimmed = found && !found.has(life.index);
  const thread = life.leader !== NONE;
  if (ended(facts)) {
    pen.fillStyle = inks.alarm;
    pen.globalAlpha = dimmed ? 0.2 : 0.75;
    pen.fillRect(left, high + BAR / 2 - 1, Math.max(stop - left, 1), 2);
  } else {
    const inset = thread ? 3 : 0;
    pen.globalAlpha = dimmed ? 0.12 : facts[STOPPED] ? 0.35 : 0.3;
    pen.fillStyle = facts[STOPPED] ? inks.stopped : tint;
    pen.fillRect(left, high + inset, Math.max(stop - left, 1), BAR - 2 * inset);
    pen.globalAlpha = dimmed ? 0.25 : 1;
    pen.fillStyle = tint;
    pen.fillRect(left, high + BAR - inset - 2, Math.max(stop - left, 1), 2);
    if (x >= left) pen.fillRect(left, high + inset, 1.5, BAR - 2 * inset);
  }
  pen.globalAlpha = 1;
}

function drawProgram(pen, life, facts, begin, end, high) {
  if (end - begin < 14) return 0;  // nothing is written
  const name = textOf(facts[NAME]) ?? "";
  const argv = life.leader === NONE ? textOf(facts[ARGUMENTS]) : undefined;
  pen.save();
  pen.beginPath();
  pen.rect(begin - 2, high, end - begin, BAR);
  pen.clip();
  pen.font = SMALL;
  pen.fillStyle = inks.ink;
  const said = argv && end - begin > 60 ? argv.slice(0, 200) : name;
  pen.fillText(said, begin, high + 11);
  const wide = pen.measureText(said).width;
  pen.restore();
  return Math.min(end, begin + wide + 8);
}

/** Draw the end of a life, and what it was where it was no good one. */
function drawEnd(pen, life, facts, x, right, high, begin, width) {
  const bad = facts[ENDED] !== 0;
  if (x >= gutter()) {
    pen.fillStyle = bad ? inks.alarm : inks.plain;
    pen.fillRect(x - 1, high - 1, 2.5, BAR + 2);
  }
  if (!bad || life.leader !== NONE || right < gutter()) return;
  const text = told.ends[facts[ENDED]];
  pen.font = SMALL;
  const at = beside(pen, text, x, right, begin, width);
  pen.fillStyle = inks.alarm;
  if (at !== null) pen.fillText(text, at, high + 11);
}

/** Return where a text about an end finds room: behind the lane's last mark, else before the end; null: nowhere. */
function beside(pen, text, x, right, begin, width) {
  const wide = pen.measureText(text).width;
  let at = right + 6;
  if (at + wide > width - 4) at = x - wide - 6;
  return at < begin && at < right ? null : at;
}

/** Return a text that is no wider than its room, with an ellipsis where it was cut; empty: there is no room. */
function shortened(pen, text, room) {
  if (pen.measureText(text).width <= room) return text;
  const fits = (length) => pen.measureText(`${text.slice(0, length)}…`).width <= room;
  let length = text.length - 1;
  while (length > 0 && !fits(length)) length--;
  return length < 4 ? "" : `${text.slice(0, length)}…`;
}

const LEFT = "left the tree";
const SHAPES = { [SESSION]: "diamond", [GROUP]: "dot", [PARENT]: "arrow", [SUBREAPER]: "ring" };

function drawMarks(pen, marks, x, high) {
  if (x < gutter()) return;
  for (const [fact, , assumed] of marks) {
    pen.globalAlpha = assumed ? 0.55 : 1;
    pen.fillStyle = pen.strokeStyle = inks.ink;
    const shape = SHAPES[fact];
    const middle = high + BAR / 2;
    pen.beginPath();
    if (fact === PROGRAM) {
      pen.moveTo(x, high - 3);
      pen.lineTo(x + 4, high - 3);
      pen.lineTo(x, high + 4);
      pen.fill();
      pen.fillRect(x - 0.5, high - 3, 1.5, BAR + 3);
    } else if (shape === "diamond") {
      pen.moveTo(x, middle - 5);
      pen.lineTo(x + 5, middle);
      pen.lineTo(x, middle + 5);
      pen.lineTo(x - 5, middle);
      pen.fill();
    } else if (shape === "dot") {
      pen.arc(x, middle, 2.5, 0, 7);
      pen.fill();
    } else if (shape === "ring") {
      pen.lineWidth = 1.5;
      pen.arc(x, middle, 4, 0, 7);
      pen.stroke();
    } else if (shape === "arrow") {
      pen.lineWidth = 1.5;
      pen.moveTo(x - 4, high + 3);
      pen.lineTo(x, high - 2);
      pen.lineTo(x + 4, high + 3);
      pen.moveTo(x, high - 2);
      pen.lineTo(x, high + BAR);
      pen.stroke();
    }
  }
  pen.globalAlpha = 1;
}

function drawLabels(pen, first, last, top, here) {
  const side = gutter();
  pen.save();
  pen.beginPath();
  pen.rect(0, headHeight(), side - 6, canvas.clientHeight);
  pen.clip();
  for (let at = first; at < last; at++) {
    const life = lives[lanes[at]];
    const there = here.has(life.index);
    const facts = there ? factsAt(life, cursor.stop) : life.first;
    const deep = Math.min(depths[life.index], DEEPEST_LANE);
    const x = 10 + deep * Math.min(STEP, (side - 90) / DEEPEST_LANE);
    const y = top(at) + 15;
    pen.globalAlpha = (found && !found.has(life.index)) ? 0.5 : 1;
    pen.font = there ? BOLD : PLAIN;
    const number = (depths[life.index] > DEEPEST_LANE ? `${depths[life.index]}▸ ` : "") + life.path;
    pen.fillStyle = there ? tintOfFacts(life.leader === NONE ? facts : lives[life.leader].first) : inks.dim;
    pen.fillText(number, x, y);
    const next = x + pen.measureText(number).width + 6;
    const name = textOf((there ? facts : (piecesOf(life).at(-1).facts))[NAME]) ?? "";
    pen.font = PLAIN;
    pen.fillStyle = there ? inks.ink : inks.dim;
    pen.fillText(life.leader === NONE ? name : `{${name}}`, next, y);
    if (there) {
      pen.fillStyle = inks.accent;
      pen.beginPath();
      pen.arc(x - 5, y - 4, 2, 0, 7);
      pen.fill();
    }
  }
  pen.restore();
  pen.globalAlpha = 1;
  pen.fillStyle = inks.line;
  pen.fillRect(side - 1, 0, 1, canvas.clientHeight);
}

function drawRuler(pen, width) {
  const head = headHeight();
  pen.fillStyle = inks.panel;
  pen.fillRect(0, 0, width, head);
  pen.fillStyle = inks.line;
  pen.fillRect(0, head - 1, width, 1);
  pen.font = SMALL;
  pen.fillStyle = inks.dim;
  pen.fillText(counted(lanes.length, "lane", "lanes"), 10, 17);
  pen.save();
  pen.beginPath();
  pen.rect(gutter(), 0, width, head);
  pen.clip();
  let free = 0;
  for (const [ns, text] of ticks()) {
    const x = Math.round(xOf(ns));
    pen.fillStyle = inks.line;
    pen.fillRect(x, RULER - 6, 1, 6);
    const wide = pen.measureText(text).width;
    if (x - wide / 2 < Math.max(free, gutter() + 2)) continue;
    free = x + wide / 2 + 8;
    pen.fillStyle = inks.dim;
    pen.fillText(text, x - wide / 2, 15);
  }
  let named = 0;
  for (const trouble of told.troubles) {
    const [left, right] = troubleSpan(trouble);
    if (right < gutter() || left > width) continue;
    pen.fillStyle = inks[{ suspend: "dim", clock: "accent" }[trouble[0]] || "alarm"];
    pen.globalAlpha = 0.85;
    pen.fillRect(left, RULER, Math.max(1.5, right - left), 3);
    pen.globalAlpha = 1;
    const inSight = Math.min(left + 3, width - pen.measureText(trouble[3]).width - 4);
    const x = Math.max(inSight, gutter() + 3, named);
    const text = shortened(pen, trouble[3], width - x - 4);
    pen.fillText(text, x, RULER + 14);
    if (text) named = x + pen.measureText(text).width + 10;
  }
  pen.restore();
}

function drawCursor(pen, width, height) {
  const x = xOf(cursor.ns);
  if (x < gutter() - 1 || x > width + 1) return;
  pen.fillStyle = inks.accent;
  pen.fillRect(x - 0.75, 4, 1.5, height);
  const text = cursorText();
  pen.font = BOLD;
  const wide = pen.measureText(text).width + 12;
  const left = Math.max(gutter(), Math.min(width - wide, x - wide / 2));
  pen.beginPath();
  pen.roundRect(left, 3, wide, 19, 5);
  pen.fill();
  pen.fillStyle = inks.ground;
  pen.fillText(text, left + 6, 17);
}
