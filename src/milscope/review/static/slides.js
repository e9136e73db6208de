/** The list of slides, most suspicious first, and what is told of the open one. */

import { warn } from "./judge.js";
import { memory, on, openSlide, state, tell } from "./state.js";
import { find, grouped, labelled, make, probability, sign } from "./words.js";

const list = find("list"), search = find("find"), part = find("part"), label = find("label"), begun = find("begun");
const items = new Map(); // index → { element, slide, … }
let drawn = ""; // the task and the order of slides that the list shows

export function startSlides() {
  find("filters").addEventListener("submit", (event) => event.preventDefault());
  for (const control of [search, part, label, begun]) control.addEventListener("input", filter);
  find("blind").checked = state.blind = memory.get("blind") === "yes";
  find("blind").addEventListener("change", () => blind(find("blind").checked));
  blind(state.blind);
  list.addEventListener("click", (event) => {
    const item = event.target.closest("button");
    if (item) go(Number(item.dataset.index));
  });
  list.addEventListener("keydown", walk);
  on("run", draw);
  on("counts", (index) => count(index));
  on("slide", current);
  on("slide verdict verdicts run blind", about);
}

/** Opens a slide; what fails is said in the red bar. */
export async function go(index, row = null) {
  close();
  try {
    await openSlide(index, row);
  } catch (trouble) {
    warn("This slide cannot be opened.", trouble, () => go(index, row));
  }
}

/** The slide so many places further in the list as it is filtered. */
export function neighbour(by) {
  const shown = visible();
  const here = shown.findIndex((item) => item.slide.index === state.slide?.index);
  const next = shown[here < 0 ? 0 : here + by];
  if (next) go(next.slide.index);
}

export function drawer(open) {
  document.body.classList.toggle("listing", open);
  find("drawer").setAttribute("aria-expanded", String(open));
}

const close = () => drawer(false);
const visible = () => [...items.values()].filter((item) => !item.line.hidden);

function draw() {
  const { slides } = state.run;
  const order = [state.task, ...slides.map((slide) => slide.index)].join();
  if (order !== drawn) build(slides);
  drawn = order;
  for (const slide of slides) {
    items.get(slide.index).slide = slide;
    count(slide.index, false);
  }
  overall();
  filter();
  current();
}

function build(slides) {
  items.clear();
  list.replaceChildren(...slides.map((slide, at) => item(slide, at)));
  choices(part, [...new Set(slides.map((slide) => slide.split).filter(Boolean))].map((name) => [name, name]));
  const labels = [...new Set(slides.map((slide) => slide.label ?? ""))].sort().reverse();
  choices(label, labels.map((value) => [String(value), labelled(value === "" ? null : value)]));
}

function choices(select, options) {
  const before = select.value;
  select.replaceChildren(make("option", { text: "all", value: "" }),
    ...options.map(([value, text]) => make("option", { text, value: value === "" ? "none" : value })));
  select.value = [...select.options].some((option) => option.value === before) ? before : "";
}

function item(slide, at) {
  const done = make("span", { name: "done" });
  const judged = make("span", { name: "judged" });
  const name = make("span", { name: "name", text: slide.slide });
  const truth = make("span", { name: "chip truth", text: labelled(slide.label), "data-label": slide.label ?? "none" });
  const bar = make("span", { name: "probability truth" }, ...probability(slide.probability, slide.called));
  const element = make("button", { type: "button", "data-index": slide.index, tabindex: "-1" },
    make("span", { name: "line" }, make("span", { name: "place", text: at + 1 }), name, truth),
    make("span", { name: "line" }, bar, make("span", { name: "split", text: slide.split }), judged, done));
  const line = make("li", {}, element);
  items.set(slide.index, { line, element, slide, judged, done, words: `${slide.slide} ${slide.patient}`.toLowerCase() });
  return line;
}

function count(index, sum = true) {
  const item = items.get(index);
  if (!item) return;
  const { judged, cells, abnormal } = item.slide;
  item.judged.textContent = judged ? `${grouped(judged)} / ${grouped(cells)}` : "";
  item.judged.title = judged ? `${judged} of ${cells} cells judged, ${abnormal} of them abnormal` : "";
  item.element.classList.toggle("begun", judged > 0);
  const whole = cells > 0 && judged >= cells;
  if (whole !== Boolean(item.done.firstChild)) item.done.replaceChildren(...(whole ? [sign("done")] : []));
  item.done.title = whole ? "every ranked cell is judged" : "";
  if (sum) overall();
}

function overall() {
  const { slides } = state.run;
  const sum = (name) => slides.reduce((total, slide) => total + slide[name], 0);
  const judged = sum("judged"), cells = sum("cells"), left = state.run.elsewhere ?? 0;
  find("overall").replaceChildren(make("b", { text: grouped(judged) }), ` of ${grouped(cells)} judged`,
    ...(judged ? [make("span", { name: "more", text: ` · ${grouped(sum("abnormal"))} abnormal` })] : []));
  find("overall").title = left ? `${left} more verdicts are on cells that are no longer ranked` : "";
  find("overall-fill").style.width = `${cells ? (100 * judged) / cells : 0}%`;
}

function filter() {
  const words = search.value.trim().toLowerCase();
  let shown = 0;
  for (const { line, slide, words: own } of items.values()) {
    const keeps = own.includes(words) && (!part.value || slide.split === part.value) &&
      (!label.value || String(slide.label ?? "none") === label.value) && (!begun.checked || !slide.judged);
    line.hidden = !keeps;
    shown += keeps;
  }
  find("shown").textContent = shown === items.size ? `${grouped(shown)} slides` : `${grouped(shown)} of ${grouped(items.size)} slides`;
  stop();
}

/** One slide of the list can be reached by Tab: the open one, or the first that is shown. */
function stop() {
  const shown = visible();
  const own = shown.find((item) => item.slide.index === state.slide?.index) ?? shown[0];
  for (const item of items.values()) item.element.tabIndex = item === own ? 0 : -1;
}

function walk(event) {
  const by = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (!by) return;
  event.preventDefault();
  event.stopPropagation();
  const shown = visible();
  const here = shown.findIndex((item) => item.element === document.activeElement);
  shown[here + by]?.element.focus();
}

function current() {
  for (const { element, slide } of items.values()) {
    const own = slide.index === state.slide?.index;
    if (own) element.setAttribute("aria-current", "true");
    else element.removeAttribute("aria-current");
    if (own) element.scrollIntoView({ block: "nearest" });
  }
  stop();
}

function blind(yes) {
  state.blind = yes;
  memory.set("blind", yes ? "yes" : "");
  document.body.classList.toggle("blind", yes);
  tell("blind");
}

/** The heading of the open slide. */
function about() {
  if (!state.slide) return;
  const { entry, cells } = state.slide;
  find("slide-name").textContent = entry.slide;
  find("slide-probability").replaceChildren(...probability(entry.probability ?? null, entry.called));
  const judged = cells.verdict.filter(Boolean).length, abnormal = cells.verdict.filter((each) => each === "abnormal").length;
  const facts = [entry.split, entry.patient !== entry.slide ? entry.patient : "", `${grouped(cells.rank.length)} cells`,
    judged ? `${grouped(judged)} judged${abnormal ? `, ${grouped(abnormal)} abnormal` : ""}` : ""];
  find("slide-facts").replaceChildren(
    make("span", { name: "chip truth", text: labelled(entry.label), "data-label": entry.label ?? "none" }),
    make("span", { text: facts.filter(Boolean).join(" · ") }));
}
