/** How numbers, places and verdicts are said and drawn. */

import { state } from "./state.js";

export const VERDICTS = [
  { name: "abnormal", key: "a" },
  { name: "normal", key: "n" },
  { name: "unsure", key: "u" },
  { name: "artefact", key: "x" },
];

export const find = (id) => document.getElementById(id);

/** An element with a class, text, and children. */
export function make(tag, { name = "", text = "", ...rest } = {}, ...children) {
  const made = document.createElement(tag);
  if (name) made.className = name;
  if (text !== "") made.textContent = text;
  for (const [key, value] of Object.entries(rest)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

export function sign(name) {
  const drawn = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const used = document.createElementNS("http://www.w3.org/2000/svg", "use");
  drawn.setAttribute("aria-hidden", "true");
  drawn.setAttribute("class", "sign");
  used.setAttribute("href", `#sign-${name}`);
  drawn.append(used);
  return drawn;
}

export const grouped = (number) => number.toLocaleString("en").replaceAll(",", "\u202f");

export function score(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  if (size !== 0 && (size < 0.001 || size >= 1e6)) return value.toExponential(1).replace("e", " e").replace("-", "−");
  return value.toFixed(size < 1 ? 3 : 2).replace("-", "−");
}

export const share = (value) => (value === null ? "–" : value > 0.995 && value < 1 ? "> 0.99" : value.toFixed(2));

/** What a label means in the task at hand. */
export function labelled(label) {
  const sought = state.run?.tasks.find((task) => task.name === state.task)?.sought || "abnormal";
  if (label === null || label === undefined) return "unlabelled";
  return label ? sought : sought === "abnormal" ? "normal" : `not ${sought}`;
}

const NICE = [0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000];

/** Draws a scale bar: at most `most` pixels of the screen, of which each shows `microns`; hidden if that is unknown. */
export function drawScale(bar, microns, most) {
  const known = Number.isFinite(microns) && microns > 0;
  bar.hidden = !known;
  if (!known) return;
  const length = NICE.findLast((each) => each / microns <= most) ?? NICE[0];
  bar.querySelector(".stick").style.width = `${length / microns}px`;
  bar.querySelector(".length").textContent = length >= 1000 ? `${length / 1000} mm` : `${length} µm`;
}

/** The bar of a probability, its length and its number. */
export function probability(value, called) {
  const track = make("span", { name: "track", "aria-hidden": "true" });
  const fill = make("span", { name: called ? "fill high" : "fill" });
  fill.style.width = `${100 * (value ?? 0)}%`;
  track.append(fill);
  return [track, make("span", { name: "number", text: share(value) })];
}
