/** Verdicts: sent, and shown only once the server said that they are kept. */

import { ask } from "./server.js";
import { focus, nextOpen, openSlide, refresh, state, tell } from "./state.js";
import { find, grouped, make, sign } from "./words.js";

let busy = false, fading = 0;
let again = null; // what the button of the red bar does

export function startJudging() {
  find("trouble-again").addEventListener("click", () => again?.());
  find("trouble-close").addEventListener("click", calm);
  find("undo").addEventListener("click", undo);
}

/** Sends a verdict on the focused cell. The same verdict once more changes nothing. */
export async function judge(verdict) {
  if (!state.slide || state.focus < 0) return;
  if (!state.reviewer) return tell("nameless");
  const { task, reviewer, slide, focus: row } = state;
  return send({ task, reviewer, slide, row, verdict });
}

async function send(meant) {
  if (busy) return; // a key that comes before the answer is about a cell that was not seen yet
  const { task, reviewer, slide, row, verdict } = meant;
  busy = true;
  state.sending = row;
  tell("sending", row);
  try {
    const kept = await ask("/api/verdicts", {
      task, reviewer, index: slide.index, rank: row + 1, cell: slide.cells.name[row], verdict,
    });
    calm();
    settle(slide, row, kept);
    say(`Cell ${grouped(row + 1)}: ${verdict}`, verdict);
    if (state.slide === slide && state.focus === row) advance(row);
  } catch (trouble) {
    settle(slide, row, null);
    warn(`Cell ${grouped(row + 1)} of ${slide.slide}: “${verdict}” was not kept.`, trouble, () => send(meant));
  }
}

/** Ends what was on its way; `kept` is the server's answer, or null if there was none. */
function settle(slide, row, kept) {
  busy = false;
  state.sending = -1;
  if (kept) {
    slide.cells.verdict[row] = kept.verdict;
    slide.cells.others[row] = kept.others;
    Object.assign(slide.entry, { judged: kept.judged, abnormal: kept.abnormal });
  }
  if (state.slide === slide) tell(kept ? "verdict" : "sending", row);
  tell("counts", slide.index);
}

function advance(row) {
  const next = nextOpen(row);
  if (next >= 0) focus(next);
  else say("Every cell shown of this slide is judged. ] opens the next slide.");
}

/** Takes the reviewer's last verdict back and goes there. */
export async function undo() {
  if (busy || find("undo").disabled) return;
  busy = true;
  try {
    const back = await ask("/api/undo", { task: state.task, reviewer: state.reviewer });
    busy = false;
    calm();
    const row = back.rank - 1;
    if (state.slide?.index === back.index) settle(state.slide, row, back), focus(row, { jump: true });
    else await refresh().then(() => openSlide(back.index, row));
    say(`Taken back: ${back.undone ?? "a withdrawal"} on cell ${grouped(back.rank)}`);
  } catch (trouble) {
    busy = false;
    warn("Nothing was taken back.", trouble, undo);
  }
}

/** The red bar: what failed, why, and a way to try again. */
export function warn(what, trouble, retry = null) {
  find("trouble-what").textContent = what;
  find("trouble-why").textContent = trouble.message;
  find("trouble-again").hidden = !retry;
  again = retry;
  find("trouble").hidden = false;
  find("toast").classList.remove("here");
}

export function calm() {
  find("trouble").hidden = true;
  again = null;
}

/** Says briefly what was done; screen readers read it. */
export function say(text, verdict = "") {
  const toast = find("toast");
  toast.replaceChildren(...(verdict ? [sign(verdict)] : []), make("span", { text }));
  toast.dataset.verdict = verdict;
  toast.classList.add("here");
  clearTimeout(fading);
  fading = setTimeout(() => toast.classList.remove("here"), 2500);
}
