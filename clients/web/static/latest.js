// A job that is done again as long as what it works on changes: one at a time, each for the newest state.

export class Latest {
  #job;
  #pause_ms;
  #wanted = false;
  #timer;
  #controller;

  /** `job(signal)` is begun after a pause, so that a moving pen has it done often, but not all the time. */
  constructor(job, pause_ms) {
    this.#job = job;
    this.#pause_ms = pause_ms;
  }

  /** Have the job done: soon, or once more after the one under way. */
  request() {
    this.#wanted = true;
    if (!this.#controller) this.#timer ??= setTimeout(() => this.#work(), this.#pause_ms);
  }

  /** Give up what is under way and what was requested. */
  cancel() {
    this.#controller?.abort();
    clearTimeout(this.#timer);
    this.#controller = this.#timer = undefined;
    this.#wanted = false;
  }

  async #work() {
    const controller = (this.#controller = new AbortController());
    this.#timer = undefined;
    this.#wanted = false;
    try {
      await this.#job(controller.signal);
    } finally {
      if (this.#controller === controller) {
        this.#controller = undefined;
        if (this.#wanted) this.request();
      }
    }
  }
}
