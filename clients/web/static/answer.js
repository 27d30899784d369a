// Shows an answer: the digits, their probabilities, what the network saw, how long it took.

import { element, milliseconds, percent } from "./words.js";

const WARNINGS = {
  low_contrast: "The ink is pale; a darker pen or more light helps.",
  several_digits: "There seems to be more than one digit; try “Several digits”.",
  unlike_a_digit: "This does not look much like a digit.",
  low_confidence: "The network is not sure of it.",
};

const warn = (word) => WARNINGS[word] ?? `Warning: ${word.replaceAll("_", " ")}.`;

const NONE = "No digit found";

const byId = (id) => document.getElementById(id);

// A label takes this share of the surface: it is above its box, else below, else within.
const LABEL = 0.09;

// A screen reader is told the answer once the pen has rested, not with every stroke.
const REST_MS = 700;

export class AnswerView {
  #bars = [];
  #place;
  #timer;

  /** `place` tells where a box lies on the surface. */
  constructor(place) {
    this.#place = place;
    for (let digit = 0; digit < 10; digit++) {
      const share = element("span", { className: "share" });
      const number = element("span", { className: "number" }, "–");
      const row = element("li", {}, element("b", {}, `${digit}`), share, number);
      byId("bars").append(row);
      this.#bars.push({ row, share, number });
    }
  }

  clear(words = "No picture yet") {
    this.#list([]);
    byId("digit").textContent = "";
    byId("certainty").textContent = words;
    this.note();
    for (const { row, share, number } of this.#bars) {
      row.className = "";
      share.style.setProperty("--share", 0);
      number.textContent = "–";
    }
    byId("seen").getContext("2d").clearRect(0, 0, 28, 28);
    for (const id of ["total", "reading", "queue", "compute", "batch"]) byId(id).textContent = "–";
    this.announce("");
  }

  /** What is to be said besides the answer. */
  note(words = "") {
    byId("notice").textContent = words;
  }

  /** For those who listen. */
  announce(words, delay_ms = 0) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => (byId("live").textContent = words), delay_ms);
  }

  show(answer, { many }) {
    // Where nothing was found the network has answered a black image.
    const digits = answer.digits.filter((each) => !each.warnings.includes("blank"));
    if (digits.length) {
      this.#list(many ? digits : []);
      this.#select(digits, 0);
    } else {
      this.clear(NONE);
    }
    byId("total").textContent = milliseconds(answer.total_ms);
    byId("reading").textContent = milliseconds(answer.picture_ms);
    byId("queue").textContent = milliseconds(answer.queue_ms);
    byId("compute").textContent = milliseconds(answer.compute_ms);
    byId("batch").textContent = answer.batch_size ?? "–";
    this.announce(sentence(digits), REST_MS);
  }

  #list(digits) {
    byId("boxes").replaceChildren();
    byId("digits").replaceChildren();
    byId("digits").hidden = !digits.length;
    const lines = byLine(digits).map((_, index, { length }) => {
      const label = length > 1 ? `Line ${index + 1}` : null;
      return element("div", { className: "line", role: label && "group", ariaLabel: label });
    });
    byId("digits").append(...lines);
    digits.forEach((each, index) => {
      const label = `${each.digit}, ${percent(each.probabilities[each.digit])}`;
      const button = element("button", { type: "button", ariaLabel: label }, `${each.digit}`);
      button.addEventListener("click", () => this.#select(digits, index));
      lines[each.line].append(button);
      const place = this.#place(each.box);
      if (!place) return;
      const box = element("div", {}, element("span", {}, `${each.digit}`));
      for (const [name, share] of Object.entries(place)) box.style[name] = `${100 * share}%`;
      const fitting = place.top > LABEL ? "above" : place.top + place.height < 1 - LABEL ? "below" : "within";
      box.classList.add(fitting);
      byId("boxes").append(box);
    });
  }

  #select(digits, index) {
    const { digit, probabilities, pixels, warnings } = digits[index];
    byId("digit").textContent = digit;
    const which = digits.length > 1 ? `${digit}: ` : "";
    byId("certainty").textContent = `${which}${percent(probabilities[digit])} certain`;
    this.note(warnings.map(warn).join(" "));
    this.#bars.forEach(({ row, share, number }, each) => {
      row.className = each === digit ? "best" : "";
      share.style.setProperty("--share", probabilities[each]);
      number.textContent = percent(probabilities[each]);
    });
    drawPixels(byId("seen"), pixels);
    for (const parent of ["#digits button", "#boxes > div"])
      document.querySelectorAll(parent).forEach((child, each) => {
        child.classList.toggle("selected", each === index);
        if (child.type === "button") child.ariaPressed = each === index;
      });
  }
}

/** The digits of each line. */
function byLine(digits) {
  const lines = [];
  for (const each of digits) (lines[each.line] ??= []).push(each);
  return lines;
}

function sentence(digits) {
  if (!digits.length) return NONE;
  const words = digits.flatMap((each) => each.warnings.map(warn));
  const [first] = digits;
  const lines = byLine(digits).map((line) => line.map((each) => each.digit).join(" "));
  const answer =
    digits.length > 1
      ? `${digits.length} digits${lines.length > 1 ? ` in ${lines.length} lines` : ""}: ${lines.join(", ")}`
      : `${first.digit}, ${percent(first.probabilities[first.digit])} certain`;
  return [answer, ...new Set(words)].join(". ");
}

function drawPixels(canvas, base64) {
  const image = new ImageData(28, 28);
  [...atob(base64)].forEach((char, i) => image.data.set([...Array(3).fill(char.charCodeAt(0)), 255], 4 * i));
  canvas.getContext("2d").putImageData(image, 0, 0);
}
