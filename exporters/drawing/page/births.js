// SPDX-License-Identifier: Apache-2.0
// The births of the tasks as dots on an axis; dots of one moment are piled up.

const canvas = document.getElementById("births");
const axis = document.getElementById("axis");
const DOT = 6;  // pixels from dot to dot
const MARGIN = 14;
const FOOT = 20;
const NAMED = 60;  // dots that may have names
const LANE = 14;  // pixels for a line of names
const born = nodes.filter((node) => node.task && node.task.start !== undefined);
const newest = born.reduce((most, node) => Math.max(most, node.task.start), 0);
const oldest = born.reduce((least, node) => Math.min(least, node.task.start), newest);

born.sort((a, b) => a.task.start - b.task.start || (orderOf(a) - orderOf(b)) || a.place - b.place);
born.forEach((node, place) => { node.turn = place; });
let from = 0;  // the part of the axis in sight
let to = 1;
let dots = [];

function orderOf(node) {
  return (node.task.birth || {}).order || 0;
}

const valueOf = (node) => (axis.value === "time" ? node.task.start : node.turn);

function bounds() {
  const [least, most] = axis.value === "time" ? [oldest, newest] : [0, Math.max(born.length - 1, 0)];
  const air = (most - least) * 0.01 || 0.5;
  return [least - air, most + air];
}

function whole() {
  [from, to] = bounds();
  drawTimes();
}

let timesDrawn = false;
function drawTimes() {
  if (timesDrawn) return;
  timesDrawn = true;
  requestAnimationFrame(() => { timesDrawn = false; drawTimesNow(); });
}

const xOf = (value, width) => MARGIN + (value - from) / (to - from) * (width - 2 * MARGIN);

function drawTimesNow() {
  const { clientWidth: width, clientHeight: height } = canvas;
  const scale = devicePixelRatio || 1;
  if (canvas.width !== Math.round(width * scale)) canvas.width = Math.round(width * scale);
  if (canvas.height !== Math.round(height * scale)) canvas.height = Math.round(height * scale);
  const pen = canvas.getContext("2d");
  const style = getComputedStyle(document.documentElement);
  const ink = (name) => style.getPropertyValue(name).trim();
  pen.setTransform(scale, 0, 0, scale, 0, 0);
  pen.clearRect(0, 0, width, height);
  placeDots(width, height);
  drawAxis(pen, width, height, ink);
  const key = document.getElementById("colour").value;
  if (dots.length <= NAMED) drawNames(pen, width, height, ink);
  for (const dot of dots) {
    const found = matching && !matching.has(dot.node);
    pen.globalAlpha = found ? 0.2 : 1;
    pen.fillStyle = colourOf(dot.node, key);
    pen.fillRect(dot.x - 2, dot.y - 2, 4, dot.tall);
  }
  pen.globalAlpha = 1;
  const mark = chosen && dots.find((dot) => dot.node === chosen);
  const creator = chosen && creatorOf(chosen);
  const maker = creator && dots.find((dot) => dot.node === creator);
  pen.strokeStyle = ink("--accent");
  pen.lineWidth = 1.5;
  if (mark && maker) {
    const top = Math.max(4, Math.min(mark.y, maker.y) - 24);
    pen.beginPath();
    pen.moveTo(maker.x, maker.y);
    pen.bezierCurveTo(maker.x, top, mark.x, top, mark.x, mark.y);
    pen.stroke();
  }
  for (const dot of dots) {
    if (dot.node !== chosen && dot.node !== over) continue;
    pen.strokeStyle = ink(dot.node === chosen ? "--accent" : "--ink");
    pen.strokeRect(dot.x - 4.5, dot.y - 4.5, 9, 9);
  }
}

/** Pile the dots in sight up from the axis; a pile that is too high is compressed. */
function placeDots(width, height) {
  dots = [];
  const piles = new Map();
  for (const node of born) {
    const value = valueOf(node);
    if (value < from || value > to) continue;
    const column = Math.round(xOf(value, width) / DOT);
    const dot = { node, x: column * DOT, y: piles.get(column) || 0, tall: 4 };
    piles.set(column, dot.y + 1);
    dots.push(dot);
  }
  const room = height - FOOT - 10;
  const highest = Math.max(1, ...piles.values());
  const step = Math.min(DOT, room / highest);
  for (const dot of dots) {
    dot.y = height - FOOT - 5 - dot.y * step;
    dot.tall = Math.max(0.5, Math.min(4, step - 0.5));
  }
}

/** Write names above their dots, each in the lowest lane that has room. */
function drawNames(pen, width, height, ink) {
  pen.font = "11px system-ui, sans-serif";
  pen.strokeStyle = ink("--line");
  const highest = dots.reduce((least, dot) => Math.min(least, dot.y), height);
  const lanes = [];
  for (let y = highest - 10; y > LANE; y -= LANE) lanes.push({ y, end: 0 });
  for (const dot of [...dots].sort((a, b) => a.x - b.x)) {
    const text = nameOf(dot.node);
    const wide = pen.measureText(text).width;
    const x = Math.min(dot.x - 2, width - wide - 2);
    const lane = lanes.find(({ end }) => end <= x);
    if (!lane) continue;
    lane.end = x + wide + 8;
    pen.beginPath();
    pen.moveTo(dot.x + 0.5, dot.y - 3);
    pen.lineTo(dot.x + 0.5, lane.y + 3);
    pen.stroke();
    pen.fillStyle = colourOf(dot.node);
    pen.fillText(text, x, lane.y);
  }
}

function drawAxis(pen, width, height, ink) {
  pen.strokeStyle = ink("--line");
  pen.fillStyle = ink("--dim");
  pen.font = "11px system-ui, sans-serif";
  pen.lineWidth = 1;
  const line = height - FOOT + 0.5;
  pen.beginPath();
  pen.moveTo(0, line);
  pen.lineTo(width, line);
  if (!born.length) {
    pen.stroke();
    pen.fillText("the image has no times of births", MARGIN, height - 5);
    return;
  }
  const steps = Math.max(2, Math.floor(width / 140));
  for (let place = 0; place <= steps; place++) {
    const value = from + (to - from) * place / steps;
    const x = Math.round(xOf(value, width)) + 0.5;
    const text = axis.value === "time" ? axisTime(Math.max(0, value)) : `${Math.max(1, Math.round(value) + 1)}`;
    pen.moveTo(x, line);
    pen.lineTo(x, line + 4);
    const wide = pen.measureText(text).width;
    pen.fillText(text, Math.min(Math.max(x - wide / 2, 2), width - wide - 2), height - 4);
  }
  pen.stroke();
}

/** Return a time since boot with as many digits as the part in sight needs. */
function axisTime(us) {
  const wide = (to - from) / 1e6;
  const seconds = us / 1e6;
  const digits = wide > 100 ? 0 : Math.min(6, Math.max(0, Math.ceil(-Math.log10(wide)) + 2));
  const days = Math.floor(seconds / 86400);
  const two = (amount) => String(Math.floor(amount)).padStart(2, "0");
  const rest = (seconds % 60).toFixed(digits).padStart(digits ? digits + 3 : 2, "0");
  return `${days ? `${days} d ` : ""}${two(seconds % 86400 / 3600)}:${two(seconds % 3600 / 60)}:${rest}`;
}

function dotAt(event) {
  const x = event.offsetX;
  const y = event.offsetY;
  let best = null;
  let least = 14 * 14;
  for (const dot of dots) {
    const far = (dot.x - x) ** 2 + (dot.y - y) ** 2;
    if (far < least) [best, least] = [dot, far];
  }
  return best;
}

function zoom(factor, about = 0.5) {
  const [least, most] = bounds();
  const centre = from + (to - from) * about;
  const wide = Math.min(most - least, Math.max((to - from) * factor, (most - least) * 1e-9 + 1e-6));
  from = Math.max(least, Math.min(most - wide, centre - wide * about));
  to = from + wide;
  drawTimes();
}

/** Show the part of the axis where a node is. */
function pan(by) {
  const [least, most] = bounds();
  const wide = to - from;
  from = Math.max(least, Math.min(most - wide, from + by));
  to = from + wide;
  drawTimes();
}

function step(by) {
  if (!born.length) return;
  const at = chosen && chosen.turn !== undefined ? chosen.turn + by : by > 0 ? 0 : born.length - 1;
  const node = born[Math.max(0, Math.min(born.length - 1, at))];
  choose(node);
  const value = valueOf(node);
  if (value < from || value > to) pan(value - (from + to) / 2);
}

function showTip(dot, event) {
  const tip = document.getElementById("tip");
  tip.hidden = !dot;
  if (!dot) return;
  const { task } = dot.node;
  const creator = creatorOf(dot.node);
  tip.textContent = `${nameOf(dot.node)} · ${span(task.start)} after boot${creator ? ` · born of ${nameOf(creator)}` : ""}`;
  tip.style.left = `${Math.max(4, Math.min(event.clientX + 12, innerWidth - tip.offsetWidth - 8))}px`;
  tip.style.top = `${event.clientY - 30}px`;
}

function startTimes() {
  let dragged = null;
  let moved = false;
  canvas.addEventListener("pointermove", (event) => {
    if (dragged !== null && event.buttons) {
      const by = (dragged - event.offsetX) / (canvas.clientWidth - 2 * MARGIN) * (to - from);
      if (Math.abs(dragged - event.offsetX) > 2) {
        moved = true;
        dragged = event.offsetX;
        pan(by);
      }
      return;
    }
    const dot = dotAt(event);
    hover(dot && dot.node);
    showTip(dot, event);
  });
  canvas.addEventListener("pointerdown", (event) => { dragged = event.offsetX; moved = false; });
  canvas.addEventListener("pointerup", (event) => {
    const dot = dotAt(event);
    dragged = null;
    if (dot && !moved) choose(dot.node);
  });
  canvas.addEventListener("pointerleave", () => { dragged = null; hover(null); showTip(null); });
  canvas.addEventListener("dblclick", whole);
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoom(event.deltaY > 0 ? 1.25 : 0.8, (event.offsetX - MARGIN) / (canvas.clientWidth - 2 * MARGIN));
  }, { passive: false });
  canvas.addEventListener("keydown", (event) => {
    const acts = { ArrowRight: () => step(1), ArrowLeft: () => step(-1), "+": () => zoom(0.7), "-": () => zoom(1.4), Home: whole };
    if (!Object.hasOwn(acts, event.key) || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    acts[event.key]();
  });
  axis.addEventListener("change", whole);
  document.getElementById("nearer").addEventListener("click", () => zoom(0.7, aboutChosen()));
  document.getElementById("farther").addEventListener("click", () => zoom(1.4, aboutChosen()));
  document.getElementById("whole").addEventListener("click", whole);
  new ResizeObserver(drawTimes).observe(canvas);
  const without = nodes.filter((node) => node.task).length - born.length;
  document.getElementById("times-said").textContent = without ? `${without} tasks have no start time` : "";
  [from, to] = bounds();
}

/** Return the place of the chosen node within the part in sight, 0 to 1; the middle where it is not in sight. */
function aboutChosen() {
  if (!chosen || chosen.turn === undefined) return 0.5;
  const part = (valueOf(chosen) - from) / (to - from);
  return part >= 0 && part <= 1 ? part : 0.5;
}
