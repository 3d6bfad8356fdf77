// SPDX-License-Identifier: Apache-2.0
// The cursor: an instant of the span, the tree of which stands beside the lanes.

const newest = 0;  // each age is known
const cursor = { ns: 0, stop: 0 };
let chosenLife = null;  // its index; it need not be there at the cursor
let overLife = null;
let outerSession = null;  // number of the session that the tree has from outside, as of the beginning
const nodeOfLife = new Map();
let shown = NONE;  // the stop whose tree is shown
let cost = 0;  // ms that the last tree took
let waiting = 0;

/** Move the cursor to a time, or to a stop. */
function setCursor(ns, stop = null) {
  cursor.ns = Math.max(0, Math.min(LAST, ns));
  cursor.stop = stop ?? stopAt(cursor.ns);
  if (which.value === "cursor") keepLane(anchorLane(), relane);
  drawTimes();
  sayInstant();
  box.setAttribute("aria-busy", shown !== cursor.stop);
  clearTimeout(waiting);
  if (cost < 25) requestAnimationFrame(showTree); else waiting = setTimeout(showTree, 60);  // a large tree waits for a rest
}

/** Move the cursor to a stop, and show it. */
function goTo(stop) {
  const at = Math.max(0, Math.min(STOPS - 1, stop));
  setCursor(times[at], at);
  if (cursor.ns < from || cursor.ns > to) look(cursor.ns - (to - from) / 2, cursor.ns + (to - from) / 2);
}

/** Show the tree of the cursor's stop. */
function showTree() {
  if (shown === cursor.stop) return;
  const begin = performance.now();
  const closed = new Set([...folded].map((node) => node.task && node.task.life));
  shown = cursor.stop;
  takeImage(imageAt(cursor.stop));
  nodeOfLife.clear();
  folded.clear();
  for (const node of nodes) {
    const life = node.task ? node.task.life : node.ancestor ? node.ancestor.life : undefined;
    if (life !== undefined && !nodeOfLife.has(life)) nodeOfLife.set(life, node);
    if (node.task && closed.has(life)) folded.add(node);
  }
  chosen = nodeOfLife.get(chosenLife) || null;
  relist();
  sayFound();
  showLegend();
  showDetails(chosen);
  sayTree();
  box.setAttribute("aria-busy", false);
  cost = performance.now() - begin;
}

/** Return the trouble that makes a stop or time uncertain; undefined: there is none. */
function troubleAt(ns) {
  return told.troubles.find(([kind, begin, end]) => (kind === "gap" || kind === "loss") && begin <= ns && ns < (end ?? Infinity));
}

function cursorText() {
  return timeText(cursor.ns, 3, cursor.stop);
}

/** Return a time as the clock that was chosen shows it. */
function timeText(ns, digits, stop = stopAt(ns)) {
  const kind = document.getElementById("clock").value;
  if (kind === "since") return `${(ns / 1e9).toFixed(digits)} s`;
  return clockTime(realtime(ns, stop), digits, kind === "local");
}

/** Return the command that makes an image of the cursor's instant. */
function command() {
  const node = chosen && chosen.kind === "process" ? chosen : roots[0];
  const root = node ? node.path.split("/")[0] : told.root ?? "1";
  const at = isAmbiguous(cursor.stop) ? writtenTime(realtime(cursor.ns, cursor.stop)) : `'#${numberOf(cursor.stop)}'`;
  return `ckptree snapshot ${root} --at ${at}${told.ask} -o ${root}.ckpt`;
}

/** Say the cursor's time and number. */
function sayInstant() {
  const date = new Date(Number(realtime(cursor.ns, cursor.stop) / 1000000n)).toISOString().slice(0, 10);
  document.getElementById("instant-time").textContent = timeText(cursor.ns, 6, cursor.stop);
  const kind = document.getElementById("clock").value;
  document.getElementById("instant-date").textContent = kind === "since" ? "since the beginning" : kind === "local" ? "local time" : `${date} UTC`;
  document.getElementById("instant-number").textContent = `before record ${numberOf(cursor.stop)}`;
  const trouble = troubleAt(cursor.ns);
  const said = document.getElementById("instant-trouble");
  said.hidden = !trouble;
  said.textContent = trouble ? `${trouble[0] === "gap" ? "A gap: this is the state before it" : "Not certain"} (${trouble[3]})` : "";
  place.setAttribute("aria-valuenow", String(cursor.stop));
  place.setAttribute("aria-valuetext", `${cursorText()}, before record ${numberOf(cursor.stop)}`);
}

/** Say what stands at the cursor, and the command for it. */
function sayTree() {
  const processes = image.tasks.filter((task) => task.pid === task.tgid).length;
  const threads = image.tasks.length - processes;
  document.getElementById("instant-count").textContent =
    [counted(processes, "process", "processes"), threads ? counted(threads, "thread", "threads") : ""].filter(Boolean).join(", ");
  document.getElementById("nothing").hidden = nodes.length > 0;
  document.getElementById("command").textContent = command();
  noteAddress();
}

let noted = 0;
/** Note the instant and the choice in the address, once they rest. */
function noteAddress() {
  clearTimeout(noted);
  noted = setTimeout(() => {
    const pid = chosenLife === null ? "" : `&pid=${lives[chosenLife].path}`;
    history.replaceState(null, "", `#at=${numberOf(cursor.stop)}${pid}`);
  }, 300);
}

function fromAddress() {
  const [, number, path] = decodeURIComponent(location.hash).match(/^#at=(\d{1,20})(?:&pid=([\d/]+))?$/) || [];
  if (number === undefined) return;
  let stop = STOPS - 1;
  while (stop > 0 && numberOf(stop) > BigInt(number)) stop--;
  goTo(stop);
  const life = lives.findLast((each) => each.path === path && each.born <= stop) || lives.find((each) => each.path === path);
  showTree();
  if (life) chooseLife(life.index);
}

// ---- choices ------------------------------------------------------------------------------------------------------------

/** Choose a life, in the lanes and, where it is there at the cursor, in the tree. */
function chooseLife(index) {
  const node = index === null ? null : nodeOfLife.get(index) || null;
  if (node) {
    choose(node);
  } else {
    chosen = null;
    chosenLife = index;
    draw();
    showChoice(null);
  }
  if (index !== null) showLane(index);
}

/** Note a choice of the tree. */
function wasChosen(node) {
  const life = node && (node.task || node.ancestor);
  chosenLife = life ? life.life : null;
  if (chosenLife !== null) showLane(chosenLife);
  showChoice(node);
}

function showChoice(node) {
  showDetails(node);
  drawTimes();
  document.getElementById("command").textContent = command();
  noteAddress();
}

/** Show the lane of the node under the pointer. */
function overWas(node) {
  overLife = node && node.task ? node.task.life : null;
}

/** Return what is known of a node beside its facts: all that happened to it, each a way to that instant. */
function moreFacts() {
  if (chosenLife === null) return [];
  const life = lives[chosenLife];
  const list = el("ol", "deeds");
  for (const [stop, text, assumed] of happenings(life).slice(0, 500)) {
    const item = el("li");
    const button = el("button", stop <= cursor.stop ? "" : "later");
    button.type = "button";
    button.append(el("span", "when", timeText(times[stop], 3, stop)), text, ...(assumed ? [" ", el("span", "badge", "assumed")] : []));
    button.addEventListener("click", () => goTo(stop));
    item.append(button);
    list.append(item);
  }
  const title = el("h3", "", nodeOfLife.has(life.index) ? "In this span" : `${life.path} ${namesOf(life).at(-1) ?? ""} is not there at the cursor. In this span`);
  return [title, list];
}

/** Return what happened to a life: stop, words, and true where no record told the moment. */
function happenings(life) {
  const came = life.entered ? "came into the tree" : life.present ? "there already" : life.assumed ? "found" : "born";
  const maker = life.creator === NONE ? life.creatorNumber || null : lives[life.creator].path;
  const found = [[life.born, `${came}${maker ? ` of ${maker}` : ""}`, life.assumed && !life.present]];
  for (const { stop, marks, facts } of piecesOf(life)) {
    for (const [fact, value, assumed] of marks) {
      const text = {
        [PROGRAM]: () => `runs ${textOf(value) ?? textOf(facts[NAME]) ?? ""}`,
        [SESSION]: () => `session ${value}`,
        [GROUP]: () => `group ${value}`,
        [PARENT]: () => `now child of ${value}`,
        [SUBREAPER]: () => (value ? "became a subreaper" : "is no subreaper any more"),
        [STOPPED]: () => (value ? "stopped" : facts[ENDED] === NONE ? "goes on" : null),
        [ENDED]: () => (value === NONE ? null : told.ends[value]),
        [UID]: () => `uid ${value}`,
      }[fact];
      const said = text && text();
      if (said) found.push([stop, said, assumed]);
    }
  }
  if (life.gone !== NONE) found.push([life.gone, life.left ? "left the tree" : "gone", false]);
  return found;
}

// ---- pointer and keys ----------------------------------------------------------------------------------------------------

function lifeAt(event) {
  const at = Math.floor((event.offsetY - headHeight() + place.scrollTop) / LANE);
  return event.offsetY < headHeight() || at < 0 || at >= lanes.length ? null : lanes[at];
}

const near = (event) => Math.abs(event.offsetX - xOf(cursor.ns)) < (event.pointerType === "touch" ? 18 : 6);

function startPointer() {
  const pointers = new Map();
  let drag = null;  // "cursor", "pan" or "pinch"
  let moved = false;
  let pinch = null;
  canvas.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    pointers.set(event.pointerId, { x: event.offsetX, y: event.offsetY });
    canvas.setPointerCapture(event.pointerId);
    moved = false;
    if (pointers.size === 2) {
      const [a, b] = [...pointers.values()];
      pinch = { wide: Math.max(20, Math.abs(a.x - b.x)), middle: nsOf((a.x + b.x) / 2), span: to - from };
      drag = "pinch";
    } else if (event.offsetX > gutter() && (event.offsetY < headHeight() || near(event))) {
      drag = "cursor";
      setCursor(nsOf(event.offsetX));
    } else drag = "pan";
  });
  canvas.addEventListener("pointermove", (event) => {
    const before = pointers.get(event.pointerId);
    if (!before) {
      canvas.style.cursor = event.offsetX > gutter() && (event.offsetY < headHeight() || near(event)) ? "ew-resize" : "default";
      const life = lifeAt(event);
      if (life !== overLife) { overLife = life; drawTimes(); }
      showTip(life, event);
      return;
    }
    const [dx, dy] = [event.offsetX - before.x, event.offsetY - before.y];
    if (Math.abs(dx) + Math.abs(dy) > 3) moved = true;
    if (!moved) return;
    pointers.set(event.pointerId, { x: event.offsetX, y: event.offsetY });
    showTip(null);
    if (drag === "cursor") setCursor(nsOf(event.offsetX));
    else if (drag === "pinch" && pointers.size === 2) {
      const [a, b] = [...pointers.values()];
      const span = pinch.span * pinch.wide / Math.max(20, Math.abs(a.x - b.x));
      const part = ((a.x + b.x) / 2 - gutter()) / (canvas.clientWidth - gutter());
      look(pinch.middle - span * part, pinch.middle + span * (1 - part));
    } else if (drag === "pan") {
      pan(-dx / (canvas.clientWidth - gutter()) * (to - from));
      if (event.pointerType === "mouse") place.scrollTop -= dy;
    }
  });
  const up = (event) => {
    if (!pointers.delete(event.pointerId)) return;
    if (drag === "pan" && !moved && event.type === "pointerup") {
      const life = lifeAt(event);
      if (event.offsetX > gutter()) setCursor(nsOf(event.offsetX));
      showTree();
      if (life !== null) chooseLife(life);
    }
    if (!pointers.size) drag = null;
  };
  canvas.addEventListener("pointerup", up);
  canvas.addEventListener("pointercancel", up);
  canvas.addEventListener("pointerleave", () => { if (overLife !== null) { overLife = null; drawTimes(); } showTip(null); });
  canvas.addEventListener("dblclick", (event) => {
    const index = lifeAt(event);
    if (index === null) return whole();
    const life = lives[index];
    const wide = Math.max(LEAST, Math.min(life.ends, LAST) - life.begins);
    return look(life.begins - wide * 0.1, life.begins + wide * 1.1, index);
  });
  canvas.addEventListener("wheel", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) {
      event.preventDefault();
      zoom(Math.exp(Math.max(-100, Math.min(100, event.deltaY)) / 250), nsOf(Math.max(gutter(), event.offsetX)));
    } else if (event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY)) {
      event.preventDefault();
      pan((event.deltaX || event.deltaY) / (canvas.clientWidth - gutter()) * (to - from));
    }
  }, { passive: false });
}

function showTip(index, event) {
  const tip = document.getElementById("tip");
  tip.hidden = index === null;
  if (index === null) return;
  const life = lives[index];
  const stop = event.offsetX > gutter() ? stopAt(Math.max(life.begins, Math.min(nsOf(event.offsetX), life.ends, LAST))) : cursor.stop;
  const facts = factsAt(life, Math.max(stop, life.born));
  const argv = textOf(facts[ARGUMENTS]);
  const until = life.gone === NONE ? "" : ` – ${timeText(life.ends, 3, life.gone)}`;
  const end = facts[ENDED] === NONE ? "" : ` · ${told.ends[facts[ENDED]]}`;
  tip.textContent = `${life.path} ${textOf(facts[NAME]) ?? ""}${argv ? ` · ${argv.slice(0, 160)}` : ""} · ${timeText(life.begins, 3, life.born)}${until}${end}`;
  tip.style.left = `${Math.max(4, Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8))}px`;
  tip.style.top = `${Math.min(event.clientY + 18, innerHeight - 30)}px`;
}

/** Choose the next lane. */
function moveLane(by) {
  if (!lanes.length) return;
  const own = chosenLife === null ? NONE : laneOf[chosenLife] === NONE ? laneOf[leading(lives[chosenLife]).index] : laneOf[chosenLife];
  const at = own === NONE ? (by > 0 ? Math.ceil(place.scrollTop / LANE) : lanes.length - 1) : own + by;
  showTree();
  chooseLife(lanes[Math.max(0, Math.min(lanes.length - 1, at))]);
}

function lanesKey(event) {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  const step = (by) => {
    if (event.shiftKey) pan((to - from) * 0.1 * by); else goTo(cursor.stop + by);
  };
  const far = (by) => {
    setCursor(cursor.ns + (to - from) * 0.1 * by);
    if (cursor.ns < from || cursor.ns > to) pan(cursor.ns - (from + to) / 2);
  };
  const acts = {
    ArrowRight: () => step(1),
    ArrowLeft: () => step(-1),
    PageDown: () => far(1),
    PageUp: () => far(-1),
    Home: () => goTo(0),
    End: () => goTo(STOPS - 1),
    ArrowDown: () => moveLane(1),
    ArrowUp: () => moveLane(-1),
    Enter: () => chosenLife !== null && goTo(lives[chosenLife].born),
    "+": () => zoom(0.7), "=": () => zoom(0.7), "-": () => zoom(1.4), "0": whole,
  };
  if (!Object.hasOwn(acts, event.key)) return;
  event.preventDefault();
  acts[event.key]();
}
