/** The grid of crops. Only those in sight are elements, so that 50,000 cells scroll like fifty. */

import { paths } from "./server.js";
import { focus, memory, on, position, state, tell } from "./state.js";
import { drawScale, find, grouped, make, score, sign } from "./words.js";

const GAP = 12, CAPTION = 22, EDGE = 20, AHEAD = 2; // pixels; rows kept ready above and below
const REST = 90; // milliseconds without movement after which crops are loaded that flew past

const grid = find("grid"), sheet = find("sheet"), size = find("size");
const tiles = new Map(); // position → tile
const spare = [];
const view = { width: 0, height: 0, columns: 1, side: 132, row: 1, top: 0 };
let drawing = 0, resting = 0, flying = false;

export function startGrid() {
  size.value = memory.get("size", "132");
  size.addEventListener("input", () => {
    memory.set("size", size.value);
    layout();
  });
  new ResizeObserver(([entry]) => {
    const { width, height } = entry.contentRect;
    if (!width || (width === view.width && height === view.height)) return;
    Object.assign(view, { width, height });
    layout();
  }).observe(grid);
  grid.addEventListener("scroll", () => ask(), { passive: true });
  grid.addEventListener("click", (event) => {
    const row = rowOf(event.target);
    if (row >= 0) focus(row);
  });
  grid.addEventListener("dblclick", (event) => {
    if (rowOf(event.target) >= 0) tell("locate");
  });
  on("slide order", () => {
    clear();
    layout();
  });
  on("focus", arrive);
  on("verdicts blind", () => tiles.forEach(dress));
  on("verdict sending", (row) => {
    const tile = tiles.get(position(row));
    if (tile) dress(tile);
  });
}

/** How many cells stand side by side, and how many rows fill the window. */
export const columns = () => view.columns;
export const rows = () => Math.max(1, Math.floor(view.height / view.row));

export function resize(by) {
  size.value = Number(size.value) + by;
  size.dispatchEvent(new Event("input"));
}

/** The row of the cell whose tile an element belongs to; -1 for none. */
export const rowOf = (element) => Number(element.closest?.(".tile")?.dataset.row ?? -1);

function layout() {
  if (!view.width || !state.slide) return;
  const inner = view.width - 2 * EDGE;
  const anchor = position(state.focus);
  view.columns = Math.max(1, Math.floor((inner + GAP) / (Number(size.value) + GAP)));
  view.side = Math.floor((inner - GAP * (view.columns - 1)) / view.columns);
  view.row = view.side + CAPTION + GAP;
  sheet.style.height = `${Math.ceil(state.order.length / view.columns) * view.row + EDGE}px`;
  grid.style.setProperty("--side", `${view.side}px`);
  tiles.forEach(place);
  scale();
  if (anchor >= 0) reveal(anchor);
  ask(true);
}

function scale() {
  const { cells, mpp } = state.slide;
  const first = cells.width[0];
  const uniform = first && cells.width.every((width) => width === first);
  drawScale(find("grid-scale"), uniform && mpp ? (first * mpp) / view.side : NaN, view.side * 0.8);
}

function ask(now = false) {
  if (now) flying = false;
  drawing ||= requestAnimationFrame(draw);
}

/** Puts tiles where they are in sight; reads the scroll position once, then only writes. */
function draw() {
  drawing = 0;
  if (!state.slide || !view.width || grid.hidden) return;
  const top = grid.scrollTop;
  flying = Math.abs(top - view.top) > view.height * 0.4;
  view.top = top;
  const first = Math.max(0, (Math.floor((top - EDGE) / view.row) - AHEAD) * view.columns);
  const last = Math.min(state.order.length, (Math.ceil((top + view.height) / view.row) + AHEAD) * view.columns);
  for (const [at, tile] of tiles) {
    if (at >= first && at < last) continue;
    tiles.delete(at);
    spare.push(tile);
  }
  for (let at = first; at < last; at++) if (!tiles.has(at)) fill(at);
  while (spare.length > 60) spare.pop().element.remove();
  for (const tile of spare) tile.element.hidden = true;
  clearTimeout(resting);
  resting = setTimeout(rest, flying ? REST : 0);
  point();
}

function rest() {
  flying = false;
  tiles.forEach(load);
}

function fill(at) {
  const tile = spare.pop() ?? blank();
  tile.at = at;
  tile.row = state.order[at];
  tile.element.hidden = false;
  tile.element.dataset.row = tile.row;
  tile.element.id = `cell-${tile.row + 1}`;
  tiles.set(at, tile);
  place(tile);
  dress(tile);
  if (!flying) load(tile);
  else tile.image.classList.remove("here");
}

function blank() {
  const image = make("img", { alt: "", decoding: "async", draggable: "false" });
  const badge = make("span", { name: "badge" });
  const rank = make("b"), value = make("span", { name: "truth" });
  const element = make("div", { name: "tile", role: "option" },
    make("span", { name: "frame" }, image, badge), make("span", { name: "caption" }, rank, value));
  const tile = { element, image, badge, rank, value, at: -1, row: -1, source: "" };
  image.addEventListener("load", () => image.classList.add("here"));
  image.addEventListener("error", () => {
    tile.source = "";
    element.classList.add("damaged");
  });
  sheet.append(element);
  return tile;
}

function load(tile) {
  if (!state.slide) return; // another task is being read
  const source = paths.crop(state.slide.index, tile.row + 1, state.task);
  if (tile.source === source) return tile.image.complete && tile.image.classList.add("here");
  tile.source = source;
  tile.image.classList.remove("here");
  tile.element.classList.remove("damaged");
  tile.image.src = source;
}

function place(tile) {
  const column = tile.at % view.columns, row = Math.floor(tile.at / view.columns);
  tile.element.style.transform = `translate(${EDGE + column * (view.side + GAP)}px, ${EDGE + row * view.row}px)`;
}

function dress(tile) {
  if (!state.slide) return;
  const { cells } = state.slide;
  const verdict = cells.verdict[tile.row];
  tile.rank.textContent = tile.row + 1;
  tile.value.textContent = score(cells.score[tile.row]);
  tile.element.dataset.verdict = verdict ?? "";
  tile.element.classList.toggle("sending", state.sending === tile.row);
  tile.element.setAttribute("aria-selected", String(tile.row === state.focus));
  tile.element.setAttribute("aria-posinset", tile.at + 1);
  tile.element.setAttribute("aria-setsize", state.order.length);
  const told = state.blind ? "" : `, score ${score(cells.score[tile.row])}`;
  tile.element.setAttribute("aria-label", `Cell ${grouped(tile.row + 1)}${told}, ${verdict ?? "not judged"}`);
  if (tile.badge.dataset.sign === (verdict ?? "")) return;
  tile.badge.dataset.sign = verdict ?? "";
  tile.badge.replaceChildren(...(verdict ? [sign(verdict)] : []));
}

function clear() {
  for (const tile of tiles.values()) spare.push(tile);
  tiles.clear();
  for (const tile of spare) {
    tile.source = "";
    tile.image.classList.remove("here");
    tile.image.removeAttribute("src");
  }
  grid.scrollTop = view.top = 0;
}

function arrive() {
  for (const tile of tiles.values()) tile.element.setAttribute("aria-selected", String(tile.row === state.focus));
  const at = position(state.focus);
  if (at >= 0 && view.width) reveal(at);
  ask();
}

/** Scrolls just so far that a cell is in sight. */
function reveal(at) {
  const top = EDGE + Math.floor(at / view.columns) * view.row;
  const now = grid.scrollTop;
  if (top < now + EDGE) grid.scrollTop = top - EDGE;
  else if (top + view.row > now + view.height) grid.scrollTop = top + view.row - view.height + EDGE;
}

/** Tells screen readers which cell is the focused one, while it is an element. */
function point() {
  const tile = tiles.get(position(state.focus));
  if (tile) grid.setAttribute("aria-activedescendant", tile.element.id);
  else grid.removeAttribute("aria-activedescendant");
}
