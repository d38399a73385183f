"use strict";

const PAGE = 60;
const find = (id) => document.getElementById(id);
const form = find("wish").elements;
const KINDS = { all: "all samples", original: "real ones", synthetic: "imagined ones", kept: "those kept",
  rejected: "those rejected", failed: "those that failed their check" };
const SCORES = { order: "their order", consistency_after: "latents' consistency", entropy_after: "latents' entropy",
  diversity_after: "latents' diversity",
  picture_consistency: "probability of the label, of the image", picture_entropy: "entropy of the image" };

let about;            // what the set is
let rows = [];        // samples that are shown, in order
let total = 0;        // samples, or seeds, that there are
let loaded = 0;       // of these, loaded
let round = 0;        // which wish the rows answer: an answer to an older one is dropped
let busy = false;
let looked = -1;        // place in rows of the sample that is looked at
const done = [];      // what can be undone

async function ask(path, body) {
  const sent = body && { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  const response = await fetch(path, sent);
  const value = response.headers.get("Content-Type").startsWith("application/json") ? await response.json() : {};
  if (!response.ok) throw new Error(value.error || `${response.status} ${response.statusText}`);
  return value;
}

function element(name, properties = {}, children = []) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

function fill(select, pairs) {
  select.replaceChildren(...pairs.map(([value, text]) => element("option", { value, textContent: text })));
}

const split = () => about.splits[form.split.value];
const className = (sample) => split().classes[sample.label].name;
const address = (sample) => `picture/${encodeURIComponent(sample.split)}/${sample.number}`;

const named = (sample) => sample.copy ? `copy ${sample.copy} of ${sample.origin}` : sample.origin;

function fillClasses() {
  const { classes, scores } = split();
  fill(form.label, [["", "all classes"], ...classes.map((c, i) => [i, `${c.name} (${c.original} + ${c.synthetic})`])]);
  fill(form.sort, [about.order, ...scores].map((name) => [name, SCORES[name] || name]));
}

function caption(sample) {
  const score = sample.scores[form.sort.value];
  const first = score !== undefined && sample.copy ? `${score.toFixed(3)} ` : "";
  return `${first}${className(sample)}\n${named(sample)}`;
}

function mark(figure, sample) {
  const kinds = { rejected: sample.rejected, real: !sample.synthetic, failed: !sample.passed };
  for (const [name, on] of Object.entries(kinds)) figure.classList.toggle(name, on);
  if (figure.role === "button") figure.ariaPressed = String(sample.rejected);
}

function draw(sample, place) {
  const image = element("img", { src: address(sample), alt: className(sample), loading: "lazy" });
  const look = element("button", { className: "look", textContent: "⤢", title: "compare with its seed (Enter)" });
  const figure = element("figure", { tabIndex: 0, title: `${sample.key}: ${className(sample)}, ${named(sample)}` },
    [image, look, element("figcaption", { textContent: caption(sample) })]);
  figure.role = "button";
  figure.addEventListener("click", (event) => (event.target === look ? show(place) : turn([sample])));
  figure.addEventListener("keydown", (event) => {
    if (event.target !== figure) return;
    if (event.key === "Enter") show(place);
    else if (event.key === " " || event.key === "x") turn([sample]);
    else return;
    event.preventDefault();
  });
  sample.figure = figure;
  mark(figure, sample);
  return figure;
}

function tell() {
  const what = form.together.checked ? "seeds" : "samples";
  find("total").textContent = `${total} ${what}.`;
  find("rejected").textContent = about.rejected ? `${about.rejected} rejected.` : "";
  find("undo").hidden = !done.length;
  find("end").textContent = loaded < total ? "…" : total ? "" : "Nothing here.";
}

async function more() {
  if (busy || loaded >= total && loaded) return;
  busy = true;
  const mine = round;
  try {
    const { kind, label, sort, falling, together } = form;
    const query = new URLSearchParams({ split: form.split.value, kind: kind.value, label: label.value, sort: sort.value,
      start: loaded, count: PAGE, ...(falling.checked && { falling: 1 }) });
    const page = await ask(`${together.checked ? "seeds" : "samples"}?${query}`);
    if (mine !== round) return;
    total = page.total;
    loaded += page.rows.length;
    for (const part of page.rows) {
      const samples = (together.checked ? part : [part]).map((sample) => ({ ...sample, split: form.split.value }));
      const figures = samples.map((sample) => draw(sample, rows.push(sample) - 1));
      find("samples").append(...(together.checked ? [element("div", { className: "family" }, figures)] : figures));
    }
    tell();
  } catch (error) {
    find("end").textContent = `${error.message}. Is gif-datasets browse still running?`;
  } finally {
    if (mine === round) busy = false;
  }
  if (mine === round && loaded < total && find("end").getBoundingClientRect().top < 2 * innerHeight) more();
}

function again() {
  [rows, total, loaded, busy] = [[], 0, 0, false];
  round += 1;
  find("samples").replaceChildren();
  scrollTo(0, 0);
  more();
}

async function turn(samples, rejected = !samples[0].rejected, undoing = false) {
  try {
    const keys = samples.map((sample) => sample.key);
    about.rejected = (await ask("reject", { split: samples[0].split, keys, rejected })).rejected;
  } catch (error) {
    find("rejected").textContent = `Not written: ${error.message}`;
    return;
  }
  if (!undoing) done.push([samples, !rejected]);
  for (const sample of samples) sample.rejected = rejected;
  for (const sample of rows) if (sample.figure) mark(sample.figure, sample);
  tell();
  if (find("closer").open) show(looked);
}

async function undo() {
  if (done.length) await turn(...done.pop(), true);
}

async function show(place) {
  const sample = rows[place];
  if (!sample) return;
  looked = place;
  const query = new URLSearchParams({ split: sample.split, seed: sample.seed });
  const seed = (await ask(`family?${query}`)).rows.find((other) => !other.copy);
  if (seed) seed.split = sample.split;
  const picture = (shown, text) => [element("img", { src: address(shown), alt: text }), element("figcaption", { textContent: text })];
  find("seed").replaceChildren(...(seed ? picture(seed, `seed: ${className(seed)}, ${named(seed)}`) : [element("figcaption", { textContent: "The seed is not stored here." })]));
  find("one").replaceChildren(...picture(sample, `${className(sample)}: ${named(sample)} (${sample.key})`));
  mark(find("one"), sample);
  const scores = Object.entries(sample.copy ? sample.scores : {}).map(([name, value]) =>
    element("tr", {}, [element("th", { textContent: SCORES[name] || name }), element("td", { textContent: value.toFixed(4) })]));
  find("scores").replaceChildren(...scores);
  find("verdict").textContent = sample.rejected ? "Take back (x)" : "Reject (x)";
  if (!find("closer").open) find("closer").showModal();
}

find("verdict").addEventListener("click", () => turn([rows[looked]]));
find("close").addEventListener("click", () => find("closer").close());
find("closer").addEventListener("close", () => rows[looked] && rows[looked].figure.focus());
for (const button of document.querySelectorAll("[data-step]")) {
  button.addEventListener("click", () => show(looked + Number(button.dataset.step)));
}
find("undo").addEventListener("click", undo);
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("select, input")) return;
  if (event.key === "z") undo();
  if (!find("closer").open) return;
  if (event.key === "x") turn([rows[looked]]);
  if (event.key === "ArrowLeft") show(looked - 1);
  if (event.key === "ArrowRight") show(looked + 1);
});
find("wish").addEventListener("submit", (event) => event.preventDefault());
find("wish").addEventListener("change", (event) => {
  if (event.target === form.split) fillClasses();
  if (event.target !== form.size) again();
});
form.size.addEventListener("input", () => {
  document.documentElement.style.setProperty("--size", `${form.size.value}px`);
  more();
});
new IntersectionObserver((seen) => seen[0].isIntersecting && more(), { rootMargin: "100%" }).observe(find("end"));

ask("set").then((answer) => {
  about = answer;
  document.title = answer.title;
  find("title").textContent = answer.title;
  fill(form.split, Object.keys(answer.splits).map((name) => [name, name]));
  find("splits").hidden = Object.keys(answer.splits).length < 2;
  fill(form.kind, answer.kinds.map((kind) => [kind, KINDS[kind] || kind]));
  if (split().classes.some((c) => c.synthetic)) form.kind.value = "synthetic";
  fillClasses();
  again();
}).catch((error) => { find("end").textContent = error.message; });
