// The surface: strokes of a pen, or a picture in their place. Says `change` when what is on it has changed.

// In shares of the surface's height, as all positions here: so a drawing keeps its form on every screen.
const PEN = 0.07;
const STEP = 0.025;

// What is sent is as high as this, whatever the screen.
const SENT_HEIGHT = 280;

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

export class Pad extends EventTarget {
  #canvas;
  #strokes = [];
  #picture;
  #opening;
  #aspect = 1;
  #pointer;
  #pen = { x: 0.5, y: 0.5, down: false, shown: false, keys: new Set() };

  constructor(canvas) {
    super();
    this.#canvas = canvas;
    canvas.addEventListener("pointerdown", (event) => this.#begin(event));
    canvas.addEventListener("pointermove", (event) => this.#move(event));
    for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, (event) => this.#end(event));
    canvas.addEventListener("keydown", (event) => this.#key(event));
    canvas.addEventListener("keyup", (event) => this.#pen.keys.delete(event.key));
    canvas.addEventListener("blur", () => this.#showPen(false));
    new ResizeObserver(() => this.draw()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }

  /** "empty", "drawing", "picture", or "unseen": a picture that the browser cannot show. */
  get state() {
    if (this.#picture) return this.#picture.image ? "picture" : "unseen";
    return this.#strokes.length ? "drawing" : "empty";
  }

  /** Width by height; what is drawn stays in the middle. */
  set aspect(aspect) {
    const shift = (aspect - this.#aspect) / 2;
    for (const point of this.#strokes.flat()) point[0] += shift;
    this.#pen.x += shift;
    this.#aspect = aspect;
    this.#canvas.parentElement.style.setProperty("--aspect", aspect);
    this.draw();
  }

  clear() {
    this.#strokes = [];
    this.#picture?.image?.close();
    this.#picture = this.#opening = this.#pointer = undefined;
    this.#pen.down = false;
    this.#changed();
  }

  undo() {
    this.#strokes.pop();
    this.#pointer = undefined;
    this.#pen.down = false;
    this.#changed();
  }

  /** Show a picture file in place of the strokes. What the browser cannot show may still be read by the server. */
  async show(file) {
    this.#opening = file;
    const image = await createImageBitmap(file).catch(() => null);
    if (this.#opening !== file) return image?.close(); // another one was opened, or the surface cleared
    this.clear();
    this.#picture = { file, image };
    this.#changed();
  }

  /** What is on the surface as a picture file. */
  async file() {
    if (this.#picture) return this.#picture.file;
    const sheet = document.createElement("canvas");
    [sheet.width, sheet.height] = [this.#aspect * SENT_HEIGHT, SENT_HEIGHT];
    const context = sheet.getContext("2d");
    context.fillStyle = "#fff";
    context.fillRect(0, 0, sheet.width, sheet.height);
    this.#ink(context, SENT_HEIGHT, "#000");
    return new Promise((resolve) => sheet.toBlob(resolve));
  }

  /** Where a box in pixels of `file()` lies on the surface, in shares of its width and height; null if that is unseen. */
  place({ left, top, width, height }) {
    if (this.state === "unseen") return null;
    const image = this.#picture?.image ?? { width: this.#aspect * SENT_HEIGHT, height: SENT_HEIGHT };
    const frame = this.#frame(image);
    return {
      left: frame.left + (left / image.width) * frame.width,
      top: frame.top + (top / image.height) * frame.height,
      width: (width / image.width) * frame.width,
      height: (height / image.height) * frame.height,
    };
  }

  draw() {
    const canvas = this.#canvas;
    const scale = devicePixelRatio;
    canvas.width = Math.round(canvas.clientWidth * scale);
    canvas.height = Math.round(canvas.clientHeight * scale);
    const context = canvas.getContext("2d");
    const style = getComputedStyle(canvas);
    if (this.#picture) {
      if (!this.#picture.image) return;
      const { left, top, width, height } = this.#frame(this.#picture.image);
      const [w, h] = [canvas.width, canvas.height];
      context.drawImage(this.#picture.image, left * w, top * h, width * w, height * h);
      return;
    }
    this.#ink(context, canvas.height, style.color);
    if (this.#pen.shown) {
      context.strokeStyle = style.accentColor;
      context.lineWidth = 2 * scale;
      context.beginPath();
      const radius = (this.#pen.down ? 0.5 : 1) * PEN * canvas.height;
      context.arc(this.#pen.x * canvas.height, this.#pen.y * canvas.height, radius, 0, 2 * Math.PI);
      context.stroke();
    }
  }

  // The largest rectangle of a picture's form in the middle of the surface.
  #frame(image) {
    const wider = image.width / image.height / this.#aspect;
    const [width, height] = wider > 1 ? [1, 1 / wider] : [wider, 1];
    return { left: (1 - width) / 2, top: (1 - height) / 2, width, height };
  }

  #ink(context, height, colour) {
    context.strokeStyle = colour;
    context.lineWidth = PEN * height;
    context.lineCap = context.lineJoin = "round";
    for (const stroke of this.#strokes) {
      const points = stroke.map(([x, y]) => [x * height, y * height]);
      context.beginPath();
      context.moveTo(...points[0]);
      // Through the middle between each two points, so that a quick pen leaves a curve and no polygon.
      for (let i = 1; i < points.length - 1; i++) {
        const [[x, y], [next_x, next_y]] = [points[i], points[i + 1]];
        context.quadraticCurveTo(x, y, (x + next_x) / 2, (y + next_y) / 2);
      }
      context.lineTo(...points.at(-1));
      context.stroke();
    }
  }

  #begin(event) {
    if (this.#picture || this.#pointer !== undefined || event.button !== 0) return;
    this.#pointer = event.pointerId;
    this.#canvas.setPointerCapture(event.pointerId);
    this.#showPen(false);
    this.#strokes.push([this.#point(event)]);
    this.#changed();
  }

  #move(event) {
    if (event.pointerId !== this.#pointer) return;
    const events = event.getCoalescedEvents?.() ?? [];
    this.#strokes.at(-1).push(...(events.length ? events : [event]).map((each) => this.#point(each)));
    this.#changed();
  }

  #end(event) {
    if (event.pointerId === this.#pointer) this.#pointer = undefined;
  }

  #point(event) {
    const box = this.#canvas.getBoundingClientRect();
    return [(event.clientX - box.left) / box.height, (event.clientY - box.top) / box.height];
  }

  #key(event) {
    const command = event.ctrlKey || event.metaKey;
    if (command && event.key === "z") this.undo();
    else if (command || event.altKey) return;
    else if (event.key in ARROWS) this.#step(event.key);
    else if (event.key === " ") this.#togglePen(event.repeat);
    else if (event.key === "Delete" || event.key === "Backspace") this.clear();
    else return;
    event.preventDefault();
    this.#showPen(!this.#picture);
  }

  // Two arrows held together go aslant.
  #step(key) {
    const pen = this.#pen;
    pen.keys.add(key);
    for (const [x, y] of [...pen.keys].map((each) => ARROWS[each])) {
      pen.x = Math.min(Math.max(pen.x + STEP * x, 0), this.#aspect);
      pen.y = Math.min(Math.max(pen.y + STEP * y, 0), 1);
    }
    if (!pen.down) return;
    this.#strokes.at(-1).push([pen.x, pen.y]);
    this.#changed();
  }

  #togglePen(repeated) {
    if (this.#picture || repeated) return;
    const pen = this.#pen;
    pen.down = !pen.down;
    this.dispatchEvent(new CustomEvent("pen", { detail: pen.down }));
    if (!pen.down) return;
    this.#strokes.push([[pen.x, pen.y]]);
    this.#changed();
  }

  #showPen(shown) {
    this.#pen.shown = shown;
    if (!shown) {
      this.#pen.down = false;
      this.#pen.keys.clear();
    }
    this.draw();
  }

  #changed() {
    this.draw();
    this.dispatchEvent(new Event("change"));
  }
}
