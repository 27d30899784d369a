// Puts the page together: what is on the pad is asked for, what is answered is shown, and the server is watched.

import { AnswerView } from "./answer.js";
import { classify, getLoad, getModel } from "./api.js";
import { Latest } from "./latest.js";
import { LoadView } from "./load.js";
import { showModel } from "./model.js";
import { Pad } from "./pad.js";

// Between two questions while the pen moves; and to a server that had too much to do.
const PAUSE_MS = 50;
const BUSY_MS = 1000;

const WATCH_MS = 1000;

const HINTS = {
  empty: "Draw here, or drop or paste a picture",
  unseen: "This browser cannot show the picture",
};

const byId = (id) => document.getElementById(id);

const pad = new Pad(byId("pad"));
const answers = new AnswerView((box) => pad.place(box));
const load = new LoadView(byId("load"));
const questions = new Latest(ask, PAUSE_MS);
let served; // name and version of the model whose card is shown
let away = false;

// Questions

async function ask(signal) {
  const many = byId("many").checked;
  try {
    const answer = await classify(await pad.file(), { many, signal });
    if (signal.aborted) return;
    answers.show(answer, { many });
    if (answer.model && `${answer.model} ${answer.version}` !== served) await describe();
  } catch (error) {
    if (!signal.aborted) await refused(error);
  }
}

async function refused(error) {
  answers.clear("No answer");
  if (error.away) return setAway(error);
  const busy = error.status === 429;
  const words = sentence(error.message) + (busy ? " Trying again." : "");
  answers.note(words);
  answers.announce(words);
  if (!busy) return;
  questions.request();
  await new Promise((resolve) => setTimeout(resolve, BUSY_MS)); // in which nothing else is asked
}

pad.addEventListener("change", () => {
  const { state } = pad;
  const focused = document.activeElement;
  byId("clear").disabled = state === "empty";
  byId("undo").disabled = state !== "drawing";
  byId("hint").textContent = HINTS[state] ?? "";
  byId("stage").dataset.state = state;
  // The focus must not be lost with the button that had it, which some browsers take from it at once.
  if (focused.disabled) byId("pad").focus({ preventScroll: true });
  if (state === "empty") {
    questions.cancel();
    answers.clear();
  } else {
    if (state !== "drawing") answers.clear("Reading the picture…");
    questions.request();
  }
});

pad.addEventListener("pen", ({ detail: down }) => answers.announce(down ? "Pen down" : "Pen up"));

// Pictures

async function open(file) {
  try {
    await file.slice(0, 1).arrayBuffer(); // fails for a folder
  } catch {
    return answers.note(`${file.name} cannot be read; choose a picture file.`);
  }
  questions.cancel();
  await pad.show(file);
}

function openFirst(files) {
  const file = [...files].find((each) => each.type.startsWith("image/")) ?? files[0];
  if (file) open(file);
  return Boolean(file);
}

for (const input of [byId("file"), byId("camera")])
  input.addEventListener("change", () => {
    openFirst(input.files);
    input.value = ""; // so that the same file can be chosen again
  });

document.addEventListener("paste", (event) => {
  if (openFirst(event.clipboardData.files)) event.preventDefault();
});

document.addEventListener("dragover", (event) => {
  event.preventDefault();
  byId("stage").classList.add("target");
});
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) byId("stage").classList.remove("target");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  byId("stage").classList.remove("target");
  openFirst(event.dataTransfer.files);
});

// Tools

byId("clear").addEventListener("click", () => pad.clear());
byId("undo").addEventListener("click", () => pad.undo());
byId("many").addEventListener("change", ({ target }) => {
  document.body.classList.toggle("many", target.checked);
  pad.aspect = target.checked ? 1.5 : 1;
  questions.cancel();
  if (pad.state === "empty") return answers.clear();
  answers.clear("Reading the picture…"); // the old answer is that of another question
  questions.request();
});

// The server

async function watch() {
  if (!document.hidden) {
    try {
      load.add(await getLoad());
      if (away || !served) await recover();
    } catch (error) {
      load.add(null);
      setAway(error);
    }
  }
  setTimeout(watch, WATCH_MS);
}

async function recover() {
  await describe();
  away = false;
  byId("banner").hidden = true;
  if (pad.state !== "empty") questions.request();
}

async function describe() {
  const model = await getModel();
  served = `${model.name} ${model.version}`;
  showModel(byId("model"), model);
  setStatus("ready", `Answered by ${model.name}, version ${model.version}`);
}

function setAway(error) {
  away = true;
  setStatus("away", "No answer");
  byId("banner").textContent = `${sentence(error.message)} This page goes on by itself once it is there again.`;
  byId("banner").hidden = false;
}

function setStatus(state, words) {
  byId("status").dataset.state = state;
  byId("status").textContent = words;
}

function sentence(words) {
  return `${words[0].toUpperCase()}${words.slice(1)}${/[.?!]$/.test(words) ? "" : "."}`;
}

watch();
