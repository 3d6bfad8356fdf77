// SPDX-License-Identifier: Apache-2.0
// The tree at a stop, as an image: what a snapshot of that instant has, as far as records tell it.

const INHERITED = -4097;
const FEW_USERS = 6;  // processes that are named as users of a pid without a task
const tags = new Map();  // number -> tag; a number keeps its tag, and so its colour, at every stop
const pids = [];

function tagOf(number) {
  let tag = tags.get(number);
  if (tag === undefined) {
    pids.push([[number], []]);
    tag = pids.length;
    tags.set(number, tag);
  }
  return tag;
}

/** Return what is there at a stop: by number the life, its facts, its threads and its children, and the topmost ones. */
function standing(stop) {
  const byNumber = new Map();
  for (const index of livingAt(stop)) {
    const life = lives[index];
    byNumber.set(life.numbers[0], { life, facts: factsAt(life, stop), number: life.numbers[0], threads: [], children: [], leader: null });
  }
  const tops = [];
  const ascending = [...byNumber.values()].sort((a, b) => a.number - b.number);
  for (const each of ascending) {
    const leader = each.life.leader === NONE ? null : byNumber.get(lives[each.life.leader].numbers[0]);
    each.leader = leader && leader.life.index === each.life.leader ? leader : null;
    if (each.leader) {
      each.leader.threads.push(each);
      continue;
    }
    const above = byNumber.get(each.facts[PARENT]);
    if (above && above !== each) above.children.push(each); else tops.push(each);
  }
  return { byNumber, tops };
}

/** Return all that stands in the order of a snapshot: a leader, what is below it, its next thread and what is below that. */
function inOrder(tops) {
  const found = [];
  const todo = [...tops].reverse();
  while (todo.length) {
    const each = todo.pop();
    found.push(each);
    for (const thread of [...each.threads].reverse()) todo.push(thread);
    for (const child of [...each.children].reverse()) todo.push(child);
  }
  return found;
}

/** Return the image of a stop, and for each of its tasks the index of its life. */
function imageAt(stop) {
  const { byNumber, tops } = standing(stop);
  const order = inOrder(tops);
  const top = tops.length === 1 ? tops[0] : null;
  const outer = top && top.facts[SESSION] && top.facts[SESSION] !== top.number ? top.facts[SESSION] : null;
  const idOf = (number) => (!number ? 0 : number === outer ? INHERITED : tagOf(number));
  for (const { number, life } of order) pids[tagOf(number) - 1][0] = life.numbers;
  const shift = holding(told.boots, stop)[1];
  const tasks = order.map((each) => {
    const { life, facts } = each;
    const process = each.leader || each;
    const above = byNumber.get(process.facts[PARENT]);
    const task = {
      life: life.index,
      pid: tagOf(each.number), ppid: above && process !== top ? tagOf(above.number) : 0,
      tgid: life.leader === NONE ? tagOf(each.number) : tagOf(lives[life.leader].numbers[0]),
      pgid: idOf(process.facts[GROUP]), sid: idOf(process.facts[SESSION]),
      start: life.start, state: stateOf(each), uid: facts[UID], gid: facts[GID], comm: textOf(facts[NAME]),
      notes: notesOf(each, above, idOf, top, byNumber),
      birth: birthOf(each, byNumber),
    };
    const argv = textOf(process.facts[ARGUMENTS]);
    if (argv !== undefined && !each.leader) task.argv = argv;
    return task;
  });
  const ancestors = goneOf(order, top, byNumber, tasks);
  const ghosts = ghostsOf(order, outer, byNumber);
  for (const each of ancestors) {  // the pid of one that is gone may be a session or a group still
    const tag = tags.get(each.numbers[0]);
    if (ghosts.some(([ghost]) => ghost === tag) && led(lives[each.life])) each.tag = tag;
  }
  return {
    title: told.title, forest: true, cut: (told.begin_us * 1000 + times[stop]) / 1000 - shift, first_tag: 1,
    inherited: INHERITED, namespaces: [], pids, users: told.users, tasks, ghosts, ancestors,
  };
}

function stateOf({ facts, threads }) {
  if (facts[ENDED] === NONE) return facts[STOPPED] ? "stopped" : "running";
  return threads.length ? "dead-leader" : "zombie";
}

/** Return the remarks on a task, as those of a snapshot: kind and text of each. */
function notesOf(each, above, idOf, top, byNumber) {
  const { life, facts, leader } = each;
  const notes = [];
  const put = (kind, text) => { if (text) notes.push([kind, text]); };
  const state = stateOf(each);
  put("state", state === "running" ? "" : `${state === "dead-leader" ? "dead leader" : state}${facts[ENDED] === NONE ? "" : `, ${told.ends[facts[ENDED]]}`}`);
  const over = leader || (each === top ? undefined : above);
  if (over && over.life.numbers.length !== life.numbers.length) put("namespace", `level ${life.numbers.length - (top ? top.life.numbers.length : 1)}`);
  if (!leader) {
    const [session, group] = [facts[SESSION], facts[GROUP]];
    const [parentSession, parentGroup] = over ? [(over.leader || over).facts[SESSION], (over.leader || over).facts[GROUP]] : [null, null];
    if (session === each.number) put("session", "session leader");
    else if (!over || parentSession !== session) put("session", `session ${wordsOfId(session, idOf)}`);
    if (group === each.number) put("group", session === each.number ? "" : "group leader");
    else if (!over || parentGroup !== group) put("group", `group ${wordsOfId(group, idOf)}`);
    if (life.leader !== NONE) put("thread", `thread of ${lives[life.leader].numbers[0]} (gone)`);
    put("subreaper", facts[SUBREAPER] ? "subreaper" : "");
    put("exit-signal", told.signals[facts[EXIT_SIGNAL]]);
  }
  if (each !== top) put("birth", strangeBirth(each, byNumber));
  return notes;
}

function wordsOfId(number, idOf) {
  if (number === null) return "not known";
  const id = idOf(number);
  return id === INHERITED ? "inherited from outside" : id ? String(number) : "outside";
}

/** Return the creator of a life where it still stands. */
function standingCreator(life, byNumber) {
  const found = life.creator === NONE ? null : byNumber.get(lives[life.creator].numbers[0]);
  return found && found.life.index === life.creator ? found : null;
}

/** Return a remark on a birth that was not of the parent. */
function strangeBirth(each, byNumber) {
  const { life } = each;
  const process = each.leader || each;
  const creator = standingCreator(life, byNumber);
  if (creator) {
    const alike = creator.number === process.facts[PARENT] || (each.leader && (creator === each.leader || creator.leader === each.leader));
    return alike ? "" : `born of ${creator.number}`;
  }
  if (life.creatorNumber) return `born of ${life.creatorNumber} (gone)`;
  if (life.present || life.entered) return "";  // a snapshot of then may know more
  return life.assumed ? "birth assumed" : "born of a task outside";
}

function birthOf({ life }, byNumber) {
  const creator = standingCreator(life, byNumber);
  const birth = { observed: !life.assumed };
  if (creator) birth.creator = tagOf(creator.number);
  if (life.present || life.entered) birth.before = true;
  else birth.order = Number(numberOf(life.born) - 1n);
  if (!birth.before && life.first[SESSION] !== null) {
    birth.sid = life.first[SESSION] || "outside";
    birth.pgid = life.first[GROUP] || "outside";
  }
  if (life.flags) birth.flags = [life.flags];
  return birth;
}

/** Return the creators that are gone, and name them in the births of their children. */
function goneOf(order, top, byNumber, tasks) {
  const places = new Map();
  const found = [];
  const placeOf = (index) => {
    if (places.has(index)) return places.get(index);
    const life = lives[index];
    const place = found.length;
    places.set(index, place);
    found.push({ numbers: life.numbers, namespaces: [], life: index, events: deedsOf(life), ...birthOf({ life }, byNumber) });
    return place;
  };
  order.forEach((each, turn) => {
    const { creator } = each.life;
    if (each === top || creator === NONE || standingCreator(each.life, byNumber)) return;
    tasks[turn].birth.ancestor = placeOf(creator);
  });
  for (let turn = 0; turn < found.length; turn++) {
    const life = lives[found[turn].life];
    if (life.creator !== NONE && !standingCreator(life, byNumber)) found[turn].ancestor = placeOf(life.creator);
  }
  return found;
}

/** Return true if a life ever was in the session or group of its own number. */
function led(life) {
  const own = life.numbers[0];
  if (life.first[SESSION] === own || life.first[GROUP] === own) return true;
  return life.changes.some((fact, at) => at % 3 === 1 && [SESSION, GROUP].includes(fact % IS_ASSUMED) && life.changes[at + 1] === own);
}

const DEEDS = { [SESSION]: "session", [GROUP]: "group", [SUBREAPER]: "subreaper", [ENDED]: "exit" };

/** Return what a life did that its children have of it. */
function deedsOf(life) {
  const found = [];
  for (let at = 0; at < life.changes.length; at += 3) {
    const [stop, fact, value] = life.changes.slice(at, at + 3);
    const name = DEEDS[fact % IS_ASSUMED];
    if (name) found.push(`${name}${name === "exit" ? "" : ` ${value}`} as event ${numberOf(stop) - 1n}`);
  }
  return found;
}

/** Return the pids that are sessions and groups of processes and no tasks, with their uses in words. */
function ghostsOf(order, outer, byNumber) {
  const uses = new Map();
  const use = (number, kind, each) => {
    if (!number || number === outer || byNumber.has(number)) return;
    if (!uses.has(number)) uses.set(number, new Map());
    add(uses.get(number), kind, each);
  };
  for (const each of order) {
    if (each.leader) continue;
    use(each.facts[SESSION], "session", each);
    use(each.facts[GROUP], "group", each);
    if (each.life.leader !== NONE) use(lives[each.life.leader].numbers[0], "thread group", each);
  }
  return [...uses].map(([number, kinds]) => {
    pids[tagOf(number) - 1][0] = [number];
    return [tagOf(number), [...kinds].map(([kind, users]) => {
      const named = users.slice(0, FEW_USERS).map((each) => each.number);
      if (users.length > FEW_USERS) named.push(`${users.length - FEW_USERS} more`);
      return `${kind} of ${named.join(", ")}`;
    })];
  });
}
