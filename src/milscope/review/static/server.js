/** Asks the server of the review; everything it cannot do becomes one sentence. */

const WAIT = 15000; // milliseconds until a server that says nothing counts as gone

export class Trouble extends Error {
  constructor(said, status) {
    super(said);
    this.status = status;
  }
}

/** The JSON at a path; with `body`, what a POST of it gives. */
export async function ask(path, body) {
  const options = { cache: "no-store", signal: AbortSignal.timeout(WAIT) };
  if (body) {
    options.method = "POST";
    options.headers = { "Content-Type": "application/json", "X-Milscope": "1" };
    options.body = JSON.stringify(body);
  }
  let answer, text;
  try {
    answer = await fetch(path, options);
    text = await answer.text();
  } catch {
    throw new Trouble("The server does not answer. Is `milscope review` still running?", 0);
  }
  if (answer.ok) return JSON.parse(text);
  throw new Trouble(sentence(text), answer.status);
}

function sentence(text) {
  try {
    return JSON.parse(text).error || text;
  } catch {
    return text || "The server refused without saying why.";
  }
}

const query = (values) => new URLSearchParams(Object.entries(values).filter(([, value]) => value !== "")).toString();

export const paths = {
  run: (task, reviewer) => `/api/run?${query({ task, reviewer })}`,
  slide: (index, task, reviewer) => `/api/slides/${index}?${query({ task, reviewer })}`,
  crop: (index, rank, task) => `/crops/${index}/${rank}?${query({ task })}`,
  context: (index, rank, task, factor) => `/context/${index}/${rank}?${query({ task, factor })}`,
  overview: (index) => `/slides/${index}/overview`,
  tile: (index, level, column, row) => `/slides/${index}/tiles/${level}/${column}_${row}`,
  heat: (index, task) => `/slides/${index}/heat?${query({ task })}`,
};
