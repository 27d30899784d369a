// The server's load: four figures, and the last minute of each as a line.

import { element, milliseconds, number } from "./words.js";

const SAMPLES = 60;
// Samples come every second; after a longer pause, in which nobody saw the page, the minute begins anew.
const PAUSE_MS = 5000;
const [WIDTH, HEIGHT] = [120, 32];

const FIGURES = [
  { name: "Requests per second", key: "requests", write: number },
  { name: "Images per second", key: "images", write: number },
  { name: "Images per batch", key: "batch", write: number },
  { name: "Waiting in the queue", key: "queue_ms", write: milliseconds },
];

/** What happened between two totals, per second; null when the server has started anew in between. */
export function rates(before, now) {
  const seconds = now.time_s - before.time_s;
  const since = (key) => now[key] - before[key];
  const [requests, failed, images, batches] = ["requests", "failed", "images", "batches"].map(since);
  if (seconds <= 0 || Math.min(requests, failed, images, batches) < 0) return null;
  return {
    requests: requests / seconds,
    failed: failed / seconds,
    images: images / seconds,
    batch: batches ? images / batches : null,
    queue_ms: requests ? (1e3 * since("queue_s")) / requests : null,
  };
}

export class LoadView {
  #before;
  #added = 0;
  #samples = [];
  #figures;

  constructor(list) {
    this.#figures = FIGURES.map((figure) => {
      const value = element("dd", {}, "–");
      const note = element("dd", { className: "note" });
      const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
      const chart = document.createElementNS("http://www.w3.org/2000/svg", "svg");
      chart.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
      chart.setAttribute("preserveAspectRatio", "none");
      chart.setAttribute("aria-hidden", "true");
      chart.append(path);
      list.append(element("div", {}, element("dt", {}, figure.name), value, note, chart));
      return { ...figure, value, note, path };
    });
  }

  /** Totals of the server; null when it did not answer, which leaves a gap. */
  add(totals) {
    const now = performance.now();
    if (now - this.#added > PAUSE_MS) {
      this.#samples = [];
      this.#before = null;
    }
    this.#added = now;
    const sample = totals && this.#before ? rates(this.#before, totals) : null;
    this.#samples = [...this.#samples, sample].slice(-SAMPLES);
    this.#before = totals;
    for (const { key, write, value, note, path } of this.#figures) {
      const line = this.#samples.map((each) => each?.[key] ?? null);
      value.textContent = write(sample?.[key] ?? NaN);
      note.textContent = line.some((each) => each !== null) ? `peak ${write(Math.max(...line))}` : "";
      path.setAttribute("d", trace(line));
    }
    if (sample?.failed) this.#figures[0].note.textContent = `${number(sample.failed)} per second refused or failed`;
  }
}

// The newest sample at the right edge; where there is none the line has a gap.
function trace(line) {
  const top = Math.max(...line, 1e-9);
  let path = "";
  let joined = false;
  line.forEach((value, index) => {
    if (value !== null) {
      const x = WIDTH - ((line.length - 1 - index) * WIDTH) / (SAMPLES - 1);
      const y = HEIGHT - 1.5 - (value / top) * (HEIGHT - 3);
      path += `${joined ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}${joined ? "" : "h0"}`;
    }
    joined = value !== null;
  });
  return path;
}
