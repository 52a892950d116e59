"use strict";
// Fills in the table of training pairs and the browser of judged pairs. What programs and judgments
// say becomes text nodes alone: nothing here is ever parsed as HTML.

const data = JSON.parse(document.getElementById("data").textContent);
const ROWS_AT_ONCE = 100;

// An element with these attributes and children; a child that is a string becomes text.
function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== null) node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

// A text under a title of several parts, the first of which names it.
function box(title, text, style = "") {
  const parts = title.filter(Boolean).map((part, k) => element(k ? "span" : "b", {}, part));
  return element("div", {class: `box ${style}`}, element("h3", {}, ...parts), element("pre", {}, ...[text].flat()));
}

// ---------------------------------------------------------------- filters

// Choices of each field that has several values, and a search; calls `changed` after each change.
class Filters {
  constructor(pairs, extra, changed) {
    this.choices = {};
    this.count = element("span", {class: "count", "aria-live": "polite"});
    this.search = element("input", {type: "search", oninput: changed, "aria-label": "search"});
    this.node = element("div", {class: "filters"});
    const fields = {};
    for (const name of ["domain", "difficulty", "policy"]) {
      fields[name] = [...new Set(pairs.map((pair) => pair[name]))].sort();
    }
    for (const [name, values] of Object.entries({...fields, ...extra})) {
      if (values.length < 2) continue;
      const options = ["all", ...values].map((value, k) => element("option", {value: k ? value : ""}, value));
      this.choices[name] = element("select", {onchange: changed}, ...options);
      this.node.append(element("label", {}, name, this.choices[name]));
    }
    this.node.append(element("label", {}, "search", this.search), this.count);
  }

  // Those of the pairs that pass. `words` gives a pair's text for the search.
  of(pairs, words) {
    const wanted = this.search.value.toLowerCase();
    const chosen = Object.entries(this.choices).filter(([, select]) => select.value !== "");
    return pairs.filter((pair) => chosen.every(([name, select]) => pair[name] === select.value)
      && (!wanted || words(pair).toLowerCase().includes(wanted)));
  }
}

// ---------------------------------------------------------------- two programs

// The numbers of the lines of `a` that a longest common subsequence with `b` leaves out.
function linesThatDiffer(a, b) {
  const length = Array.from({length: a.length + 1}, () => new Uint32Array(b.length + 1));
  for (let i = a.length - 1; i >= 0; i--) {
    for (let j = b.length - 1; j >= 0; j--) {
      length[i][j] = a[i] === b[j] ? length[i + 1][j + 1] + 1 : Math.max(length[i + 1][j], length[i][j + 1]);
    }
  }
  const differ = new Set();
  let j = 0;
  for (let i = 0; i < a.length; i++) {
    while (j < b.length && a[i] !== b[j] && length[i][j + 1] >= length[i + 1][j] && length[i][j] === length[i][j + 1]) j++;
    if (j < b.length && a[i] === b[j]) j++;
    else differ.add(i);
  }
  return differ;
}

function program(letter, own, other, isRight) {
  const lines = own.text.trimEnd().split("\n");
  const differ = linesThatDiffer(lines, other.text.trimEnd().split("\n"));
  const text = lines.map((line, k) => differ.has(k) ? element("span", {class: "differs"}, line || " ") : `${line}\n`);
  return box([letter, isRight ? "the right one" : "", `${own.id}: ${own.outcome}`], text, isRight ? "is-right" : "");
}

function programs(pair) {
  const a = data.programs[pair.a];
  const b = data.programs[pair.b];
  return element("div", {class: "two"}, program("A", a, b, pair.right === "A"), program("B", b, a, pair.right === "B"));
}

const problem = (pair) => box([data.problems[pair.problem].id], data.problems[pair.problem].prompt);

// ---------------------------------------------------------------- training pairs

const COLUMNS = [
  ["pair", "id"], ["domain", "domain"], ["difficulty", "difficulty"], ["policy", "policy"], ["what it is", "kind"],
  ["weight", "weight"], ["visits", "visits"], ["informed", "informed"], ["largest s", "s"],
];
const signed = (s) => `${s < 0 ? "−" : "+"}${Math.abs(s).toFixed(2)}`;

function buildTraining(section) {
  let sortedBy = "weight";
  let descending = true;
  let shown = ROWS_AT_ONCE;
  const restart = () => { shown = ROWS_AT_ONCE; draw(); };
  const filters = new Filters(data.training, {}, restart);
  const heads = COLUMNS.map(([title, field]) => {
    const sort = () => {
      descending = sortedBy === field ? !descending : typeof data.training[0][field] !== "string";
      sortedBy = field;
      restart();
    };
    const isText = COLUMNS.findIndex(([, name]) => name === field) < 5;
    return element("th", {scope: "col", class: isText ? "left" : null}, element("button", {type: "button", onclick: sort}, title));
  });
  const body = element("tbody");
  const more = element("button", {type: "button", class: "plain more-rows", onclick: () => { shown += ROWS_AT_ONCE; draw(); }}, "show more");
  const table = element("table", {class: "pairs"}, element("thead", {}, element("tr", {}, ...heads)), body);
  section.append(filters.node, element("div", {class: "scroll"}, table, more));

  function draw() {
    const pairs = filters.of(data.training, (pair) => `${pair.id} ${pair.kind}`);
    const compare = (x, y) => {
      if (x[sortedBy] === null || y[sortedBy] === null) return (x[sortedBy] === null) - (y[sortedBy] === null);
      const order = typeof x[sortedBy] === "string"
        ? x[sortedBy].localeCompare(y[sortedBy], "en", {numeric: true}) : x[sortedBy] - y[sortedBy];
      return descending ? -order : order;
    };
    pairs.sort(compare);
    COLUMNS.forEach(([, field], k) => {
      if (field === sortedBy) heads[k].setAttribute("aria-sort", descending ? "descending" : "ascending");
      else heads[k].removeAttribute("aria-sort");
    });
    body.replaceChildren(...pairs.slice(0, shown).map(trainingRow));
    more.hidden = pairs.length <= shown;
    filters.count.textContent = `${pairs.length} of ${data.training.length} pairs`;
  }
  draw();
}

function trainingRow(pair) {
  const name = element("button", {type: "button", "aria-expanded": "false"}, pair.id);
  const s = pair.s === null ? "" : signed(pair.s);
  const row = element("tr", {class: "pair"},
    element("td", {class: "left id"}, name),
    ...["domain", "difficulty", "policy"].map((field) => element("td", {class: "left"}, pair[field])),
    element("td", {class: "left kind", title: pair.kind}, pair.kind),
    element("td", {}, pair.weight.toFixed(2)),
    element("td", {}, String(pair.visits)),
    element("td", {}, String(pair.informed)),
    element("td", {class: pair.s < 0 ? "down" : "up"}, s));
  row.addEventListener("click", () => {
    const isOpen = name.getAttribute("aria-expanded") === "true";
    name.setAttribute("aria-expanded", String(!isOpen));
    if (isOpen) row.nextSibling.remove();
    else row.after(element("tr", {class: "why"}, element("td", {colspan: COLUMNS.length}, ...why(pair))));
  });
  return row;
}

// Why a pair counts: its kind, its programs, and the visits that moved its weight most.
function why(pair) {
  if (!pair.moved) {
    return [element("p", {class: "facts"}, "The texts of this pair are left out of this page; they are in explained.jsonl.")];
  }
  const nodes = [element("p", {class: "facts"}, `${pair.group}. ${pair.kind}`), problem(pair), programs(pair)];
  if (!pair.moved.length) {
    const words = pair.visits ? "No visit of its own has moved its weight: it was not drawn since weights are learned, or all of its judgments earned the same."
      : "It was never drawn.";
    nodes.push(element("p", {class: "why-line"}, `${words} What weight it has comes from its kind.`));
  }
  for (const visit of pair.moved) {
    const direction = visit.s > 0 ? "more of this" : "less of this";
    const rewards = visit.rewards.map((reward) => reward.toLocaleString("en")).join(", ");
    nodes.push(element("p", {class: "why-line"}, `Step ${visit.step}: `,
      element("b", {class: visit.s < 0 ? "down" : "up"}, `s ${signed(visit.s)}, ${direction}. `),
      `Its ${visit.rewards.length} judgments earned ${rewards}. A step makes the left one more likely and the right one less:`));
    nodes.push(element("div", {class: "two"},
      box([`earned ${visit.best.reward.toLocaleString("en")}`], visit.best.text, "is-right"),
      box([`earned ${visit.worst.reward.toLocaleString("en")}`], visit.worst.text, "is-wrong")));
  }
  return nodes;
}

// ---------------------------------------------------------------- judged pairs

function buildBrowser(section) {
  for (const pair of data.judged) {
    pair.before.right = pair.before.verdict === pair.right;
    pair.after.right = pair.after.verdict === pair.right;
    pair["before training"] = pair.before.right ? "right" : "wrong";
    pair["after training"] = pair.after.right ? "right" : "wrong";
  }
  let pairs = [];
  let shown = ROWS_AT_ONCE;
  let current = 0;
  const extra = {"before training": ["right", "wrong"], "after training": ["right", "wrong"]};
  const filters = new Filters(data.judged, extra, filter);
  const list = element("div", {class: "list", role: "group", "aria-label": "judged pairs"});
  const detail = element("div", {class: "detail"});
  if (data.judged.length < data.judgedInAll) {
    section.append(element("p", {}, `Of ${data.judgedInAll} judgments of this evaluation ${data.judged.length} are here, evenly spaced; all are in transcripts.jsonl.`));
  }
  section.append(filters.node, element("div", {class: "browser"}, list, detail));

  function filter() {
    pairs = filters.of(data.judged, (pair) => `${pair.id} ${pair.before.text} ${pair.after.text}`);
    filters.count.textContent = `${pairs.length} of ${data.judged.length} judgments`;
    shown = ROWS_AT_ONCE;
    current = 0;
    draw();
    list.scrollTop = 0;
  }

  function go(k) {
    current = k;
    shown = Math.max(shown, k + 1);
    draw();
    list.querySelector("[aria-current]")?.scrollIntoView({block: "nearest"});
  }

  function draw() {
    const items = pairs.slice(0, shown).map((pair, k) => element("button",
      {type: "button", class: "item", "aria-current": k === current ? "true" : null, onclick: () => go(k)},
      pair.id, element("small", {}, element("span", {}, pair.group),
        element("span", {class: "marks"}, mark(pair.before.right), " → ", mark(pair.after.right)))));
    if (pairs.length > shown) {
      items.push(element("button", {type: "button", class: "plain more-rows", onclick: () => { shown += ROWS_AT_ONCE; draw(); }}, "show more"));
    }
    list.replaceChildren(...items);
    if (pairs.length) detail.replaceChildren(...judgedPair(pairs[current]));
    else detail.replaceChildren(element("p", {}, "No judgment is like that."));
  }

  function judgedPair(pair) {
    const step = (words, k) => element("button",
      {type: "button", class: "plain", disabled: pairs[k] ? null : "", onclick: () => go(k)}, words);
    return [
      element("div", {class: "steps"}, element("span", {class: "title"}, element("b", {}, pair.id), ` ${pair.group}`),
        step("previous", current - 1), step("next", current + 1)),
      problem(pair),
      programs(pair),
      element("div", {class: "two"}, judgment("before training", data.steps[0], pair.before),
        judgment("after training", data.steps[1], pair.after)),
    ];
  }

  for (const button of document.querySelectorAll("[data-turn]")) {
    button.addEventListener("click", () => {
      const [how, after] = button.dataset.turn.split(" ");
      const other = after === "right" ? "wrong" : "right";
      filters.choices["before training"].value = how === "stayed" ? after : other;
      filters.choices["after training"].value = after;
      filter();
      section.scrollIntoView();
    });
  }
  filter();
}

function mark(isRight) {
  const words = isRight ? "right" : "wrong";
  return element("span", {class: `mark-${words}`, role: "img", "aria-label": words}, isRight ? "✓" : "✗");
}

function judgment(when, step, said) {
  const verdict = said.verdict === null ? "no verdict" : `says ${said.verdict}`;
  return box([when, `step ${step}`, `${verdict}: ${said.right ? "right" : "wrong"}`, `${said.tokens} tokens`],
    said.text, said.right ? "is-right" : "is-wrong");
}

buildTraining(document.getElementById("training"));
buildBrowser(document.getElementById("judged"));
