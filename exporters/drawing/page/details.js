// SPDX-License-Identifier: Apache-2.0
// The panel: all facts of the chosen node, with links to others.

const panel = document.getElementById("details");
const FEW = 30;  // links in one list

function link(node, text) {
  const made = el("a", "", text || nameOf(node));
  made.href = `#pid=${node.path}`;
  made.addEventListener("click", (event) => {
    event.preventDefault();
    choose(node);
  });
  return made;
}

/** Return the name of a user and a comma; nothing where it is not known. */
function named(uid) {
  return uid in image.users ? `${image.users[uid]}, ` : "";
}

/** Return links to nodes, the first few of them. */
function links(list) {
  const made = el("span");
  list.slice(0, FEW).forEach((node, place) => made.append(place ? ", " : "", link(node)));
  if (list.length > FEW) made.append(` and ${list.length - FEW} more`);
  return made;
}

/** Return an id with a link, where the page has a node of it. */
function idLink(tag) {
  const node = byTag.get(tag);
  return node ? link(node) : document.createTextNode(called(tag));
}

function searchButton(query, text) {
  const made = el("button", "more", text);
  made.type = "button";
  made.addEventListener("click", () => {
    search.value = query;
    relist();
    searched();
    if (chosen && isShown(chosen)) reveal(chosen);
  });
  return made;
}

function numberTable(node) {
  const table = el("table");
  const head = table.createTHead().insertRow();
  for (const title of ["level", "namespace", "number"]) head.append(el("th", "", title));
  const own = node.ancestor || { numbers: numbersOf(node.tag), namespaces: namespacesOf(node.tag) };
  own.numbers.forEach((number, place) => {
    const row = table.insertRow();
    const space = image.namespaces[own.namespaces[place]];
    row.append(
      el("td", "", space ? String(space[1]) : String(place)),
      el("td", "", space ? `pid:[${space[0]}]` : "not told"),
      el("td", "number", String(number)),
    );
  });
  return table;
}

function birthFacts(put, node) {
  const birth = node.task ? node.task.birth : node.ancestor;
  if (!birth) return put("born", "the image does not say");
  const creator = creatorOf(node);
  const seen = birth.before ? "before the beginning" : birth.observed ? "observed" : "assumed: the birth was not observed";
  const line = el("span");
  if (creator) line.append("of ", link(creator), ", ", seen);
  else line.append(birth.observed ? "of a task outside, observed" : seen);
  put("born", line);
  if (birth.order !== undefined) put("birth event", String(birth.order));
  if (birth.sid !== undefined) put("born into", `session ${birth.sid}, group ${birth.pgid}`);
  if ((birth.flags || []).length) put("clone flags", birth.flags.join(", "));
}

function taskFacts(put, node) {
  const { task } = node;
  put("state", task.state ? (task.notes || []).find(([kind]) => kind === "state")?.[1] || task.state : "the image does not say");
  if (node.kind === "thread") put("thread of", link(node.parent));
  put("parent", node.place ? idLink(task.ppid) : "outside");
  for (const [key, tag] of [["group", task.pgid], ["session", task.sid]]) {
    const members = users[key].get(tag) || [];
    const line = el("span");
    const number = called(tag).split("/")[0];
    line.append(idLink(tag), " ", searchButton(`${key}:${number}`, counted(members.length, "process", "processes")));
    put(key, line);
  }
  if (task.uid !== undefined) put("user", `${named(task.uid)}uid ${task.uid}, gid ${task.gid}`);
  if (task.start !== undefined) {
    put("started", `${span(task.start)} after boot`);
    const age = ageOf(task);
    if (age !== null) put("age", span(age));
    else put("age", newest > task.start ? `at least ${span(newest - task.start)}: that much older than the newest task` : "the newest task");
  }
  birthFacts(put, node);
  if (task.argv !== undefined) put("command line", task.argv, "code");
  if (task.exe) put("program", task.exe, "code");
  if (task.cwd) put("folder", task.cwd, "code");
  const others = (task.notes || []).filter(([kind]) => kind !== "state");
  if (others.length) {
    const line = el("span");
    for (const [, text] of others) line.append(el("span", "badge", text));
    put("remarks", line);
  }
  if (node.threads.length) put("threads", links(node.threads));
  if (node.children.length) put("children", links(node.children));
  if (node.kind === "process" && (node.children.length || node.threads.length)) put("below", counted(countBelow(node), "process", "processes"));
}

function showDetails(node) {
  panel.replaceChildren();
  if (!node) {
    const more = moreFacts(null);
    panel.append(...(more.length ? more : [el("p", "", "Choose a process to see its facts. / searches, ? shows the keys.")]));
    return;
  }
  panel.append(el("h2", "", nameOf(node)), numberTable(node));
  const list = el("dl");
  const put = (name, value, className) => {
    const dd = el("dd", className);
    dd.append(value);
    list.append(el("dt", "", name), dd);
  };
  if (node.uses) put("no task", node.uses.join("; "));
  if (node.ancestor) {
    put("gone", "this task has exited; tasks of the tree were born of it");
    birthFacts(put, node);
    if (node.ancestor.events.length) put("did", node.ancestor.events.join(", "));
  }
  if (node.task) taskFacts(put, node);
  const made = created.get(node);
  if (made) put("also created", links(made));
  panel.append(list, ...moreFacts(node));
  panel.scrollTop = 0;
}
