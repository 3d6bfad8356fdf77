// SPDX-License-Identifier: Apache-2.0
// The overview of the whole span: how many processes there are at each time, and the part of it that the lanes show.

const overview = document.getElementById("overview");
let crowd = [];  // the most processes at a time, for each pixel

/** Count the processes for each pixel: those that are there at its begin, and those that come within it. */
function countCrowd(width) {
  if (crowd.length === width) return;
  crowd = new Array(width).fill(0);
  const column = (ns) => Math.max(0, Math.min(width - 1, Math.floor((ns + AIR) / (LAST + 2 * AIR) * width)));
  const comes = new Int32Array(width + 1);
  const goes = new Int32Array(width + 1);
  for (const life of lives) {
    if (life.leader !== NONE) continue;
    comes[column(life.begins)]++;
    if (life.gone !== NONE) goes[column(life.ends)]++;
  }
  let there = 0;
  for (let at = 0; at < width; at++) {
    there += comes[at];
    crowd[at] = there;
    there -= goes[at];
  }
}

function drawOverview() {
  const pen = penOf(overview);
  const { clientWidth: width, clientHeight: height } = overview;
  const xAt = (ns) => (ns + AIR) / (LAST + 2 * AIR) * width;
  countCrowd(width);
  const most = Math.max(1, ...crowd);
  for (const [kind, begin, end] of told.troubles) {
    pen.fillStyle = inks[{ suspend: "dim", clock: "accent" }[kind] || "alarm"];
    pen.globalAlpha = 0.35;
    pen.fillRect(xAt(begin), 0, Math.max(1.5, xAt(end ?? LAST) - xAt(begin)), height);
  }
  pen.globalAlpha = 0.5;
  pen.fillStyle = inks.plain;
  pen.beginPath();
  pen.moveTo(0, height);
  crowd.forEach((count, x) => { pen.lineTo(x, height - 2 - count / most * (height - 16)); pen.lineTo(x + 1, height - 2 - count / most * (height - 16)); });
  pen.lineTo(width, height);
  pen.fill();
  pen.globalAlpha = 1;
  const [left, right] = [xAt(from), xAt(to)];
  if (right - left < width - 2) {
    pen.fillStyle = inks.ground;
    pen.globalAlpha = 0.6;
    pen.fillRect(0, 0, left, height);
    pen.fillRect(right, 0, width, height);
    pen.globalAlpha = 1;
    pen.strokeStyle = inks.accent;
    pen.strokeRect(left + 0.5, 0.5, Math.max(2, right - left - 1), height - 1);
  }
  pen.fillStyle = inks.dim;
  pen.font = SMALL;
  pen.fillText(`up to ${counted(most, "process", "processes")} at a time`, 10, 12);
  pen.fillStyle = inks.accent;
  pen.fillRect(xAt(cursor.ns) - 0.75, 0, 1.5, height);
}

function startOverview() {
  const move = (event) => setCursor(event.offsetX / overview.clientWidth * (LAST + 2 * AIR) - AIR);
  overview.addEventListener("pointerdown", (event) => {
    overview.setPointerCapture(event.pointerId);
    move(event);
  });
  overview.addEventListener("pointermove", (event) => { if (event.buttons) move(event); });
}
