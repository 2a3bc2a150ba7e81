// Sends an image to each engine in turn, and draws what each detects. The slider filters what has been received.

import { Webcam } from "/webcam.js";

const LEAST = 0.05; // the score from which detections are asked for: the slider's least
const MOST = 300; // detections of an image
const SHOWN = 1600; // pixels of the longer side of a canvas
const RUNS = 30; // of which the median latency is shown
const STEPS = ["decode", "prepare", "queue", "engine", "select"];
const TOTAL = "round trip";

const byId = (id) => document.getElementById(id);
const threshold = byId("threshold");
let models = [];
let bodyLimit = Infinity;
let shown = null; // the bitmap that every engine has been asked about
let current = 0; // the number of the image that is shown; answers for another come too late

class Failure extends Error {} // its message is for the user

class View {
  // An engine's card: the image with its boxes, the latencies, and the list of detections.
  constructor(model) {
    this.model = model;
    this.runs = [];
    this.card = make("article");
    this.card.append(make("h2", model.name));
    const facts = [model.precision && model.precision.toUpperCase(), model.backend, `${model.size[0]} x ${model.size[1]} pixels`];
    const line = make("p", facts.filter(Boolean).join(", "));
    line.className = "facts";
    this.canvas = make("canvas");
    this.canvas.setAttribute("role", "img");
    this.canvas.hidden = true;
    this.times = make("table");
    this.details = make("details");
    this.details.hidden = true;
    this.details.open = model.task !== "detection";
    this.summary = make("summary");
    this.list = make("table");
    const scroller = make("div");
    scroller.className = "list";
    scroller.append(this.list);
    this.details.append(this.summary, scroller);
    this.card.append(line, this.canvas, this.details, this.times);
    byId("results").append(this.card);
  }

  show(bitmap, found, times) {
    Object.assign(this, { bitmap, found });
    if (times) {
      this.runs = [...this.runs.slice(1 - RUNS), times];
      this.showTimes(times);
    }
    this.showFound();
  }

  clear() {
    this.runs = [];
    this.times.replaceChildren();
  }

  kept() {
    const rows = this.found.detections || this.found.classes;
    return this.found.classes ? rows : rows.filter((each) => each.score >= threshold.valueAsNumber);
  }

  showFound() {
    if (!this.found) return;
    this.details.hidden = false;
    const rows = this.kept();
    const texts = rows.map((each) => `${each.label} ${each.score.toFixed(2)}`);
    const counted = `${rows.length || "no"} detection${rows.length === 1 ? "" : "s"}`;
    this.summary.textContent = this.found.classes ? texts[0] : counted;
    this.canvas.setAttribute("aria-label", `the image with ${texts.slice(0, 10).join(", ") || "no detections"}`);
    this.list.replaceChildren(
      ...rows.map((each) => {
        const box = each.box ? each.box.map((side) => Math.round(side)).join(", ") : "";
        return row([each.label], [each.score.toFixed(3), "number"], ...(each.box ? [[box, "number"]] : []));
      }),
    );
    this.draw(rows);
  }

  draw(rows) {
    this.canvas.hidden = !this.bitmap;
    if (!this.bitmap) return;
    const { width, height } = this.bitmap;
    const scale = Math.min(1, SHOWN / Math.max(width, height));
    this.canvas.width = Math.max(1, Math.round(width * scale));
    this.canvas.height = Math.max(1, Math.round(height * scale));
    const context = this.canvas.getContext("2d");
    context.drawImage(this.bitmap, 0, 0, this.canvas.width, this.canvas.height);
    if (this.found.classes) return;
    const unit = this.canvas.width / Math.max(1, this.canvas.clientWidth); // of the canvas' pixels in one of the page's
    context.font = `600 ${Math.round(13 * unit)}px system-ui, sans-serif`;
    context.textBaseline = "top";
    const drawn = [...rows].reverse().map((each) => ({ // the best on top
      ...each,
      sides: each.box.map((side) => side * scale),
      color: `hsl(${(each.class_id * 137.5) % 360} 90% 65%)`,
    }));
    for (const { sides: [x0, y0, x1, y1], color } of drawn) {
      for (const [style, line] of [["rgb(0 0 0 / 60%)", 4 * unit], [color, 2 * unit]]) {
        context.strokeStyle = style;
        context.lineWidth = line;
        context.strokeRect(x0, y0, x1 - x0, y1 - y0);
      }
    }
    for (const { sides: [x0, y0], color, label, score } of drawn) {
      const text = `${label} ${score.toFixed(2)}`;
      const [wide, high] = [context.measureText(text).width + 8 * unit, 17 * unit];
      const left = Math.max(0, Math.min(x0 - unit, this.canvas.width - wide));
      const top = y0 >= high ? y0 - high : y0;
      context.fillStyle = color;
      context.fillRect(left, top, wide, high);
      context.fillStyle = "#000";
      context.fillText(text, left + 4 * unit, top + 2 * unit);
    }
  }

  showTimes(times) {
    const head = make("tr");
    for (const [text, kind] of [["step", ""], ["ms", "number"], [`median of ${this.runs.length}`, "number"], ["", ""]]) {
      head.append(Object.assign(make("th", text), { className: kind, scope: "col" }));
    }
    const rows = Object.entries(times).map(([step, ms]) => {
      const bar = make("span");
      bar.dataset.ms = ms;
      const cell = Object.assign(make("td"), { className: "bar" });
      cell.append(bar);
      const line = row([step], [ms.toFixed(1), "number"], [median(this.runs.map((run) => run[step])).toFixed(1), "number"]);
      line.append(cell);
      line.className = step === TOTAL ? "total" : "";
      line.dataset.step = step;
      return line;
    });
    this.times.replaceChildren(make("caption", "Latency"), head, ...rows);
    scaleBars();
  }
}

function scaleBars() {
  // One scale for all engines, so that their bars compare.
  const bars = [...document.querySelectorAll("td.bar span")];
  const most = Math.max(...bars.map((bar) => Number(bar.dataset.ms)));
  for (const bar of bars) bar.style.width = `${(100 * bar.dataset.ms) / most}%`;
}

function make(tag, text = "") {
  const element = document.createElement(tag);
  element.textContent = text;
  return element;
}

function row(...cells) {
  const line = make("tr");
  cells.forEach(([text, kind = ""], index) => {
    line.append(Object.assign(make(index ? "td" : "th", text), { className: kind, ...(index ? {} : { scope: "row" }) }));
  });
  return line;
}

function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

function say(text, isError = false) {
  byId("status").textContent = text;
  byId("status").classList.toggle("error", isError);
}

function timesOf(response, roundTrip) {
  // "decode;dur=1.2, engine;dur=20.5" (W3C, Server-Timing)
  const times = {};
  for (const part of (response.headers.get("Server-Timing") || "").split(",")) {
    const [step, duration] = part.trim().split(";dur=");
    if (STEPS.includes(step)) times[step] = Number(duration);
  }
  times[TOTAL] = roundTrip;
  return times;
}

async function ask(model, blob, patient) {
  // NMS keeps a box by better ones only, so filtering by score afterwards is as asking for that threshold.
  const options = model.task === "detection" ? `threshold=${LEAST}&max_detections=${MOST}` : "top=5";
  for (let tries = 0; ; tries += 1) {
    const started = performance.now();
    let response;
    try {
      const headers = { "Content-Type": "application/octet-stream" };
      response = await fetch(`/detect?model=${encodeURIComponent(model.name)}&${options}`, { method: "POST", body: blob, headers });
    } catch {
      throw new Failure("The service does not answer. Does `effedge demo` still run?");
    }
    const content = await response.json().catch(() => ({}));
    if (response.ok) return { found: content, times: timesOf(response, performance.now() - started) };
    if (response.status !== 429 || (patient && tries > 5)) throw new Failure(content.error || `the service answered ${response.status}`);
    await new Promise((done) => setTimeout(done, 1000 * Number(response.headers.get("Retry-After") || 1)));
  }
}

async function detect(blob, bitmap, live = false) {
  // Shows the results of an image of all engines. Returns false if another image was chosen meanwhile.
  if (blob.size > bodyLimit) throw new Failure(`The file has ${(blob.size / 2 ** 20).toFixed(1)} MiB, at most ${bodyLimit / 2 ** 20} are taken.`);
  const number = current;
  for (const view of models) {
    const { found, times } = await ask(view.model, blob, !live);
    if (number !== current) return false;
    view.show(bitmap, found, times);
  }
  if (shown !== bitmap) shown?.close();
  shown = bitmap;
  return true;
}

async function choose(file, name, pressed = null) {
  webcam.stop();
  current += 1;
  const number = current;
  for (const button of byId("samples").children) button.setAttribute("aria-pressed", String(button === pressed));
  say(`${name}: detecting ...`);
  try {
    const blob = typeof file === "string" ? await (await fetch(file)).blob() : file;
    const bitmap = await createImageBitmap(blob).catch(() => null);
    if (number !== current) return;
    if (await detect(blob, bitmap)) say(bitmap ? name : `${name}: this browser cannot show it; its detections are in the lists`);
  } catch (error) {
    if (number !== current) return;
    if (!(error instanceof Failure)) throw error;
    say(`${name}: ${error.message}`, true);
  }
}

const webcam = new Webcam(byId("webcam"), {
  begin: () => {
    current += 1;
    for (const button of byId("samples").children) button.setAttribute("aria-pressed", "false");
    for (const view of models) view.clear();
  },
  frame: (blob, bitmap) => detect(blob, bitmap, true),
  say,
});

threshold.addEventListener("input", () => {
  byId("threshold-value").textContent = threshold.valueAsNumber.toFixed(2);
  for (const view of models) view.showFound();
});
window.addEventListener("resize", () => models.forEach((view) => view.showFound()));
byId("file").addEventListener("change", (event) => {
  const [file] = event.target.files;
  event.target.value = ""; // so that the same file can be chosen again
  if (file) choose(file, file.name);
});
document.addEventListener("dragover", (event) => event.preventDefault());
for (const [name, over] of [["dragenter", true], ["dragleave", false], ["drop", false]]) {
  byId("drop").addEventListener(name, () => byId("drop").classList.toggle("over", over));
}
document.addEventListener("drop", (event) => {
  event.preventDefault();
  const [file] = event.dataTransfer.files;
  if (file) choose(file, file.name);
});
document.addEventListener("paste", (event) => {
  const [file] = event.clipboardData.files;
  if (file) choose(file, "pasted image");
});

async function start() {
  const described = await (await fetch("/demo.json")).json();
  bodyLimit = described.body_bytes;
  models = described.models.map((model) => new View(model));
  if (models.length === 1) models[0].card.classList.add("only");
  byId("engines").textContent = models.length === 1 ? models[0].model.name : `${models.length} engines, in turn`;
  byId("threshold-row").hidden = models.every((view) => view.model.task !== "detection");
  for (const { name, url } of described.samples) {
    const button = Object.assign(make("button"), { type: "button", title: name });
    button.setAttribute("aria-pressed", "false");
    button.append(Object.assign(make("img"), { src: url, alt: name, loading: "lazy" }));
    button.addEventListener("click", () => choose(url, name, button));
    byId("samples").append(button);
  }
  document.documentElement.dataset.ready = "true";
}

start().catch(() => say("The service does not answer. Does `effedge demo` still run?", true));
