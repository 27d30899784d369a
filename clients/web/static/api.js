// Questions to this page's own server.

export class Refused extends Error {
  /** `status` is the HTTP status, 0 when nothing answered. */
  constructor(status, message) {
    super(message);
    this.status = status;
  }

  /** Whether the fault is the server's absence, which only waiting mends. */
  get away() {
    return [0, 503].includes(this.status);
  }
}

async function ask(path, options = {}) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, "this page’s own server does not answer; is it still running?");
  }
  const answer = await response.json().catch(() => null);
  if (response.ok && answer) return answer;
  throw new Refused(response.status, answer?.error ?? `this page’s server answered ${response.status}`);
}

export const getModel = () => ask("api/model");

export const getLoad = () => ask("api/load");

/** What the digits in a picture file are; `signal` gives it up. */
export async function classify(picture, { many, signal }) {
  const began = performance.now();
  const answer = await ask(`api/digits${many ? "?many=1" : ""}`, { method: "POST", body: picture, signal });
  return { ...answer, total_ms: performance.now() - began };
}
