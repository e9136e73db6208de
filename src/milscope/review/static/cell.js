/** The focused cell, large: its crop, what lies around it, its verdict and its facts. */

import { judge } from "./judge.js";
import { paths } from "./server.js";
import { nextOpen, on, state, tell } from "./state.js";
import { drawScale, find, grouped, labelled, make, score, sign, VERDICTS } from "./words.js";

const FACTORS = [2, 4, 8, 16];
const CALM = 70; // milliseconds on a cell until its surroundings are asked for: not while one runs past
const buttons = new Map();
let waiting = 0;

export function startCell() {
  for (const { name, key } of VERDICTS) {
    const button = make("button", { type: "button", "aria-pressed": "false", "aria-keyshortcuts": key, "data-verdict": name },
      sign(name), make("span", { text: name }), make("kbd", { text: key.toUpperCase() }));
    button.addEventListener("click", () => judge(name));
    buttons.set(name, button);
    find("verdicts").append(button);
  }
  for (const factor of FACTORS) {
    const button = make("button", { type: "button", text: `${factor}×`, "aria-pressed": "false", "data-factor": factor });
    button.addEventListener("click", () => widen(factor));
    find("factors").append(button);
  }
  find("surroundings").addEventListener("click", () => tell("locate"));
  for (const id of ["crop-image", "context-image"]) {
    find(id).addEventListener("load", () => find(id).classList.add("here"));
    find(id).addEventListener("error", () => find(id).classList.remove("here"));
  }
  new ResizeObserver(scales).observe(find("crop"));
  on("focus slide", draw);
  on("verdict verdicts sending run", standing);
}

/** How many sides of the cell its surroundings reach; without a factor the next one. */
export function widen(factor = FACTORS[(FACTORS.indexOf(state.factor) + 1) % FACTORS.length]) {
  state.factor = factor;
  surround(0);
}

function draw() {
  const row = state.focus;
  find("cell").hidden = !state.slide || row < 0;
  if (!state.slide || row < 0) return;
  const { cells, index } = state.slide;
  find("cell-name").textContent = `Cell ${grouped(row + 1)}`;
  find("cell-score").textContent = `score ${score(cells.score[row])}`;
  show("crop-image", paths.crop(index, row + 1, state.task));
  find("meaning").hidden = labelled(1) === "abnormal";
  find("meaning").textContent = `Abnormal means: ${labelled(1)}.`;
  facts(row);
  surround(CALM);
  scales();
  standing();
}

function show(id, source) {
  const image = find(id);
  if (image.getAttribute("src") === source) return;
  image.classList.remove("here");
  image.src = source;
}

const placed = (row) => Number.isFinite(state.slide?.cells.x[row] ?? NaN);

function surround(delay) {
  const { slide, focus: row, factor } = state;
  if (!slide || row < 0) return;
  for (const button of find("factors").children) button.setAttribute("aria-pressed", String(Number(button.dataset.factor) === factor));
  const possible = slide.image && placed(row);
  find("around").hidden = !possible;
  find("missing").hidden = possible;
  find("missing").textContent = slide.missing || (possible ? "" : "This cell has no place on a slide.");
  clearTimeout(waiting);
  if (!possible) return;
  find("context-image").classList.remove("here");
  waiting = setTimeout(() => {
    if (state.slide !== slide) return; // another task is being read
    show("context-image", paths.context(slide.index, row + 1, state.task, factor));
    if (find("context-image").complete) find("context-image").classList.add("here");
    box();
    scales();
    const next = nextOpen(row);
    if (next >= 0 && placed(next)) new Image().src = paths.context(slide.index, next + 1, state.task, factor);
  }, delay);
}

/** The outline of the cell within its surroundings. */
function box() {
  const { cells } = state.slide;
  const width = cells.width[state.focus], height = cells.height[state.focus], side = state.factor * Math.max(width, height);
  find("context-box").style.width = `${(100 * width) / side}%`;
  find("context-box").style.height = `${(100 * height) / side}%`;
}

function scales() {
  if (!state.slide || state.focus < 0) return;
  const { cells, mpp } = state.slide;
  const width = cells.width[state.focus], height = cells.height[state.focus], longer = Math.max(width, height);
  const shown = find("crop").clientWidth;
  drawScale(find("crop").querySelector(".scale"), mpp && longer ? (mpp * longer) / shown : NaN, shown * 0.33);
  const around = find("surroundings").clientWidth;
  drawScale(find("surroundings").querySelector(".scale"), mpp && longer ? (mpp * longer * state.factor) / around : NaN, around * 0.33);
}

function facts(row) {
  const { cells, mpp, entry } = state.slide;
  const lines = [["Rank", `${grouped(row + 1)} of ${grouped(cells.rank.length)}`]];
  if (placed(row)) {
    lines.push(["Place", `${grouped(Math.round(cells.x[row]))}, ${grouped(Math.round(cells.y[row]))} px`]);
    if (mpp && cells.width[row]) lines.push(["Side", `${(cells.width[row] * mpp).toFixed(0)} µm`]);
  }
  lines.push(["Name", cells.name[row]], ["Patient", entry.patient ?? "–"]);
  find("facts").replaceChildren(...lines.map(([term, value]) => make("div", {}, make("dt", { text: term }), make("dd", { text: value }))));
}

function standing() {
  if (!state.slide || state.focus < 0) return;
  const { cells } = state.slide, row = state.focus;
  const verdict = cells.verdict[row], sending = state.sending === row;
  for (const [name, button] of buttons) button.setAttribute("aria-pressed", String(name === verdict));
  find("verdicts").classList.toggle("sending", sending);
  find("standing").textContent = sending ? "Being kept …" : verdict ? `Kept: ${verdict}` : "Not judged yet";
  find("undo").disabled = !state.run?.slides.some((slide) => slide.judged);
  const others = verdict ? Object.entries(cells.others[row] ?? {}) : [];
  find("others").hidden = !others.length;
  find("others").replaceChildren(...others.map(([name, said]) =>
    make("span", { name: "other", "data-verdict": said }, sign(said), make("b", { text: name }), ` ${said}`)));
}
