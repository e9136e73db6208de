/** What lies around a crop, shown beside it while the mouse rests there. */

import { rowOf } from "./grid.js";
import { paths } from "./server.js";
import { on, state } from "./state.js";
import { find, grouped } from "./words.js";

const REST = 450; // milliseconds
const SIDE = 260, GAP = 10; // pixels, as in the style sheet
let waiting = 0, over = null;

export function startPeek() {
  const grid = find("grid"), image = find("peek").querySelector("img");
  grid.addEventListener("pointerover", (event) => {
    const tile = event.target.closest?.(".tile");
    if (tile === over || event.pointerType === "touch") return;
    hide();
    over = tile;
    if (tile) waiting = setTimeout(() => show(tile), REST);
  });
  grid.addEventListener("pointerleave", hide);
  grid.addEventListener("scroll", hide, { passive: true });
  grid.addEventListener("pointerdown", hide);
  image.addEventListener("load", () => {
    find("peek").hidden = !over;
  });
  on("focus slide view", hide);
}

function hide() {
  clearTimeout(waiting);
  over = null;
  find("peek").hidden = true;
}

function show(tile) {
  const row = rowOf(tile), { slide } = state;
  if (row < 0 || !slide?.image || !Number.isFinite(slide.cells.x[row] ?? NaN)) return;
  const box = tile.getBoundingClientRect();
  const peek = find("peek");
  const right = box.right + GAP + SIDE < innerWidth;
  peek.style.left = `${right ? box.right + GAP : Math.max(GAP, box.left - GAP - SIDE)}px`;
  peek.style.top = `${Math.max(GAP, Math.min(box.top - 20, innerHeight - SIDE - 50))}px`;
  peek.querySelector("figcaption").textContent = `Around cell ${grouped(row + 1)}`;
  const image = peek.querySelector("img"), source = paths.context(slide.index, row + 1, state.task, 4);
  if (image.getAttribute("src") === source) peek.hidden = false;
  else image.src = source;
}
