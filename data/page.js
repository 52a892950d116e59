"use strict";
// Fills in the table of training pairs and the browser of judged pairs, from the block of JSON.
// What programs and judgments say becomes text nodes alone: nothing here is ever parsed as HTML.

const data = JSON.parse(document.getElementById("data").textContent);
const TABLE_ROWS = 20;  // that are shown at first, and more with every "show more"
const LIST_ITEMS = 200;

// An element with these attributes and children; a child that is a string becomes text.
function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

function button(words, style, onclick) {
  return element("button", {type: "button", class: style, onclick}, words);
}

// A text below a title of several parts, the first of which names it.
function box(title, text, style = "") {
  const parts = title.filter(Boolean).map((part, k) => element(k ? "span" : "b", {}, part));
  const heading = element("h3", {}, ...parts);
  return element("div", {class: `box ${style}`}, heading, element("pre", {}, ...[text].flat()));
}

// ---------------------------------------------------------------- filters

// A choice for each field that has several values, and a search.
// pairs: what is filtered; fields: their names; changed: called after each change.
class Filters {
  constructor(pairs, fields, changed) {
    this.choices = {};
    this.node = element("div", {class: "filters"});
    for (const field of fields) {
      const values = [...new Set(pairs.map((pair) => pair[field]))].sort();
      if (values.length < 2) continue;
      const options = values.map((value) => element("option", {value}, value));
      const all = element("option", {value: ""}, "all");
      this.choices[field] = element("select", {onchange: changed}, all, ...options);
      this.node.append(element("label", {}, field, this.choices[field]));
    }
    this.search = element("input", {type: "search", oninput: changed});
    this.count = element("span", {class: "count", "aria-live": "polite"});
    this.node.append(element("label", {}, "search", this.search), this.count);
  }

  // Those of the pairs that pass. words: a function from a pair to the text that is searched.
  of(pairs, words) {
    const wanted = this.search.value.toLowerCase();
    return pairs.filter((pair) => {
      for (const [field, select] of Object.entries(this.choices)) {
        if (select.value && pair[field] !== select.value) return false;
      }
      return words(pair).toLowerCase().includes(wanted);
    });
  }
}

// ---------------------------------------------------------------- a problem and its candidates

// The numbers of the lines of `a` that are not in a longest common subsequence with `b`. None where
// that is less than half of them: then the two are not alike, and marks would say nothing.
function linesThatDiffer(a, b) {
  // longest[i][j]: of the lines from i on in a and from j on in b
  const longest = a.map(() => new Uint32Array(b.length + 1));
  longest.push(new Uint32Array(b.length + 1));
  for (let i = a.length - 1; i >= 0; i--) {
    for (let j = b.length - 1; j >= 0; j--) {
      const without = Math.max(longest[i + 1][j], longest[i][j + 1]);
      longest[i][j] = a[i] === b[j] ? longest[i + 1][j + 1] + 1 : without;
    }
  }
  if (longest[0][0] < a.length / 2) return new Set();
  const differ = new Set();
  let i = 0;
  let j = 0;
  while (i < a.length) {
    if (j < b.length && a[i] === b[j]) {
      i++;
      j++;
    } else if (j < b.length && longest[i][j + 1] > longest[i + 1][j]) {
      j++;
    } else {
      differ.add(i);
      i++;
    }
  }
  return differ;
}

function candidate(letter, own, other, isRight) {
  const lines = own.text.trimEnd().split("\n");
  const differ = linesThatDiffer(lines, other.text.trimEnd().split("\n"));
  const text = lines.map((line, k) => {
    return differ.has(k) ? element("span", {class: "differs"}, line || " ") : `${line}\n`;
  });
  const title = [letter, isRight ? "the right one" : "", `${own.id}: ${own.outcome}`];
  return box(title, text, isRight ? "is-right" : "");
}

function problemAndCandidates(pair) {
  const problem = data.problems[pair.problem];
  const a = data.candidates[pair.a];
  const b = data.candidates[pair.b];
  const two = element("div", {class: "two"},
    candidate("A", a, b, pair.right === "A"), candidate("B", b, a, pair.right === "B"));
  return [box([problem.id], problem.prompt, "problem"), two];
}

// ---------------------------------------------------------------- training pairs

const COLUMNS = [  // [title, field, is it text?]
  ["pair", "id", true],
  ["domain", "domain", true],
  ["difficulty", "difficulty", true],
  ["policy", "policy", true],
  ["what it is", "fields", true],
  ["weight", "weight", false],
  ["visits", "visits", false],
  ["informed", "informed", false],
  ["s that moved it most", "s", false],
];

class TrainingTable {
  constructor(section) {
    this.sortedBy = "weight";
    this.descending = true;
    this.shown = TABLE_ROWS;
    this.filters = new Filters(data.training, ["domain", "difficulty", "policy"],
      () => this.restart());
    this.heads = COLUMNS.map(([title, field, isText]) => {
      const sort = button(title, "", () => this.sortBy(field, isText));
      return element("th", {scope: "col", class: isText ? "left" : null}, sort);
    });
    this.body = element("tbody");
    this.more = button("show more", "plain more-rows", () => {
      this.shown += 5 * TABLE_ROWS;
      this.draw();
    });
    const head = element("thead", {}, element("tr", {}, ...this.heads));
    const table = element("table", {class: "pairs"}, head, this.body);
    section.append(this.filters.node, element("div", {class: "scroll"}, table, this.more));
    this.draw();
  }

  restart() {
    this.shown = TABLE_ROWS;
    this.draw();
  }

  // A second click on a column turns it around. Numbers begin with the largest.
  sortBy(field, isText) {
    this.descending = this.sortedBy === field ? !this.descending : !isText;
    this.sortedBy = field;
    this.restart();
  }

  compare(x, y) {
    const a = x[this.sortedBy];
    const b = y[this.sortedBy];
    if (a === null || b === null) return (a === null) - (b === null);  // at the end, always
    const isText = typeof a === "string";
    const order = isText ? a.localeCompare(b, "en", {numeric: true}) : a - b;
    return this.descending ? -order : order;
  }

  draw() {
    const words = (pair) => `${pair.id} ${pair.facts ?? pair.fields}`;
    const pairs = this.filters.of(data.training, words);
    pairs.sort((x, y) => this.compare(x, y));
    this.body.replaceChildren(...pairs.slice(0, this.shown).map(trainingRow));
    this.more.hidden = pairs.length <= this.shown;
    this.filters.count.textContent = `${pairs.length} of ${data.training.length} pairs`;
    COLUMNS.forEach(([, field], k) => {
      this.heads[k].removeAttribute("aria-sort");
      if (field !== this.sortedBy) return;
      this.heads[k].setAttribute("aria-sort", this.descending ? "descending" : "ascending");
    });
  }
}

function trainingRow(pair) {
  const name = button(pair.id, "", null);
  name.setAttribute("aria-expanded", "false");
  const cells = COLUMNS.slice(1).map(([, field, isText]) => {
    const value = field === "weight" ? pair.weight.toFixed(2) : String(pair[field] ?? "");
    return element("td", {class: isText ? "left" : null}, value);
  });
  const fields = cells[3];
  fields.classList.add("fields");
  fields.title = pair.fields;
  if (pair.s !== null) {
    const s = cells[cells.length - 1];
    s.textContent = signed(pair.s);
    s.classList.add(upOrDown(pair.s));
  }
  const row = element("tr", {class: "pair"}, element("td", {class: "left id"}, name), ...cells);
  row.addEventListener("click", () => {
    const isOpen = name.getAttribute("aria-expanded") === "true";
    name.setAttribute("aria-expanded", String(!isOpen));
    if (isOpen) {
      row.nextSibling.remove();
    } else {
      const cell = element("td", {colspan: COLUMNS.length}, element("div", {}, ...why(pair)));
      row.after(element("tr", {class: "why"}, cell));
    }
  });
  return row;
}

const signed = (s) => `${s < 0 ? "−" : "+"}${Math.abs(s).toFixed(2)}`;
const upOrDown = (s) => (s < 0 ? "down" : "up");
const short = (number) => String(Math.round(number * 1000) / 1000);

// Why a pair counts: what it is, its candidates, and the visits that moved its weight most.
function why(pair) {
  if (!pair.moved) {
    const words = "This page has no room for the texts of this pair; they are in explained.jsonl.";
    return [element("p", {class: "facts"}, words)];
  }
  const nodes = [element("p", {class: "facts"}, pair.facts), ...problemAndCandidates(pair)];
  if (!pair.moved.length) {
    const never = "It was never drawn. ";
    const silent = "No visit of its own has moved its weight: it was not drawn since weights are "
      + "learned, or all of its judgments earned the same. ";
    const words = (pair.visits ? silent : never) + "What weight it has comes from its kind.";
    nodes.push(element("p", {class: "why-line"}, words));
  }
  for (const visit of pair.moved) {
    const s = `s ${signed(visit.s)}, ${visit.s > 0 ? "more of this" : "less of this"}. `;
    nodes.push(element("p", {class: "why-line"},
      `Step ${visit.step}: `,
      element("b", {class: upOrDown(visit.s)}, s),
      visit.right === pair.right ? "" : "A and B stood the other way round. ",
      `Its judgments earned ${visit.rewards.map(short).join(", ")}. `,
      "A step on them makes the left one more likely and the right one less:"));
    nodes.push(element("div", {class: "two"},
      box([`earned ${short(visit.best.reward)}`], visit.best.text, "is-right"),
      box([`earned ${short(visit.worst.reward)}`], visit.worst.text, "is-wrong")));
  }
  return nodes;
}

// ---------------------------------------------------------------- judged pairs

const BEFORE = "before training";
const AFTER = "after training";

class Browser {
  constructor(section) {
    for (const pair of data.judged) {
      pair[BEFORE] = pair.before.verdict === pair.right ? "right" : "wrong";
      pair[AFTER] = pair.after.verdict === pair.right ? "right" : "wrong";
    }
    this.section = section;
    this.filters = new Filters(data.judged, ["domain", "difficulty", "policy", BEFORE, AFTER],
      () => this.filter());
    this.list = element("div", {class: "list", role: "group", "aria-label": "judged pairs"});
    this.title = element("span", {class: "title"});
    this.previous = button("previous", "plain", () => this.goTo(this.current - 1));
    this.next = button("next", "plain", () => this.goTo(this.current + 1));
    this.texts = element("div");
    if (data.judged.length < data.judgedInAll) {
      section.append(element("p", {}, `Of ${data.judgedInAll} judgments ${data.judged.length} are `
        + "here, evenly spaced; all are in transcripts.jsonl."));
    }
    const steps = element("div", {class: "steps"}, this.title, this.previous, this.next);
    this.detail = element("div", {class: "detail"}, steps, this.texts);
    this.nothing = element("p", {}, "No judgment is like that.");
    const browser = element("div", {class: "browser"}, this.list, this.detail, this.nothing);
    section.append(this.filters.node, browser);
    this.list.addEventListener("scroll", () => {
      const below = this.list.scrollHeight - this.list.scrollTop - this.list.clientHeight;
      if (below < 200) this.makeItems(this.list.children.length + LIST_ITEMS);
    });
    this.filter();
  }

  filter() {
    const words = (pair) => `${pair.id} ${pair.before.text} ${pair.after.text}`;
    this.pairs = this.filters.of(data.judged, words);
    this.filters.count.textContent = `${this.pairs.length} of ${data.judged.length} judgments`;
    this.list.scrollTop = 0;
    this.list.replaceChildren();
    this.list.hidden = this.detail.hidden = !this.pairs.length;
    this.nothing.hidden = this.pairs.length > 0;
    if (this.pairs.length) this.goTo(0);
  }

  // Items are made as far as they are looked at.
  makeItems(n) {
    const made = this.list.children.length;
    const more = this.pairs.slice(made, n).map((pair, k) => this.item(pair, made + k));
    this.list.append(...more);
  }

  goTo(k) {
    this.makeItems(k + LIST_ITEMS);
    this.list.querySelector("[aria-current]")?.removeAttribute("aria-current");
    const item = this.list.children[k];
    item.setAttribute("aria-current", "true");
    // The list alone scrolls, not the page.
    const below = item.offsetTop + item.offsetHeight - this.list.clientHeight;
    this.list.scrollTop = Math.max(below, Math.min(this.list.scrollTop, item.offsetTop));
    this.current = k;
    this.previous.disabled = k === 0;
    this.next.disabled = k === this.pairs.length - 1;
    const pair = this.pairs[k];
    this.title.replaceChildren(element("b", {}, pair.id), ` ${pair.weight_domain}`);
    this.texts.replaceChildren(...problemAndCandidates(pair), element("div", {class: "two"},
      judgment(BEFORE, data.steps[0], pair.before, pair[BEFORE]),
      judgment(AFTER, data.steps[1], pair.after, pair[AFTER])));
  }

  item(pair, k) {
    const marks = element("span", {class: "marks"}, mark(pair[BEFORE]), " → ", mark(pair[AFTER]));
    const below = element("small", {}, element("span", {}, pair.weight_domain), marks);
    const node = button(pair.id, "item", () => this.goTo(k));
    node.append(below);
    return node;
  }

  // Show the judgments that "stayed" or "turned" "right" or "wrong".
  showTurn(how, after) {
    const opposite = {right: "wrong", wrong: "right"};
    const before = how === "stayed" ? after : opposite[after];
    for (const [field, value] of [[BEFORE, before], [AFTER, after]]) {
      if (this.filters.choices[field]) this.filters.choices[field].value = value;
    }
    this.filter();
    this.section.scrollIntoView();
  }
}

function mark(outcome) {
  const sign = {right: "✓", wrong: "✗"}[outcome];
  return element("span", {class: `mark-${outcome}`, role: "img", "aria-label": outcome}, sign);
}

function judgment(when, step, said, outcome) {
  const verdict = said.verdict === null ? "no verdict" : `says ${said.verdict}`;
  const title = [when, `step ${step}`, `${verdict}: ${outcome}`, `${said.tokens} tokens`];
  return box(title, said.text, `is-${outcome}`);
}

// ---------------------------------------------------------------- the page

new TrainingTable(document.getElementById("training"));
const browser = new Browser(document.getElementById("judged"));
for (const part of document.querySelectorAll("[data-turn]")) {
  part.addEventListener("click", () => browser.showTurn(...part.dataset.turn.split(" ")));
}
