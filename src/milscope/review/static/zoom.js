/** The whole slide by OpenSeadragon, with the ranked cells and the heat map over it. */

import { say } from "./judge.js";
import { drawMarks, marked, meant } from "./marks.js";
import { paths } from "./server.js";
import { focus, memory, on, state, tell } from "./state.js";
import { drawScale, find, make } from "./words.js";

const LIBRARY = "/static/openseadragon/openseadragon.min.js";
const NO_LIBRARY = "The deep zoom needs OpenSeadragon, which this installation of milscope lacks. With npm installed, run " +
  "`python hatch_build.py` in milscope's source tree, then load this page again.";
const TILE = 256;
const AMOUNTS = [["50", "first 50"], ["200", "first 200"], ["1000", "first 1 000"], ["all", "all cells"], ["open", "not judged"],
  ["judged", "judged"], ["0", "none"]];

let viewer = null, opened = "", layer = null, heated = "", rows = [], seen = [], loading = null;

export function startZoom() {
  find("marks").append(...AMOUNTS.map(([value, text]) => make("option", { value, text })));
  find("marks").value = "200";
  find("marks").addEventListener("change", remark);
  find("heat").addEventListener("change", heat);
  find("opacity").value = memory.get("opacity", "70");
  find("opacity").addEventListener("input", () => {
    memory.set("opacity", find("opacity").value);
    layer?.setOpacity(Number(find("opacity").value) / 100);
  });
  find("zoom-in").addEventListener("click", () => zoom(1.6));
  find("zoom-out").addEventListener("click", () => zoom(1 / 1.6));
  find("zoom-home").addEventListener("click", () => viewer?.viewport.goHome());
  find("zoom-cell").addEventListener("click", () => locate());
  for (const view of ["cells", "slide"]) find(`view-${view}`).addEventListener("click", () => look(view));
  on("slide", () => state.view === "slide" && open());
  on("focus", (detail) => state.view === "slide" && follow(detail));
  on("verdict verdicts sending", remark);
  on("locate", () => look("slide").then(locate));
}

/** Shows the cells or the whole slide. */
export async function look(view) {
  state.view = view;
  document.body.dataset.view = view;
  for (const each of ["cells", "slide"]) find(`view-${each}`).setAttribute("aria-pressed", String(each === view));
  find("grid").hidden = view !== "cells";
  find("zoom").hidden = view !== "slide";
  tell("view");
  if (view === "slide" && state.slide) await open();
}

export const toggle = () => look(state.view === "slide" ? "cells" : "slide");

/** Zooms about the focused cell if it is in sight, else about the middle. */
export function zoom(by) {
  if (!viewer?.isOpen()) return;
  const place = placed() ? placeOf(state.focus) : null;
  const fixed = place && viewer.viewport.getBounds(false).containsPoint(place) ? place : undefined;
  viewer.viewport.zoomBy(by, fixed).applyConstraints();
}

export function home() {
  viewer?.viewport.goHome();
}

export function flipHeat() {
  find("heat").checked = !find("heat").checked;
  heat();
}

/** Brings the focused cell into the middle, with what is around it. */
export function locate() {
  if (!viewer?.isOpen() || !placed()) return;
  const { cells } = state.slide, image = viewer.world.getItemAt(0);
  const side = 10 * Math.max(cells.width[state.focus], cells.height[state.focus]);
  const [x, y] = [cells.x[state.focus], cells.y[state.focus]];
  viewer.viewport.fitBounds(image.imageToViewportRectangle(x - side / 2, y - side / 2, side, side));
}

const placeOf = (row) =>
  viewer.world.getItemAt(0).imageToViewportCoordinates(state.slide.cells.x[row], state.slide.cells.y[row]);
const placed = () => state.focus >= 0 && Number.isFinite(state.slide?.cells.x[state.focus] ?? NaN);

function library() {
  loading ??= new Promise((give, fail) => {
    const script = make("script", { src: LIBRARY });
    script.addEventListener("load", () => give(globalThis.OpenSeadragon));
    script.addEventListener("error", () => fail(new Error(NO_LIBRARY)));
    document.head.append(script);
  });
  return loading;
}

const shownKey = () => `${state.task} ${state.slide?.index}`;

async function open() {
  const { slide } = state;
  const asked = shownKey();
  if (opened === asked && viewer) return remark();
  opened = asked;
  [layer, heated] = [null, ""];
  viewer?.close();
  note(slide.image ? "" : slide.missing || "There is no image of this slide.");
  if (!slide.image) return;
  try {
    viewer ??= made(await library());
  } catch (error) {
    opened = "";
    note(error.message);
    return;
  }
  if (opened !== asked) return;
  const ready = new Promise((give) => viewer.addOnceHandler("open", give));
  viewer.open(source(slide));
  await ready;
  if (state.slide === slide) [remark(), heat()];
}

function source(slide) {
  const [width, height] = slide.size;
  return { width, height, tileSize: TILE, tileOverlap: 0, minLevel: 8 > Math.log2(Math.max(width, height)) ? 0 : 8,
    maxLevel: Math.ceil(Math.log2(Math.max(width, height))),
    getTileUrl: (level, column, row) => paths.tile(slide.index, level, column, row) };
}

function made(OpenSeadragon) {
  // OpenSeadragon would add a style of its own, which the page's policy forbids; panes.css says the same. An element that
  // only has the name of a style keeps it from trying.
  const named = document.createElementNS("urn:milscope", "style");
  named.setAttribute("data-openseadragon-mobile-css", "true");
  document.head.append(named);
  const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  const built = OpenSeadragon({
    element: find("viewer"), drawer: "canvas", showNavigationControl: false, showNavigator: true, navigatorPosition: "BOTTOM_RIGHT",
    navigatorAutoFade: false, navigatorSizeRatio: 0.18, visibilityRatio: 0.5, minZoomImageRatio: 0.7, maxZoomPixelRatio: 6,
    animationTime: calm ? 0 : 0.7, springStiffness: 9, gestureSettingsMouse: { clickToZoom: false, dblClickToZoom: true },
    imageLoaderLimit: 6, crossOriginPolicy: false, placeholderFillStyle: "#8884",
  });
  built.innerTracker.keyDownHandler = built.innerTracker.keyHandler = null; // the keys are the page's
  built.canvas.removeAttribute("tabindex");
  built.canvas.append(find("overlay")); // below the small map
  built.addHandler("update-viewport", paint);
  built.addHandler("resize", () => requestAnimationFrame(paint));
  built.addHandler("canvas-click", (event) => {
    const row = event.quick ? meant(seen, event.position.x, event.position.y) : -1;
    if (row >= 0) focus(row, { clicked: true });
  });
  find("viewer").addEventListener("pointermove", (event) => {
    const box = find("viewer").getBoundingClientRect();
    const over = meant(seen, event.clientX - box.left, event.clientY - box.top);
    find("viewer").classList.toggle("over", over >= 0);
  });
  return built;
}

function remark() {
  if (state.view !== "slide" || !viewer?.isOpen()) return;
  rows = marked(find("marks").value);
  paint();
}

function paint() {
  const image = viewer.world.getItemAt(0);
  if (!image || !state.slide || shownKey() !== opened) return;
  const { viewport } = viewer;
  const scale = image.viewportToImageZoom(viewport.getZoom(true));
  const corner = image.imageToViewerElementCoordinates(new globalThis.OpenSeadragon.Point(0, 0));
  seen = drawMarks(find("overlay"), rows, (x, y) => [corner.x + x * scale, corner.y + y * scale], scale);
  drawScale(find("zoom-scale"), state.slide.mpp ? state.slide.mpp / scale : NaN, 140);
}

/** Keeps the focused cell in sight. */
function follow(detail) {
  if (!viewer?.isOpen() || shownKey() !== opened || !placed()) return;
  const place = placeOf(state.focus);
  const sight = viewer.viewport.getBounds(false);
  const [across, down] = [0.1 * sight.width, 0.1 * sight.height];
  const inside = place.x > sight.x + across && place.x < sight.x + sight.width - across &&
    place.y > sight.y + down && place.y < sight.y + sight.height - down;
  if (!inside && !detail?.clicked) viewer.viewport.panTo(place);
  paint();
}

function heat() {
  const wanted = find("heat").checked;
  document.body.classList.toggle("heated", wanted);
  find("among").textContent = state.run.comparable ? "of all slides" : "of this slide";
  if (!viewer?.isOpen() || !state.slide) return;
  const url = wanted ? paths.heat(state.slide.index, state.task) : "";
  if (url === heated) return;
  heated = url;
  if (layer) viewer.world.removeItem(layer);
  layer = null;
  if (!wanted) return;
  viewer.addSimpleImage({ url, x: 0, y: 0, width: 1, opacity: Number(find("opacity").value) / 100,
    success: ({ item }) => {
      if (heated === url) layer = item;
      else viewer.world.removeItem(item);
    },
    error: () => {
      heated = "";
      say("The heat map of this slide cannot be drawn.");
    } });
}

function note(text) {
  find("zoom-note").hidden = !text;
  find("zoom").classList.toggle("noted", Boolean(text));
  find("zoom-note").textContent = text;
  find("overlay").getContext("2d").clearRect(0, 0, find("overlay").width, find("overlay").height);
  find("zoom-scale").hidden = true;
}
