// SPDX-License-Identifier: Apache-2.0
// The image as nodes: one for each process, thread, pid object without a task, and ancestor that is gone.
// Texts come from foreign programs. They reach the page as text nodes only, never as HTML.

let image;
const nodes = [];
const roots = [];  // nodes that nothing is above
const byTag = new Map();
const byNumbers = new Map();
const users = { session: new Map(), group: new Map() };  // tag -> nodes of its session or group
const created = new Map();  // node of a creator -> nodes whose parent is another task
const goneNodes = [];
const sizes = { session: 0, group: 0, namespace: 0, user: 0 };  // ids that have a colour
const PALETTE = new Map();  // "session 5" -> its place in the order in which the tree mentions it

function el(name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

const counted = (number, one, many) => `${number} ${number === 1 ? one : many}`;

function add(map, key, value) {
  const list = map.get(key);
  if (list) list.push(value); else map.set(key, [value]);
}

function numbersOf(tag) {
  const pid = image.pids[tag - image.first_tag];
  return pid ? pid[0] : [];
}

function namespacesOf(tag) {
  const pid = image.pids[tag - image.first_tag];
  return pid ? pid[1] : [];
}

/** Return an id of the image in words. */
function called(tag) {
  if (tag === image.inherited) return "inherited from outside";
  return numbersOf(tag).join("/") || "outside";
}

/** Take an image, and make its nodes; those of the image before are gone. Ids keep the colours that they have. */
function takeImage(taken) {
  image = taken;
  for (const list of [nodes, roots, goneNodes]) list.length = 0;
  for (const map of [byTag, byNumbers, users.session, users.group, created]) map.clear();
  makeNodes();
}

function makeNodes() {
  for (const task of image.tasks) {
    const node = {
      kind: "process", tag: task.pid, task, path: numbersOf(task.pid).join("/"),
      place: nodes.length, parent: null, children: [], threads: [], low: "", level: 0,
    };
    nodes.push(node);
    byTag.set(task.pid, node);
  }
  for (const node of nodes) {
    const { task } = node;
    const leader = task.tgid !== task.pid && byTag.get(task.tgid);
    if (leader && leader.place < node.place) {  // so all that is above a node comes before it, and nothing is above itself
      node.kind = "thread";
      node.parent = leader;
      leader.threads.push(node);
    } else {
      node.parent = node === nodes[0] ? null : byTag.get(task.ppid) || (image.forest ? null : nodes[0]);
      if (node.parent) node.parent.children.push(node);
      else roots.push(node);
    }
    if (node.kind === "process") {
      add(users.session, task.sid, node);
      add(users.group, task.pgid, node);
    }
    for (const key of ["session", "group", "namespace", "user"]) {
      const name = `${key} ${idOf(node, key)}`;
      if (!PALETTE.has(name)) PALETTE.set(name, sizes[key]++);
    }
  }
  for (const [tag, uses] of image.ghosts) {
    nodes.push({ kind: "ghost", tag, uses, path: called(tag), children: [], threads: [], parent: null, low: "", level: 0 });
    byTag.set(tag, nodes.at(-1));
  }
  for (const [place, ancestor] of image.ancestors.entries()) {
    const ghost = byTag.get(ancestor.tag);  // its pid object, where that is one of the tree's
    if (ghost) ghost.ancestor = ancestor;
    goneNodes[place] = ghost || {
      kind: "gone", ancestor, path: ancestor.numbers.join("/") || "outside",
      children: [], threads: [], parent: null, low: "", level: 0,
    };
    if (!ghost) nodes.push(goneNodes[place]);
  }
  for (const node of nodes) {
    if (!byNumbers.has(node.path)) byNumbers.set(node.path, node);
    const creator = creatorOf(node);
    if (creator && creator !== node.parent && leaderOf(creator) !== node.parent) add(created, creator, node);
  }
  for (const node of nodes) {
    const [first] = node.path.split("/");  // a pid alone is the number in the root's namespace
    if (!byNumbers.has(first)) byNumbers.set(first, node);
  }
}

/** Return the id that colours a node: a tag, a namespace's id, or a user's. */
function idOf(node, key) {
  const { task } = node;
  if (!task) return null;
  if (key === "session") return task.sid;
  if (key === "group") return task.pgid;
  if (key === "user") return task.uid ?? "unknown";
  return namespacesOf(task.pid).at(-1) ?? "unknown";
}

/** Return an id that colours nodes in words. */
function idWords(key, id) {
  if (key === "user") return `user ${image.users[id] ?? id}`;
  if (key === "namespace") return id === "unknown" ? "namespace unknown" : `pid:[${image.namespaces[id][0]}]`;
  return `${key} ${called(id)}`;
}

function creatorOf(node) {
  const birth = node.task ? node.task.birth : node.ancestor;
  if (!birth) return null;
  if (birth.creator !== undefined) return byTag.get(birth.creator) || null;
  return goneNodes[birth.ancestor] || null;
}

function leaderOf(node) {
  return node.kind === "thread" ? node.parent : node;
}

function nameOf(node) {
  if (!node.task) return `${node.path} ${absence(node)}`;
  const text = node.task.comm === undefined ? node.path : `${node.path} ${node.task.comm}`;
  return node.kind === "thread" ? `{${text}}` : text;
}

/** Return the reason why a node has no task. */
function absence(node) {
  return node.ancestor ? "gone" : "no task";
}

/** Return the words of a node in lower case, which a search looks through. */
function wordsOf(node) {
  if (!node.low) {
    const { task } = node;
    const words = [nameOf(node)];
    if (task) words.push(task.argv || "", ...(task.notes || []).map((note) => note[1]));
    if (node.uses) words.push(...node.uses);
    node.low = words.join("\n").toLowerCase();
  }
  return node.low;
}

const FIELDS = {
  pid: (node, value) => node.path.split("/").includes(value) || node.path === value,
  session: (node, value) => node.task && called(node.task.sid).split("/")[0] === value.split("/")[0],
  group: (node, value) => node.task && called(node.task.pgid).split("/")[0] === value.split("/")[0],
  namespace: (node, value) => node.task && namespacesOf(node.task.pid).some((id) => String(image.namespaces[id][0]) === value),
  user: (node, value) => node.task && [String(node.task.uid), (image.users[node.task.uid] ?? "").toLowerCase()].includes(value),
  state: (node, value) => node.task && (node.task.state || "") === value,
};

/** Return a test for nodes: all words of a query must hold, each in the text or, as session:3, in a field. */
function matcher(query) {
  const tests = query.toLowerCase().split(/\s+/).filter(Boolean).map((word) => {
    const [, field, value] = word.match(/^(\w+):(.+)$/) || [];
    const test = Object.hasOwn(FIELDS, field) ? FIELDS[field] : null;
    return test ? (node) => test(node, value) : (node) => wordsOf(node).includes(word);
  });
  return (node) => tests.every((test) => test(node));
}

/** Return microseconds in words. */
function span(us) {
  const seconds = us / 1e6;
  if (seconds < 1) return `${(us / 1e3).toFixed(1)} ms`;
  if (seconds < 60) return `${seconds.toFixed(2)} s`;
  const whole = Math.floor(seconds);
  const parts = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]]
    .map(([unit, sign], place, all) => [Math.floor((place ? whole % all[place - 1][0] : whole) / unit), sign])
    .filter(([amount]) => amount);
  return parts.slice(0, 2).map(([amount, sign]) => `${amount} ${sign}`).join(" ");
}

/** Return the age of a task at the cut in microseconds; null where the image does not say. */
function ageOf(task) {
  const known = image.cut !== null && task.start !== undefined && task.start <= image.cut;
  return known ? image.cut - task.start : null;
}

const dark = matchMedia("(prefers-color-scheme: dark)");

// Hue, saturation and lightness on white, of colours that differ for most eyes; red and yellow belong to states.
const TINTS = [
  [125, 90, 25], [217, 95, 43], [30, 95, 31], [300, 90, 37], [183, 95, 25], [258, 50, 50], [72, 95, 22], [330, 85, 42], [198, 95, 32],
];

/** Return the colour of a node. */
function colourOf(node, key = document.getElementById("colour").value) {
  const id = idOf(node, key);
  return id === null ? (dark.matches ? "#a2a9b5" : "#5c636e") : colourOfId(key, id);
}

/** Return the colour of an id; ids after the first few have hues between those of the list. */
function colourOfId(key, id) {
  const place = PALETTE.get(`${key} ${id}`) || 0;
  const between = Math.round(75 + ((place * 0.618034) % 1) * 250);
  const [hue, saturation, lightness] = place < TINTS.length ? TINTS[place] : [between, 75, between < 210 ? 25 : 40];
  return dark.matches ? `hsl(${hue} ${saturation * 0.75}% 70%)` : `hsl(${hue} ${saturation}% ${lightness}%)`;
}
