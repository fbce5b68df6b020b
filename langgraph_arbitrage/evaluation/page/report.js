"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const at = (id) => document.getElementById(id);

// Creates an element with a class and a text. The text is never parsed as HTML.
function make(tag, name, text) {
  const element = document.createElement(tag);
  if (name) element.className = name;
  if (text !== undefined) element.textContent = text;
  return element;
}

// --- sortable tables -------------------------------------------------------------------------

for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const sort = () => {
      const up = head.getAttribute("aria-sort") === "descending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const key = (row) => row.cells[column].dataset.v ?? row.cells[column].textContent;
      const rows = [...table.tBodies[0].rows].sort((a, b) => {
        const [x, y] = [key(a), key(b)];
        const order = isNaN(x) || isNaN(y) ? x.localeCompare(y) : x - y;
        return up ? order : -order;
      });
      table.tBodies[0].append(...rows);
    };
    head.tabIndex = 0;
    head.addEventListener("click", sort);
    head.addEventListener("keydown", (event) => event.key === "Enter" && sort());
  });
}

// --- answer viewer ---------------------------------------------------------------------------

const [RIGHT, SECONDS, FINISH, STEPS] = [0, 1, 2, 3];
const [WRITER, TEXT, SCORE, S_D, S_T, DRAFT, TOKENS, MS] = [0, 1, 2, 3, 4, 5, 6, 7];
let chosen = 0;

const wasted = (step) => step[WRITER] && step[S_D] !== null && step[S_T] !== null && step[S_T] <= step[S_D];

const filters = {
  all: () => true,
  differ: (one, two) => one && two && one[RIGHT] !== two[RIGHT],
  right: (one) => one && one[RIGHT],
  wrong: (one) => one && !one[RIGHT],
  escalated: (one) => one && one[STEPS].some((step) => step[WRITER]),
  wasted: (one) => one && one[STEPS].some(wasted),
};

function shown() {
  const [one, two] = [at("one").value, at("two").value];
  const words = at("find").value.toLowerCase().split(/\s+/).filter(Boolean);
  const keep = filters[at("show").value];
  return data.questions.filter((question) => {
    const text = question.q.toLowerCase();
    return keep(question.answers[one], question.answers[two]) && words.every((word) => text.includes(word));
  });
}

function sign(answer) {
  if (!answer) return make("span", "dim", "–");
  return make("span", answer[RIGHT] ? "ok" : "no", answer[RIGHT] ? "✓" : "✗");
}

function list() {
  const questions = shown();
  chosen = Math.max(0, Math.min(chosen, questions.length - 1));
  const two = at("two").value;
  at("list").replaceChildren(
    ...questions.map((question, i) => {
      const item = make("li");
      item.setAttribute("role", "option");
      item.setAttribute("aria-selected", i === chosen);
      item.append(make("span", "dim", question.n), sign(question.answers[at("one").value]));
      if (two !== "") item.append(sign(question.answers[two]));
      item.append(make("span", "t", question.q));
      item.addEventListener("click", () => select(i));
      return item;
    })
  );
  at("count").textContent = `${questions.length} of ${data.questions.length}`;
  trace(questions[chosen]);
}

function select(i) {
  chosen = i;
  list();
  const item = at("list").children[chosen];
  if (item) item.scrollIntoView({ block: "nearest" });
}

function trace(question) {
  const box = at("trace");
  if (!question) return box.replaceChildren(make("p", "dim", "No question matches the filters."));
  const ref = make("p", "ref");
  ref.append(make("span", "dim", "reference: "), make("b", "", question.ref));
  if (!question.learned) ref.append(make("span", "dim", " · contains a kind of step that the models were not trained on"));
  const sides = make("div", "sides");
  for (const id of ["one", "two"]) if (at(id).value !== "") sides.append(side(question, at(id).value));
  box.replaceChildren(make("div", "question", question.q), ref, sides);
}

function side(question, point) {
  const element = make("section", "side");
  const answer = question.answers[point];
  const head = make("header");
  head.append(make("b", "", data.points[point].title), " ", sign(answer));
  element.append(head);
  if (!answer) return element;
  const escalated = answer[STEPS].filter((step) => step[WRITER]).length;
  const parts = [`${answer[STEPS].length} steps`];
  if (data.points[point].kind !== "assisted") parts.push(`${escalated} by the target`);
  if (answer[SECONDS] !== null) parts.push(`${(1e3 * answer[SECONDS]).toFixed(0)} ms`);
  if (answer[FINISH] !== "stop") parts.push(`finish reason: ${answer[FINISH]}`);
  head.append(make("br"), make("span", "", parts.join(" · ")));
  element.append(...answer[STEPS].map((step, i) => card(step, i, question.texts, data.points[point].kind)));
  return element;
}

const number = (value, digits) => (value === null ? "" : value.toFixed(digits));

function card(step, i, texts, kind) {
  const writer = step[WRITER] ? "target" : "draft";
  const element = make("div", `step ${writer}`);
  const nums = [];
  if (step[SCORE] !== null) nums.push(`score ${number(step[SCORE], 2)}`);
  if (step[S_D] !== null) nums.push(`s_d ${number(step[S_D], 2)}`);
  if (step[S_T] !== null) nums.push(`s_t ${number(step[S_T], 2)}`);
  nums.push(`${step[TOKENS]} tokens`);
  if (step[MS]) nums.push(`${step[MS]} ms`);
  const head = make("div");
  const label = kind === "assisted" ? "target with draft tokens" : writer;
  head.append(make("span", "who", `${i + 1} ${label} `), make("span", "nums", nums.join(" · ")));
  if (wasted(step)) head.append(" ", make("span", "tag", "wasted"));
  element.append(head);
  if (step[DRAFT] !== null) {
    if (step[DRAFT] === step[TEXT]) element.append(make("span", "same", "identical to the draft's step"));
    else element.append(make("del", "", texts[step[DRAFT]]));
  }
  element.append(make("p", "", texts[step[TEXT]]));
  return element;
}

function option(value, text) {
  const element = make("option", "", text);
  element.value = value;
  return element;
}

if (data.questions.length) {
  at("two").append(option("", "none"));
  data.points.forEach((point, i) => {
    at("one").append(option(i, point.title));
    at("two").append(option(i, point.title));
  });
  at("one").value = Math.max(0, data.points.findIndex((point) => point.key === data.one));
  const two = data.points.findIndex((point) => point.key === data.two);
  at("two").value = two < 0 ? "" : two;
  for (const id of ["one", "two", "show"]) at(id).addEventListener("change", list);
  at("find").addEventListener("input", list);
  document.querySelector(".filters").addEventListener("submit", (event) => event.preventDefault());
  at("list").addEventListener("keydown", (event) => {
    const move = { ArrowDown: 1, j: 1, ArrowUp: -1, k: -1 }[event.key];
    if (!move) return;
    event.preventDefault();
    select(chosen + move);
  });
  at("reader").hidden = false;
  list();
}
