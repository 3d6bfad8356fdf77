// SPDX-License-Identifier: Apache-2.0
// The head of a page, the tools, and the keys that hold everywhere.

const LEGEND = 24;  // colours that are explained

function showLegend() {
  const key = document.getElementById("colour").value;
  const counts = new Map();
  for (const node of nodes) if (node.task) counts.set(idOf(node, key), (counts.get(idOf(node, key)) || 0) + 1);
  const many = [...counts].sort((a, b) => b[1] - a[1]);
  const legend = document.getElementById("legend");
  legend.replaceChildren(...many.slice(0, LEGEND).map(([id, count]) => {
    const button = el("button");
    button.type = "button";
    const dot = el("span", "dot");
    dot.style.background = colourOfId(key, id);
    button.append(dot, `${idWords(key, id)} (${count})`);
    button.title = "Search for these";
    const value = key === "namespace" ? (image.namespaces[id] || [])[0] : key === "user" ? id : called(id).split("/")[0];
    button.addEventListener("click", () => {
      search.value = search.value === `${key}:${value}` ? "" : `${key}:${value}`;
      relist();
      searched();
    });
    return button;
  }));
  if (many.length > LEGEND) legend.append(el("span", "argv", `and ${many.length - LEGEND} more`));
}

function giveUp() {
  if (search.value) {
    search.value = "";
    relist();
    searched();
    if (chosen) reveal(chosen);
  } else if (document.activeElement !== search) choose(null);
  box.focus();
}

function everywhere(event) {
  const inSearch = event.target === search;
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  if (event.key === "/" && !inSearch) {
    event.preventDefault();
    search.focus();
    search.select();
  } else if (event.key === "Escape") {
    event.preventDefault();
    giveUp();
  } else if (event.key === "?" && !inSearch) {
    document.getElementById("help").click();
  } else if (inSearch && event.key === "Enter") {
    event.preventDefault();
    nextFound(event.shiftKey ? -1 : 1);
  } else if (inSearch && event.key === "ArrowDown") {
    event.preventDefault();
    box.focus();
    if (matches.length) choose(matches[0]);
  }
}

/** Fill the head of a page, and let its tools obey; `all`: its keys, each with what it does. */
function startTools(said, all) {
  document.getElementById("summary").textContent = said.summary;
  const trust = document.getElementById("trust");
  trust.textContent = said.trust;
  trust.classList.toggle("incomplete", !said.complete);
  document.getElementById("notes").append(...said.notes.map((note) => el("div", "", note)));
  const keys = document.getElementById("keys");
  for (const [key, text] of all) {
    const line = el("div");
    line.append(el("kbd", "", key), ` ${text}`);
    keys.append(line);
  }
  document.getElementById("help").addEventListener("click", (event) => {
    keys.hidden = !keys.hidden;
    event.currentTarget.setAttribute("aria-expanded", !keys.hidden);
  });
  const recolour = () => { showLegend(); draw(); drawTimes(); };
  document.getElementById("colour").addEventListener("change", recolour);
  dark.addEventListener("change", recolour);
  document.getElementById("threads").addEventListener("change", () => { relist(); if (chosen && isShown(chosen)) reveal(chosen); });
  search.addEventListener("input", () => { relist(); searched(); });
  box.addEventListener("scroll", draw);
  box.addEventListener("keydown", treeKey);
  rowsBox.addEventListener("click", (event) => {
    const { node } = event.target.closest(".row") || {};
    if (!node) return;
    if (event.target.classList.contains("fold")) setFold(node, !folded.has(node));
    else choose(node);
  });
  rowsBox.addEventListener("dblclick", (event) => {
    const { node } = event.target.closest(".row") || {};
    if (node && !matching) setFold(node, !folded.has(node));
  });
  rowsBox.addEventListener("pointermove", (event) => hover((event.target.closest(".row") || {}).node || null));
  rowsBox.addEventListener("pointerleave", () => hover(null));
  new ResizeObserver(draw).observe(box);
  document.addEventListener("keydown", everywhere);
}
