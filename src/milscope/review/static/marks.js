/** The ranked cells on the slide: a sign each, by verdict in shape and colour, on a canvas over the viewer. */

import { state } from "./state.js";

const NEAR = 14; // pixels of the screen from which a click is meant for a mark
const SMALL = 5; // radius of a sign far away, pixels
const HUES = { abnormal: "#d55e00", normal: "#0072b2", unsure: "#a33d80", artefact: "#4b5259", "": "#16181b" };

/** Which rows are marked, worst ranks last so that the best are drawn over them. */
export function marked(choice) {
  if (!state.slide) return [];
  const { cells } = state.slide;
  const rows = cells.rank.map((_, row) => row).filter((row) => Number.isFinite(cells.x[row] ?? NaN));
  if (choice === "judged") return rows.filter((row) => cells.verdict[row]);
  if (choice === "open") return rows.filter((row) => !cells.verdict[row]);
  return choice === "all" ? rows : rows.slice(0, Number(choice));
}

/** Draws the marks; `toScreen(x, y)` gives pixels of the screen, `scale` how many of them a slide pixel has. */
export function drawMarks(canvas, rows, toScreen, scale) {
  const context = canvas.getContext("2d");
  const ratio = devicePixelRatio, width = canvas.clientWidth, height = canvas.clientHeight;
  if (canvas.width !== Math.round(width * ratio)) canvas.width = Math.round(width * ratio);
  if (canvas.height !== Math.round(height * ratio)) canvas.height = Math.round(height * ratio);
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  const { cells } = state.slide;
  const seen = [];
  for (let at = rows.length - 1; at >= 0; at--) {
    const row = rows[at], [x, y] = toScreen(cells.x[row], cells.y[row]);
    const reach = Math.max(SMALL, cells.width[row] * scale * 0.5);
    if (x < -reach || y < -reach || x > width + reach || y > height + reach) continue;
    seen.push({ row, x, y, half: [cells.width[row] * scale * 0.5, cells.height[row] * scale * 0.5] });
  }
  const many = seen.length > 3000;
  for (const mark of seen) if (mark.row !== state.focus) draw(context, mark, cells.verdict[mark.row] ?? "", many);
  if (state.focus >= 0 && Number.isFinite(cells.x[state.focus] ?? NaN)) {
    const [x, y] = toScreen(cells.x[state.focus], cells.y[state.focus]);
    focused(context, { x, y, half: [cells.width[state.focus] * scale * 0.5, cells.height[state.focus] * scale * 0.5] },
      cells.verdict[state.focus] ?? "");
  }
  return seen;
}

/** The row of the mark that a place of the screen means; -1 for none. The nearest, of those in reach. */
export function meant(seen, x, y) {
  let found = -1, nearest = Infinity;
  for (const mark of seen) {
    const distance = Math.hypot(mark.x - x, mark.y - y);
    const inside = Math.abs(mark.x - x) <= mark.half[0] && Math.abs(mark.y - y) <= mark.half[1];
    if ((inside || distance <= NEAR) && distance < nearest) [found, nearest] = [mark.row, distance];
  }
  return found;
}

function draw(context, { x, y, half }, verdict, many) {
  if (many && !verdict) {
    context.fillStyle = "#16181bb0";
    context.fillRect(x - 1.5, y - 1.5, 3, 3);
    return;
  }
  const near = half[0] > 16;
  if (near) frame(context, x, y, half, verdict);
  if (near && !verdict) return;
  sign(context, near ? x - half[0] : x, near ? y - half[1] : y, verdict, near ? 7 : SMALL);
}

/** The box of a cell; thin, if nothing was said of it. */
function frame(context, x, y, [across, down], verdict) {
  const path = new Path2D();
  path.roundRect(x - across, y - down, 2 * across, 2 * down, Math.min(6, across / 4));
  for (const [colour, width] of verdict ? [["#ffffffe0", 4.5], [HUES[verdict], 2.5]] : [["#ffffff90", 2.5], ["#16181ba0", 1.1]]) {
    context.strokeStyle = colour;
    context.lineWidth = width;
    context.stroke(path);
  }
}

function sign(context, x, y, verdict, radius) {
  const path = new Path2D();
  if (verdict === "artefact") path.addPath(cross(x, y, radius * 0.8));
  else if (verdict === "unsure") path.addPath(diamond(x, y, radius * 1.25));
  else path.arc(x, y, verdict ? radius : radius * 1.4, 0, 2 * Math.PI); // what is not judged yet must not be covered
  const filled = verdict === "abnormal" || verdict === "unsure";
  context.lineJoin = context.lineCap = "round";
  context.strokeStyle = verdict ? "#ffffff" : "#ffffffb0";
  context.lineWidth = filled || !verdict ? 3 : 4.5;
  context.stroke(path);
  context.strokeStyle = context.fillStyle = HUES[verdict];
  context.lineWidth = verdict ? 2.4 : 1.3;
  if (filled) {
    context.fill(path);
    return;
  }
  if (verdict === "normal") {
    context.fillStyle = "#ffffff";
    context.fill(path);
  }
  context.stroke(path);
}

function cross(x, y, radius) {
  const path = new Path2D();
  path.moveTo(x - radius, y - radius);
  path.lineTo(x + radius, y + radius);
  path.moveTo(x + radius, y - radius);
  path.lineTo(x - radius, y + radius);
  return path;
}

function diamond(x, y, radius) {
  const path = new Path2D();
  path.moveTo(x, y - radius);
  path.lineTo(x + radius, y);
  path.lineTo(x, y + radius);
  path.lineTo(x - radius, y);
  path.closePath();
  return path;
}

/** The focused cell: its outline, and corners around it that are seen from afar. */
function focused(context, { x, y, half }, verdict) {
  const reach = Math.max(13, half[0] + 5, half[1] + 5), arm = Math.max(5, reach * 0.4);
  const path = new Path2D();
  for (const [across, down] of [[-1, -1], [1, -1], [1, 1], [-1, 1]]) {
    path.moveTo(x + across * reach, y + down * (reach - arm));
    path.lineTo(x + across * reach, y + down * reach);
    path.lineTo(x + across * (reach - arm), y + down * reach);
  }
  context.lineJoin = context.lineCap = "round";
  for (const [colour, width] of [["#ffffff", 6.5], ["#16181b", 3]]) {
    context.strokeStyle = colour;
    context.lineWidth = width;
    context.stroke(path);
  }
  if (verdict) sign(context, half[0] > 16 ? x - half[0] : x, half[0] > 16 ? y - half[1] : y, verdict, half[0] > 16 ? 7 : SMALL);
  else if (half[0] <= 16) sign(context, x, y, "", SMALL);
}
