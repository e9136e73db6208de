/** What the page shows: the run, the open slide, the focused cell. Parts of the page listen for what changes. */

import { ask, paths } from "./server.js";

export const state = {
  run: null, // as /api/run gives it
  task: "",
  reviewer: "",
  slide: null, // as /api/slides gives it, with `entry`: its row in the list of slides
  order: [], // rows of the slide's cells that are shown, ascending
  only: "", // which cells are shown: "" all, "open" without verdict, or a verdict
  focus: -1, // row of the focused cell; its rank is one more
  sending: -1, // row of the cell whose verdict is on its way
  view: "cells", // or "slide"
  factor: 4,
  blind: false,
};

const listeners = new EventTarget();
export const on = (names, heard) => {
  for (const name of names.split(" ")) listeners.addEventListener(name, (event) => heard(event.detail));
};
export const tell = (name, detail) => listeners.dispatchEvent(new CustomEvent(name, { detail }));

/** What browsers remember of this page; nothing, where they may not. */
export const memory = {
  get(name, otherwise = "") {
    try {
      return localStorage.getItem(`milscope.${name}`) ?? otherwise;
    } catch {
      return otherwise;
    }
  },
  set(name, value) {
    try {
      localStorage.setItem(`milscope.${name}`, value);
    } catch {
      // a private window: the page works without
    }
  },
};

/** Reads the run again: slides, counts, where this reviewer stopped. */
export async function loadRun() {
  const run = await ask(paths.run(state.task, state.reviewer));
  state.run = run;
  state.task = run.task;
  if (state.slide) state.slide.entry = entry(state.slide.index) ?? state.slide.entry;
  tell("run");
}

let asked = 0;

/** Opens a slide; `row` is the cell to focus, or null for the first without a verdict. Nothing, if another was asked for since. */
export async function openSlide(index, row = null) {
  const mine = ++asked;
  const slide = await ask(paths.slide(index, state.task, state.reviewer));
  if (mine !== asked) return;
  slide.entry = entry(index) ?? { slide: slide.slide, cells: slide.cells.rank.length, judged: 0, abnormal: 0 };
  state.slide = slide;
  state.order = chosen();
  const first = state.order.find((each) => !slide.cells.verdict[each]) ?? state.order[0] ?? -1;
  state.focus = row !== null && row >= 0 && row < slide.cells.rank.length ? row : first;
  if (!shown(state.focus) && state.only) show("", false);
  tell("slide");
  tell("focus", { jump: true });
}

/** Reads run and slide again, as another tab or reviewer may have written; the place stays. */
export async function refresh() {
  await loadRun();
  if (!state.slide) return;
  const mine = asked;
  const { index } = state.slide;
  const fresh = await ask(paths.slide(index, state.task, state.reviewer));
  if (mine !== asked || state.slide?.index !== index) return;
  state.slide.cells = fresh.cells;
  state.slide.entry = entry(index) ?? state.slide.entry;
  tell("verdicts");
}

export const entry = (index) => state.run?.slides.find((slide) => slide.index === index);

/** Chooses which cells are shown. */
export function show(only, announce = true) {
  state.only = only;
  state.order = chosen();
  if (!announce) return;
  if (!shown(state.focus)) state.focus = state.order[0] ?? -1;
  tell("order");
  tell("focus", { jump: true });
}

function chosen() {
  const { verdict } = state.slide.cells;
  const all = Array.from(verdict, (_, row) => row);
  if (!state.only) return all;
  return all.filter((row) => (state.only === "open" ? !verdict[row] : verdict[row] === state.only));
}

/** Where a row is among the cells shown; -1 if it is not. The rows ascend, so that halving finds it. */
export function position(row) {
  const { order } = state;
  let low = 0, high = order.length - 1;
  while (low <= high) {
    const middle = (low + high) >> 1;
    if (order[middle] === row) return middle;
    if (order[middle] < row) low = middle + 1;
    else high = middle - 1;
  }
  return -1;
}

export const shown = (row) => position(row) >= 0;

export function focus(row, detail = {}) {
  if (row < 0 || row === state.focus || !state.slide) return;
  state.focus = row;
  tell("focus", detail);
}

/** Moves the focus by so many cells among those shown. */
export function step(by) {
  if (!state.order.length) return;
  const here = Math.max(0, position(state.focus));
  focus(state.order[Math.min(state.order.length - 1, Math.max(0, here + by))]);
}

/** The next cell without a verdict after a row, else the first before it; -1 if all have one. */
export function nextOpen(row) {
  const { order, slide } = state;
  const open = (each) => !slide.cells.verdict[each];
  return order.find((each) => each > row && open(each)) ?? order.find((each) => each !== row && open(each)) ?? -1;
}
