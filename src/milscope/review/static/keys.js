/** What the keys do, wherever the focus is, but for fields in which one writes. */

import { widen } from "./cell.js";
import { columns, resize, rows } from "./grid.js";
import { judge, undo } from "./judge.js";
import { neighbour } from "./slides.js";
import { state, step } from "./state.js";
import { find, VERDICTS } from "./words.js";
import { flipHeat, home, locate, toggle, zoom } from "./zoom.js";

const onSlide = () => state.view === "slide";
const across = () => (onSlide() ? 1 : columns());

const MOVES = {
  ArrowRight: () => step(1), ArrowLeft: () => step(-1), j: () => step(1), k: () => step(-1),
  ArrowDown: () => step(across()), ArrowUp: () => step(-across()),
  PageDown: () => step(across() * rows()), PageUp: () => step(-across() * rows()),
  Home: () => step(-Infinity), End: () => step(Infinity),
  "+": () => (onSlide() ? zoom(1.6) : resize(16)), "-": () => (onSlide() ? zoom(1 / 1.6) : resize(-16)),
};
MOVES["="] = MOVES["+"];

const ONCE = {
  ...Object.fromEntries(VERDICTS.map(({ name, key }) => [key, () => judge(name)])),
  z: undo, s: toggle, "]": () => neighbour(1), "[": () => neighbour(-1), h: () => onSlide() && flipHeat(),
  c: () => (onSlide() ? locate() : widen()), 0: () => (onSlide() ? home() : 0),
  "?": () => find("help-dialog").showModal(),
};

export function startKeys() {
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing || document.querySelector("dialog[open]")) return;
    if (writes(event.target, event.key)) return;
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    const act = MOVES[key] ?? (event.repeat ? null : ONCE[key]); // a key held down is one verdict, not fifty
    if (!act) return;
    event.preventDefault();
    act();
  });
}

function writes(element, key) {
  if (element.matches("select, textarea, [contenteditable]")) return true;
  if (!element.matches("input")) return false;
  if (element.type === "checkbox") return false;
  return element.type !== "range" || /^(Arrow|Page|Home|End)/.test(key);
}
