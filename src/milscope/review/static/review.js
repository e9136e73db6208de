/** Starts the page: who judges, where they stopped, and keeps up with other tabs and reviewers. */

import { startCell } from "./cell.js";
import { startGrid } from "./grid.js";
import { calm, startJudging, warn } from "./judge.js";
import { startKeys } from "./keys.js";
import { startPeek } from "./peek.js";
import { drawer, go, startSlides } from "./slides.js";
import { entry, focus, loadRun, memory, nextOpen, on, refresh, show, state, tell } from "./state.js";
import { find, make, sign, VERDICTS } from "./words.js";
import { look, startZoom } from "./zoom.js";

const THEMES = ["", "light", "dark"]; // "": as the system says
const SHOWN = [["", "all cells"], ["open", "not judged"], ...VERDICTS.map(({ name }) => [name, name])];
let left = Date.now();

function start() {
  theme(memory.get("theme"));
  find("theme").addEventListener("click", () => theme(THEMES[(THEMES.indexOf(document.documentElement.dataset.theme ?? "") + 1) % 3]));
  find("help").addEventListener("click", () => find("help-dialog").showModal());
  find("drawer").addEventListener("click", () => drawer(!document.body.classList.contains("listing")));
  find("only").append(...SHOWN.map(([value, text]) => make("option", { value, text })));
  find("only").addEventListener("change", () => show(find("only").value));
  find("task").addEventListener("change", () => change({ task: find("task").value }));
  for (const begin of [startSlides, startGrid, startCell, startJudging, startZoom, startPeek, startKeys, naming]) begin();
  on("run", heading);
  on("slide order", () => {
    find("only").value = state.only;
    find("empty").hidden = state.order.length > 0;
    find("empty").textContent = state.slide.cells.rank.length ? "No cell of this slide is of that kind." : "This slide has no ranked cells.";
  });
  on("focus view", remember);
  addEventListener("focus", keepUp);
  document.addEventListener("visibilitychange", () => document.hidden || keepUp());
  open();
}

/** Loads the run, and the place where one was: this tab's, else where the reviewer stopped. */
async function open() {
  const asked = new URLSearchParams(location.hash.slice(1));
  state.reviewer = memory.get("reviewer");
  state.task = asked.get("task") ?? "";
  try {
    await loadRun().catch((trouble) => {
      if (trouble.status !== 404) throw trouble;
      state.task = ""; // the task that the address names is another run's
      return loadRun();
    });
    state.reviewer ||= state.run.reviewer;
    if (!state.reviewer) tell("nameless");
    else name();
    calm();
    await look(asked.get("view") === "slide" ? "slide" : "cells");
    await arrive(asked);
  } catch (trouble) {
    warn("The review cannot be loaded.", trouble, open);
  }
}

async function arrive(asked = new URLSearchParams()) {
  const { place, slides } = state.run;
  const index = Number(asked.get("slide") ?? -1);
  if (asked.has("slide") && entry(index)) return go(index, Number(asked.get("cell")) - 1);
  if (place) {
    await go(place.index, place.rank - 1);
    focus(nextOpen(state.focus), { jump: true });
    return undefined;
  }
  return slides.length ? go(slides[0].index) : undefined;
}

function remember() {
  if (!state.slide) return;
  const place = new URLSearchParams({ slide: state.slide.index, cell: state.focus + 1 });
  if (state.view === "slide") place.set("view", "slide");
  if (state.run.tasks.length > 1) place.set("task", state.task);
  history.replaceState(null, "", `#${place}`);
}

/** Another task or reviewer: everything is read again. */
async function change({ task = state.task, reviewer = state.reviewer }) {
  const place = { index: state.slide?.index, row: state.focus };
  const sameTask = task === state.task;
  Object.assign(state, { task, reviewer, slide: null, only: "" });
  try {
    await loadRun();
    if (sameTask && place.index !== undefined && !state.run.place) await go(place.index, place.row);
    else await arrive();
  } catch (trouble) {
    warn("This cannot be loaded.", trouble, () => change({ task, reviewer }));
  }
}

/** What other tabs and reviewers did since; once, though two events may come. */
async function keepUp() {
  if (!state.run || Date.now() - left < 300) return;
  left = Date.now();
  await refresh().catch((trouble) => warn("The page may not be up to date.", trouble, keepUpAgain));
}

function keepUpAgain() {
  left = 0;
  calm();
  keepUp();
}

function heading() {
  const { run } = state;
  find("title").textContent = run.title;
  document.title = `${run.title} · milscope review`;
  find("task-field").hidden = run.tasks.length < 2;
  find("task").replaceChildren(...run.tasks.map((task) => make("option", { value: task.name, text: task.name })));
  find("task").value = run.task;
}

function theme(chosen) {
  if (chosen) document.documentElement.dataset.theme = chosen;
  else delete document.documentElement.dataset.theme;
  memory.set("theme", chosen);
}

function naming() {
  const dialog = find("name-dialog"), field = find("name");
  const ask = () => {
    field.value = state.reviewer;
    find("known").replaceChildren(...(state.run?.reviewers ?? []).map((known) => {
      const button = make("button", { type: "button" }, sign("person"), known);
      button.addEventListener("click", () => {
        field.value = known;
        find("name-form").requestSubmit();
      });
      return button;
    }));
    if (!dialog.open) dialog.showModal();
  };
  on("nameless", ask);
  find("who").addEventListener("click", ask);
  find("name-later").addEventListener("click", () => dialog.close());
  find("name-form").addEventListener("submit", () => {
    const chosen = field.value.trim();
    if (!chosen || chosen === state.reviewer) return;
    memory.set("reviewer", chosen);
    state.reviewer = chosen;
    name();
    change({ reviewer: chosen });
  });
}

function name() {
  find("who-name").textContent = state.reviewer;
}

start();
